package port

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/frame"
)

// TAP is the port of a TAP interface: one read or writev per frame, which
// for super-segments is the fastest way there is.
type TAP struct {
	fd      int
	ifindex int
	pool    *frame.Pool
	stats   Stats
	slot    *frame.Buf
	queue   queue
}

// NewTAP makes the port of a descriptor from OpenTAP. It owns fd from now on,
// also when it fails, and keeps one Large buffer of pool for reading.
func NewTAP(fd int, pool *frame.Pool) (*TAP, error) {
	t := &TAP{fd: fd, pool: pool}
	name, err := tapName(fd)
	if err == nil {
		t.ifindex, err = tapIndex(name)
	}
	if err == nil {
		if t.slot = pool.Get(frame.Large); t.slot == nil {
			err = errPool
		}
	}
	if err != nil {
		t.Close()
		return nil, fmt.Errorf("host port: %w", err)
	}
	return t, nil
}

func tapIndex(name string) (int, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

// FD is the TAP's descriptor.
func (t *TAP) FD() int { return t.fd }

// Receive implements Port.
func (t *TAP) Receive(into []Received) (int, error) {
	got, octets := 0, 0
	for got < len(into) && octets < readOctets {
		n, e := read(t.fd, t.slot.B)
		if e == 0 {
			octets += n
			if r, ok := t.frame(n); ok {
				into[got] = r
				got++
			}
			continue
		}
		switch sort(e) {
		case again:
		case blocked:
			return got, nil
		case gone:
			return got, goneError("read", e)
		default:
			return got, fmt.Errorf("read: %w", e)
		}
	}
	return got, nil
}

// frame makes a Received of the n octets in the slot. A full slot means that
// the frame was cut off: tun says nothing else about that.
func (t *TAP) frame(n int) (Received, bool) {
	if n == len(t.slot.B) {
		t.stats.RxTooLarge++
		return Received{}, false
	}
	r, ok := take(t.pool, &t.slot, n)
	if !ok {
		t.stats.RxNoBuffer++
		return r, false
	}
	t.stats.received(n)
	return r, true
}

// Queue implements Port. A frame past the limits of one frame is counted in
// TxErrors and dropped.
func (t *TAP) Queue(header []byte, pieces []frame.Span) bool {
	if !fits(header, pieces) {
		t.stats.TxErrors++
		return true
	}
	return t.queue.add(header, pieces)
}

// Flush implements Port.
func (t *TAP) Flush() (bool, error) {
	for t.queue.pending() > 0 {
		i := t.queue.first
		_, e := writev(t.fd, &t.queue.iovecs[i][0], t.queue.frames[i].iovecs)
		if e == 0 {
			t.stats.TxFrames++
			t.stats.TxBytes += t.queue.octets(1)
			t.queue.pop(1)
			continue
		}
		switch sort(e) {
		case again:
		case blocked:
			t.stats.TxBlocked++
			return false, nil
		case gone:
			t.queue.pop(t.queue.pending())
			return true, goneError("writev", e)
		default:
			t.stats.TxErrors++
			t.queue.pop(1)
		}
	}
	return true, nil
}

// Pending implements Port.
func (t *TAP) Pending() int { return t.queue.pending() }

// Counts is Stats without what only the kernel knows, which costs a dialogue
// with it.
func (t *TAP) Counts() Stats {
	s := t.stats
	s.RxDropped = 0
	return s
}

// Stats implements Port. What the kernel could not put into the TAP's ring
// counts as dropped by the interface on transmission.
func (t *TAP) Stats() Stats {
	if l, err := netlink.LinkByIndex(t.ifindex); err == nil && l.Attrs().Statistics != nil {
		t.stats.RxDropped = l.Attrs().Statistics.TxDropped
	}
	return t.stats
}

// Close implements Port.
func (t *TAP) Close() error {
	t.queue.pop(t.queue.pending())
	if t.slot != nil {
		t.slot.Release()
		t.slot = nil
	}
	return unix.Close(t.fd)
}
