package driver

import (
	"context"
	"log/slog"
	"sync"

	"toehold/internal/bpf"
)

// heirs are the sockets of connections that have come home and are to have the
// congestion windows that the device had, with what its congestion control knew
// beside, and of those that have left and are to have wide ones (leash.go). To
// set them costs a walk over all connections, and one over all open files, so
// it happens beside the moves, for all that have come together. Connections work without: where the kernel does not support it,
// they go on with windows that the kernel made up.
type heirs struct {
	mu      sync.Mutex
	list    []bpf.Window
	waiting []chan struct{} // closed once the list as it is now has been done
	closed  bool

	wake  chan struct{} // has room for one
	ended chan struct{}
}

func newHeirs() *heirs {
	return &heirs{wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// mostHeirs bounds the list. It fills when connections come home faster than
// one walk after the other takes 4096 along.
const mostHeirs = 1 << 16

// add has windows set soon. It does not block.
func (h *heirs) add(list []bpf.Window) {
	if len(list) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, list[:min(len(list), mostHeirs-len(h.list))]...)
	h.nudge()
}

func (h *heirs) nudge() {
	select {
	case h.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// waitingWindows is how many windows have not been set yet.
func (h *heirs) waitingWindows() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.list)
}

// settle waits until everything that was added has been done, or ctx ends.
func (h *heirs) settle(ctx context.Context) {
	done := make(chan struct{})
	h.mu.Lock()
	h.waiting = append(h.waiting, done)
	h.nudge()
	h.mu.Unlock()
	select {
	case <-done:
	case <-h.ended:
	case <-ctx.Done():
	}
}

// end has what was added done, and ends run.
func (h *heirs) end() {
	h.mu.Lock()
	h.closed = true
	h.nudge()
	h.mu.Unlock()
	<-h.ended
}

// run sets windows until end.
func (h *heirs) run(log *slog.Logger) {
	defer close(h.ended)
	windows, err := bpf.LoadWindows()
	if err != nil {
		log.Warn("connections will not bring congestion windows home", "err", err)
	} else {
		defer windows.Close()
	}
	for range h.wake {
		list, waiting, closed := h.take()
		if windows != nil && len(list) > 0 {
			bequeath(log, windows, latest(list))
		}
		for _, w := range waiting {
			close(w)
		}
		if closed {
			return
		}
	}
}

func (h *heirs) take() (list []bpf.Window, waiting []chan struct{}, closed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list, waiting = h.list, h.waiting
	h.list, h.waiting = nil, nil
	return list, waiting, h.closed
}
