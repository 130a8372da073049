package device

import (
	"slices"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/shm"
	"toehold/internal/wire"
)

// What the driver writes anew of the kernel-level state is followed as soon as
// there is anything to do for the connection.
func TestFollowsTheBlock(t *testing.T) {
	w := plainWorld(t, true, true)
	id := w.ownNow()
	c, part := w.device.find(id), &w.blocks[id.Index()].Kernel
	write := func(f func()) {
		shm.Publish(&part.Sequence, f)
		w.device.touch(c)
		w.runFor(10 * time.Millisecond)
	}
	write(func() { copy(part.Control[:], "bbr") })
	if m := nameOf(w.blocks[id.Index()].Hardware.CongestionControl); c.control != "bbr" || m != "bbr" {
		t.Errorf("it uses %s and says %s", c.control, m)
	}
	hops := []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8}
	write(func() { copy(part.NextHop[:], hops); copy(part.Source[:], hops[6:]) })
	if got := linkOf(c); !slices.Equal(got[:12], hops) {
		t.Errorf("it sends to % x", got)
	}
	write(func() { part.State.MSS = 300 })
	if m := c.metrics().MSS; m != 300 {
		t.Errorf("segments are of %d octets", m)
	}
	write(func() { part.State.MSS = 0; copy(part.Control[:], "vegas") }) // not sound
	if _, ok := w.answer(abi.Notice); ok || c.place != abi.PlaceOwned {
		t.Error("it believed nonsense")
	}
	write(func() { part.State.MSS = 300 })
	if a, ok := w.answer(abi.Notice); !ok || a.Reason != abi.CongestionControl || c.place == abi.PlaceOwned {
		t.Errorf("what it does not have gives %v, %+v, place %d", ok, a, c.place)
	}
}

// linkOf is the link header that c's frames to the peer get.
func linkOf(c *conn) []byte {
	var h [wire.MaxHeaders]byte
	t := c.toPeer.template
	t.Build(h[:], new(wire.Out))
	return h[wire.VNetLen : wire.VNetLen+etherLen]
}

// S's own frames know better than the block, until that changes.
func TestFramesKnowBetterThanTheBlock(t *testing.T) {
	w := plainWorld(t, true, true)
	id := w.ownNow()
	c, part := w.device.find(id), &w.blocks[id.Index()].Kernel
	w.fill(1000, 1000)
	w.runFor(time.Second)
	before := linkOf(c)
	shm.Publish(&part.Sequence, func() { part.State.SndCwnd++ })
	w.device.touch(c)
	w.runFor(10 * time.Millisecond)
	if got := linkOf(c); !slices.Equal(got, before) {
		t.Errorf("it sends to % x, not % x", got, before)
	}
}
