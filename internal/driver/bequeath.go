package driver

import (
	"errors"
	"log/slog"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/kernel"
)

// latest leaves of several windows of one socket the last one.
func latest(list []bpf.Window) []bpf.Window {
	last := make(map[flow.Key]int, len(list))
	for i := range list {
		last[list[i].Key] = i
	}
	keep := list[:0]
	for i := range list {
		if last[list[i].Key] == i {
			keep = append(keep, list[i])
		}
	}
	return keep
}

// bequeath sets windows: by a descriptor of the socket where there is private
// state to give, and by the walk over all connections where there is none, or
// no descriptor to be had.
func bequeath(log *slog.Logger, windows *bpf.Windows, list []bpf.Window) {
	owners, err := ownersOf(list)
	if err != nil {
		log.Warn("the private state of congestion controls stays behind", "err", err)
	}
	var rest []bpf.Window
	for i := range list {
		w := &list[i]
		if err := give(windows, w, owners[w.Inode]); err != nil {
			log.Debug("the private state of a congestion control stays behind", "flow", w.Key.ID(), "err", err)
		} else if w.Private != nil {
			continue
		}
		rest = append(rest, *w)
	}
	if len(rest) == 0 {
		return
	}
	if set, err := windows.Set(rest); err != nil {
		log.Warn("congestion windows not set", "connections", len(rest), "set", set, "err", err)
	}
}

// ownersOf finds who has the sockets that private state is for, by inode.
func ownersOf(list []bpf.Window) (map[uint64]kernel.Owner, error) {
	var socks []kernel.Socket
	for i := range list {
		if list[i].Private != nil {
			socks = append(socks, kernel.Socket{State: abi.KernelState{Inode: list[i].Inode}})
		}
	}
	if len(socks) == 0 {
		return nil, nil
	}
	err := kernel.FindOwners(socks)
	owners := make(map[uint64]kernel.Owner, len(socks))
	for i := range socks {
		owners[socks[i].State.Inode] = socks[i].Owner
	}
	return owners, err
}

var errNoOwner = errors.New("no process has the socket")

// give gives a socket its window and private state, if it has any.
func give(windows *bpf.Windows, w *bpf.Window, o kernel.Owner) error {
	switch {
	case w.Private == nil:
		return nil
	case o.PID == 0:
		return errNoOwner
	}
	return kernel.Borrow(o, w.Inode, func(fd int) error { return windows.Give(fd, w) })
}
