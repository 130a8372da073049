package tcp_test

import (
	"errors"
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/tcp"
	"toehold/internal/tcptest"
	"toehold/internal/wire"
)

// relayRun is one connection through a relay, which is moved now and then and
// may die; what the two ends read must be what was written.
func relayRun(w *tcptest.World, seed uint64) ([]*tcptest.Box, error) {
	r := w.Rand
	a := w.NewEnd("peer", octets(seed, r.IntN(200000)), octets(seed+1, r.IntN(80000)*r.IntN(3)))
	b := w.NewEnd("program", a.Want, a.Source)
	inner := tcptest.Path{Delay: time.Duration(r.IntN(200)) * time.Microsecond, Whole: true}
	if r.IntN(2) == 0 {
		inner = weather(r)
	}
	relay := tcptest.NewRelay(w, a, b, weather(r), weather(r), inner)
	sa, sb := shape(r).Snapshots(w.Now)
	oa, ob := wishes(r), wishes(r)
	oa.CC, ob.CC = controls[r.IntN(len(controls))], controls[r.IntN(len(controls))] // none is the host engine's
	boxes := []*tcptest.Box{a.Box, b.Box, relay.Wire, relay.Host}
	if err := errors.Join(relay.Restore(sa, sb, w), a.Restore(w.Now, sa, oa), b.Restore(w.Now, sb, ob)); err != nil {
		return boxes, err
	}
	habits(w, a)
	habits(w, b)
	narrows(w, a.Box)
	narrows(w, relay.Wire)
	a.Pump()
	b.Pump()
	var moved error
	for range r.IntN(4) {
		w.After(time.Duration(r.IntN(2000))*time.Millisecond, func() {
			if !relay.Dead {
				moved = errors.Join(moved, relay.Move())
			}
		})
	}
	if r.IntN(3) == 0 {
		w.After(time.Duration(r.IntN(4000))*time.Millisecond, relay.Die)
	}
	return boxes, finish(w, a, b, func() error { return errors.Join(relay.Err, moved) })
}

func TestLawThroughRelay(t *testing.T) { law(t, relayRun) }

// calm is a relay on paths without loss, its ends with nothing to write.
func calm(t *testing.T, source []byte) (w *tcptest.World, peer, program *tcptest.End, relay *tcptest.Relay) {
	w = tcptest.NewWorld(1)
	peer = w.NewEnd("peer", source, nil)
	program = w.NewEnd("program", nil, source)
	peer.Stay, program.Stay = true, true
	outer := tcptest.Path{Delay: 10 * time.Millisecond}
	relay = tcptest.NewRelay(w, peer, program, outer, outer, tcptest.Path{Delay: 20 * time.Microsecond, Whole: true})
	sa, sb := tcptest.Shape{MSS: 1448, SACK: true, TS: true, WindowA: 60000, WindowB: 60000}.Snapshots(w.Now)
	if err := errors.Join(relay.Restore(sa, sb, w), peer.Restore(w.Now, sa, tcp.Options{}), program.Restore(w.Now, sb, tcp.Options{RcvBuf: 20000})); err != nil {
		t.Fatal(err)
	}
	return w, peer, program, relay
}

func TestResetGoesThrough(t *testing.T) {
	for _, fromPeer := range []bool{true, false} {
		w, peer, program, _ := calm(t, octets(1, 5000))
		peer.Pump()
		w.RunUntil(w.Now.Add(time.Second))
		from, to := peer, program
		if !fromPeer {
			from, to = program, peer
		}
		from.Abort()
		from.Pump()
		w.RunUntil(w.Now.Add(time.Second))
		if to.Events&tcp.Reset == 0 {
			t.Errorf("the reset of %s did not arrive", from.Name)
		}
		if program.Read != 5000 {
			t.Errorf("%d octets arrived before", program.Read)
		}
	}
}

// TestClosedWindowGoesThrough: a program that does not read stops the peer, by
// the peer's own sight of its window, and starts it again.
func TestClosedWindowGoesThrough(t *testing.T) {
	w, peer, program, relay := calm(t, octets(1, 100000))
	program.Slow = true
	peer.Pump()
	w.RunUntil(w.Now.Add(10 * time.Second))
	if n := peer.SndNxt().Sub(relay.Wire.RcvNxt()); n != 0 {
		t.Errorf("%d octets are missing", n)
	}
	if held := relay.Host.SndEnd().Sub(relay.Host.SndUna()); held != 0 {
		t.Errorf("the relay holds %d octets for a program that does not read", held)
	}
	if peer.SndEdge() != peer.SndNxt() {
		t.Errorf("the peer sees a window of %d", peer.SndEdge().Sub(peer.SndNxt()))
	}
	for program.Read < 100000 && program.Err == nil && w.Now < 1<<60 {
		program.ReadSome(7000)
		program.Pump()
		w.RunUntil(w.Now.Add(50 * time.Millisecond))
	}
	if program.Err != nil {
		t.Error(program.Err)
	}
}

// TestProbeWithAnOctetGoesThrough: a peer that probes a closed window with the
// octet that comes next, as 4.4BSD does, learns that the program's window
// opened though the program's word of it was lost.
func TestProbeWithAnOctetGoesThrough(t *testing.T) {
	w, peer, program, relay := calm(t, octets(1, 100000))
	program.Slow = true
	peer.Pump()
	w.RunUntil(w.Now.Add(10 * time.Second))
	peer.Out.Loss = 1 // its own probes, which have no octet
	program.Out.Loss = 1
	program.ReadSome(55000)
	program.Pump()
	w.RunUntil(w.Now.Add(5 * time.Second))
	program.Out.Loss = 0
	if peer.SndEdge() != peer.SndNxt() {
		t.Fatalf("the window is open already: %d", peer.SndEdge().Sub(peer.SndNxt()))
	}
	b := relay.Wire.Pool.Get(1)
	ev := relay.Wire.Accept(&wire.Segment{Seq: peer.SndNxt(), Ack: peer.RcvNxt(), Flags: wire.ACK, Window: 60000, Payload: frame.Span{Buf: b, Len: 1}})
	b.Release()
	w.RunUntil(w.Now.Add(50 * time.Millisecond))
	if ev&tcp.Probed == 0 || !peer.SndNxt().Less(peer.SndEdge()) {
		t.Errorf("events %b; the peer sees a window of %d", ev, peer.SndEdge().Sub(peer.SndNxt()))
	}
}

// TestTimestampsGoThrough: the peer hears the program's clock and the program
// the peer's, neither ever ahead of it.
func TestTimestampsGoThrough(t *testing.T) {
	w, peer, program, relay := calm(t, octets(1, 500000))
	ahead := func(name string, clock func() uint32) func(*wire.Segment) {
		return func(s *wire.Segment) {
			if int32(s.TSVal-clock()) > 0 {
				t.Errorf("%s at %v says %d, its clock %d", name, w.Now, s.TSVal, clock())
			}
		}
	}
	relay.Host.Out.Watch = ahead("the host engine", func() uint32 { return uint32(w.Now.Milliseconds()) + tcptest.ClockA })
	relay.Wire.Out.Watch = ahead("the wire engine", func() uint32 { return uint32(w.Now.Milliseconds()) + tcptest.ClockB })
	peer.Pump()
	w.RunUntil(w.Now.Add(10 * time.Second))
	if program.Read != 500000 {
		t.Errorf("%d octets", program.Read)
	}
}
