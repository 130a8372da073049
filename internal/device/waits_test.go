package device

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/wire"
)

// left is a world whose program has sent and closed, and whose peer does not read. Some
// was in C, some in S's own queue; the device has got all of it, and S's FIN.
func left(t *testing.T) (*world, abi.HWID) {
	t.Helper()
	w, id := divertNow(t)
	w.peer.stalled = true
	for w.conn().host.Waiting(w.device.spans[:1]) == 0 || len(w.tie.toC) == 0 {
		w.say(20000)
		w.runFor(20 * time.Millisecond)
	}
	w.program.closing = true
	w.program.run()
	w.tie.block.Channel.Flags = abi.ChannelClosed
	w.until(time.Minute, "S's FIN", func() bool { return w.conn().host.PeerFINReceived() })
	return w, id
}

// say has the program send n octets more.
func (w *world) say(n int) {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.r.Uint32())
	}
	w.program.toSend, w.peer.want = append(w.program.toSend, b...), append(w.peer.want, b...)
	w.program.run()
}

// vanish ends S's TCP without a word.
func (w *world) vanish() {
	w.program.conn.Close()
	w.program.gone = true
}

// S may give up, or end as Linux ends what nobody has open, long before a peer that does
// not read has all that the program sent: it gets the rest, and the end.
func TestSVanishes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(w *world)
	}{
		{"S is there", func(w *world) {}},
		{"S is gone", (*world).vanish},
		{"S is gone, and the device has seen it", func(w *world) { w.vanish(); w.runFor(2 * attendEvery) }},
		{"S is gone once the peer has all", func(w *world) {
			w.peer.stalled = false
			w.peer.run()
			w.until(time.Minute, "FIN-WAIT-2", func() bool { return w.conn().wire.FINAcked() })
			w.vanish()
		}},
		{"S is gone, and its name has a new socket", func(w *world) {
			w.vanish()
			w.runFor(2 * attendEvery)
			w.fromS(wire.SYN)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, id := left(t)
			tt.spoil(w)
			w.peer.stalled = false
			w.peer.run()
			w.until(time.Minute, "all octets and the FIN", func() bool {
				return len(w.peer.got) == len(w.peer.want) && w.peer.conn.PeerFINReceived()
			})
			w.peer.closing = true
			w.peer.run()
			w.until(time.Minute, "the end", func() bool { return w.peer.conn.FINAcked() })
			w.runFor(2 * lastAck)
			w.told(abi.Notice, abi.Closed)
			if w.peer.reset {
				t.Error("the peer was reset")
			}
			w.command(abi.Release, id)
			w.good(abi.Released)
			if w.device.pool.Used() != 0 {
				t.Errorf("%d octets of buffers in use", w.device.pool.Used())
			}
		})
	}
}

// What ends a connection whose S is there ends one whose S has said FIN.
func TestResetAfterFIN(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reset func(w *world)
	}{
		{"the program resets", func(w *world) { w.fromS(wire.RST | wire.ACK) }},
		{"it has left octets unread", func(w *world) {
			w.tie.block.Channel.Flags |= abi.ChannelLeftUnread
			w.vanish()
			w.program.refuse()
		}},
		{"the peer sends what nobody can read", func(w *world) {
			w.vanish()
			w.program.refuse()
			w.tie.fails = unix.EACCES
			w.peer.toSend = make([]byte, 1000)
			w.peer.run()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, _ := left(t)
			tt.reset(w)
			w.until(time.Minute, "an RST", func() bool { return w.peer.reset })
			w.told(abi.Notice, abi.ResetByProgram)
		})
	}
}

// A peer that takes nothing any more is given up, as it is by Linux.
func TestOrphanIsGivenUp(t *testing.T) {
	w, _ := left(t)
	w.vanish()
	start := w.now
	w.until(time.Hour, "an RST", func() bool { return w.peer.reset })
	if took := w.now.Sub(start); took < orphanFor || took > orphanFor+2*attendEvery {
		t.Errorf("given up after %v", took)
	}
	w.told(abi.Notice, abi.ResetByProgram)
}

// One that never closes ends without a word.
func TestOrphanInFinWait2(t *testing.T) {
	w, _ := left(t)
	w.peer.stalled = false
	w.peer.run()
	w.until(time.Minute, "FIN-WAIT-2", func() bool { return w.conn().wire.FINAcked() })
	w.runFor(10 * orphanFor)
	if a, ok := w.answer(abi.Notice); ok {
		t.Fatalf("with S there: %v", a.Reason)
	}
	w.vanish()
	start := w.now
	var a abi.Answer
	w.until(time.Hour, "a notice", func() (ok bool) { a, ok = w.answer(abi.Notice); return ok })
	if took := w.now.Sub(start); a.Reason != abi.Closed || w.peer.reset || took < orphanFor || took > orphanFor+2*attendEvery {
		t.Errorf("%v after %v, the peer was reset: %v", a.Reason, took, w.peer.reset)
	}
}

// Nothing is there while S is rebuilt: that such a segment says so means nothing.
func TestNobodyThereWhileParted(t *testing.T) {
	w, id := divertNow(t)
	w.command(abi.Part, id)
	w.good(abi.Parted)
	w.program.refuse()
	w.turnDevice()
	w.rebuild(id)
	w.resume(id)
	w.good(abi.Resumed)
	w.fill(100000, 100000)
	w.until(time.Minute, "octets", func() bool { return len(w.program.got) == 100000 && len(w.peer.got) == 100000 })
}

// S that waits long for what it has sent past the channel, or for its FIN, is shown a
// closed window, and all goes on when the peer does.
func TestSWaitsLong(t *testing.T) {
	for _, closing := range []bool{false, true} {
		w, _ := divertNow(t)
		w.peer.stalled = true
		for w.conn().host.Waiting(w.device.spans[:1]) == 0 || len(w.tie.toC) == 0 {
			w.say(10000)
			w.runFor(20 * time.Millisecond)
		}
		w.program.closing = closing
		w.runFor(2 * shutAfter)
		s := &w.program.conn
		if s.SndUna() == s.SndNxt() || s.SndEdge() != s.SndUna() {
			t.Errorf("closing %v: S has %d octets in flight and a window of %d", closing, s.SndNxt().Sub(s.SndUna()), s.SndEdge().Sub(s.SndUna()))
		}
		w.runFor(10 * time.Minute)
		w.peer.stalled = false
		w.peer.run()
		w.until(time.Minute, "the rest", func() bool { return len(w.peer.got) == len(w.peer.want) })
		if closing {
			w.until(time.Minute, "the FIN", w.peer.conn.PeerFINReceived)
			continue
		}
		w.say(100000)
		w.until(time.Minute, "what comes after", func() bool { return len(w.peer.got) == len(w.peer.want) })
		if s.SndEdge().Sub(s.SndUna()) < minGrant {
			t.Errorf("S has a window of %d", s.SndEdge().Sub(s.SndUna()))
		}
	}
}
