package device

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"toehold/internal/abi"
)

// To a next hop that does not answer nothing is sent, by no connection, until
// it answers again; then all goes at once.
func TestDeadHopStopsAndGoesOn(t *testing.T) {
	w := plainWorld(t, true, true)
	id := w.ownNow()
	c := w.device.find(id)
	w.fill(1000, 0)
	w.runFor(time.Second)
	at := linkOf(c)
	atomic.StoreUint64(&w.control.DeadHops[3], abi.DeadHop([6]byte(at)))
	w.device.Turn(w.now)
	before := c.traffic().SegsSent
	c.wire.Probe() // it would send at once
	w.device.touch(c)
	w.runFor(time.Minute)
	if n := c.traffic().SegsSent - before; n != 0 {
		t.Errorf("%d segments were sent to nobody", n)
	}
	atomic.StoreUint64(&w.control.DeadHops[3], abi.DeadHop([6]byte{2, 0, 0, 0, 0, 99})) // somebody else
	w.runFor(time.Millisecond)
	if n := c.traffic().SegsSent - before; n == 0 {
		t.Error("nothing was sent when it answered again")
	}
}

// A frame of S shows that the next hop answers, whatever was said before.
func TestFrameOfSShowsThatAHopAnswers(t *testing.T) {
	w := plainWorld(t, true, true)
	id := w.ownNow()
	c := w.device.find(id)
	w.fill(10, 0)
	w.runFor(time.Second)
	atomic.StoreUint64(&w.control.DeadHops[0], abi.DeadHop([6]byte(linkOf(c))))
	w.runFor(time.Millisecond)
	if !w.device.stopped(c) {
		t.Fatal("it is not stopped")
	}
	w.peer.got, w.program.got = nil, nil
	w.fill(1000, 0)
	w.runFor(time.Second)
	if !bytes.Equal(w.peer.got, w.peer.want) || w.device.stopped(c) {
		t.Errorf("the peer has %d of %d octets", len(w.peer.got), len(w.peer.want))
	}
}
