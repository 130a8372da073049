package driver

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"toehold/internal/bpf"
	"toehold/internal/handover"
	"toehold/internal/tcb"
)

// Whoever waits goes on when what was added is done, when all ends, and when
// it is not to wait any longer.
func TestHeirs(t *testing.T) {
	h := newHeirs()
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	h.settle(late) // nobody does anything yet
	h.add([]bpf.Window{{Key: numbered(1).Key(), Cwnd: 7, Ssthresh: 5}})
	go h.run(slog.New(slog.DiscardHandler))
	h.settle(t.Context())
	if list, waiting, _ := h.take(); len(list) != 0 || len(waiting) != 0 {
		t.Errorf("%d windows, %d waiting are left", len(list), len(waiting))
	}
	h.add([]bpf.Window{{Key: numbered(2).Key(), Cwnd: 7, Ssthresh: 5}})
	h.end()
	if list, _, _ := h.take(); len(list) != 0 {
		t.Errorf("%d windows were left at the end", len(list))
	}
	h.settle(t.Context())
}

func TestHeirsAreBounded(t *testing.T) {
	h := newHeirs()
	for range 3 {
		h.add(make([]bpf.Window, mostHeirs/2+1))
	}
	if len(h.list) != mostHeirs {
		t.Errorf("%d in the list, at most %d may be", len(h.list), mostHeirs)
	}
}

// A device that died while it wrote has left nothing that can be read. What was
// made wide is not left wide for that.
func TestWideWindowsDoNotOutliveTheDevice(t *testing.T) {
	u := &uplink{heirs: newHeirs()}
	wide, own := numbered(1).Key(), numbered(2).Key()
	u.Inherit([]*handover.Conn{{Key: wide, Leash: 4096}, {Key: own}})
	want := bpf.Window{Key: wide, Cwnd: 10, Ssthresh: tcb.NoThreshold}
	if list, _, _ := u.heirs.take(); len(list) != 1 || list[0] != want {
		t.Errorf("windows to set: %v, want %v", list, want)
	}
	c := &handover.Conn{Key: wide, Leash: 4096} // one that would compute its window from a path that there is not
	copy(c.State.CongestionControl[:], "bbr")
	u.Inherit([]*handover.Conn{c})
	list, _, _ := u.heirs.take()
	if len(list) != 1 || list[0].Cwnd != 10 || list[0].Private == nil || *list[0].Private != (bpf.Private{Control: c.State.CongestionControl}) {
		t.Errorf("windows to set: %+v", list)
	}
}
