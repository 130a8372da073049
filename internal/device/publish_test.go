package device

import (
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// The block has the private state of the engine's congestion control: soon
// after each reduction, the latest once the connection is passed again, and none
// of a connection that had the slot before.
func TestPrivateStateIsPublished(t *testing.T) {
	w := plainWorld(t, true, true)
	id := w.ownNow()
	w.fill(32<<20, 0)
	w.faults.lose = 0.02
	c, h := w.device.find(id), &w.blocks[id.Index()].Hardware
	var s tcb.Snapshot
	for n := 0; n < 200_000 && len(w.peer.got) < 4<<20; n++ {
		w.step()
		for w.turnDevice() {
		}
		c.wire.Congestion(w.now, &s)
		if at := mono.Time(h.PrivateAt); at == 0 || h.Ssthresh < tcb.NoThreshold && h.Cubic.LastMaxCwnd != whole(s.CCState.Cubic.WMax) {
			t.Fatalf("at %v: W_max %d published at %v, the engine has %f", w.now, h.Cubic.LastMaxCwnd, at, s.CCState.Cubic.WMax)
		}
	}
	if h.Cubic.LastMaxCwnd == 0 || len(w.peer.got) < 4<<20 {
		t.Fatalf("%d octets, W_max %d", len(w.peer.got), h.Cubic.LastMaxCwnd)
	}
	w.faults.lose = 0
	w.command(abi.Pass, id)
	for w.turnDevice() {
	}
	if h.PrivateAt != uint64(c.left.at) || c.left.at == 0 || h.Cubic != cubicOf(&c.private.Cubic) {
		t.Errorf("of %v, %+v, want of %v, %+v", h.PrivateAt, h.Cubic, c.left.at, cubicOf(&c.private.Cubic))
	}
	w.steered = false
	w.command(abi.Release, id)
	w.runFor(10 * time.Millisecond)
	w.admit()
	w.steered = true
	w.runFor(10 * time.Millisecond)
	if len(w.peer.got) == 32<<20 {
		t.Error("all has arrived by now")
	}
	if h.Place != abi.PlacePassing || h.PrivateAt != 0 {
		t.Errorf("place %d, private state of %v", h.Place, h.PrivateAt)
	}
}
