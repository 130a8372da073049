package device

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/shm"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// divertNow is a world whose connection is bypassed.
func divertNow(t *testing.T) (*world, abi.HWID) {
	t.Helper()
	w := newTiedWorld(t, 1, faults{delay: time.Millisecond})
	for seed := uint64(2); w.l3; seed++ { // for frames that are made here
		w = newTiedWorld(t, seed, faults{delay: time.Millisecond})
	}
	id := w.ownNow()
	w.join(id)
	w.good(abi.Joined)
	w.tie.block.Channel.Open = 1
	w.command(abi.Divert, id)
	w.good(abi.Diverted)
	return w, id
}

// good waits for an answer, which is to be of success.
func (w *world) good(kind abi.Type) {
	w.t.Helper()
	w.told(kind, abi.None)
}

func (w *world) told(kind abi.Type, why abi.Reason) {
	w.t.Helper()
	for range 100 {
		if a, ok := w.answer(kind); ok {
			if a.Reason != why {
				w.t.Fatalf("answer %d: %v, want %v", kind, a.Reason, why)
			}
			return
		}
		w.step()
	}
	w.t.Fatalf("no answer %d", kind)
}

// until steps until something is so, for no longer than d.
func (w *world) until(d time.Duration, what string, so func() bool) {
	w.t.Helper()
	for end := w.now.Add(d); !so(); w.step() {
		if w.now > end {
			w.t.Fatalf("not within %v: %s: %v", d, what, w)
		}
	}
}

func (w *world) conn() *conn { return w.device.slots[0].conn }

// Steps that are out of turn are refused and change nothing.
func TestStepsOutOfTurn(t *testing.T) {
	w := newTiedWorld(t, 4, faults{delay: time.Millisecond})
	id := w.ownNow()
	refused := func(command, answer abi.Type, why abi.Reason) {
		t.Helper()
		w.command(command, id)
		w.told(answer, why)
	}
	refused(abi.Divert, abi.Diverted, abi.Moving)
	refused(abi.Part, abi.Parted, abi.InternalError)
	refused(abi.Resume, abi.Resumed, abi.InternalError)
	w.join(id)
	w.good(abi.Joined)
	refused(abi.Part, abi.Parted, abi.InternalError)
	refused(abi.Pass, abi.Passing, abi.InternalError)
	first := w.tie
	w.join(id)
	w.told(abi.Joined, abi.Moving)
	if w.tie.closed != 1 || first.closed != 0 {
		t.Errorf("the second channel was closed %d times, the first %d", w.tie.closed, first.closed)
	}
	w.tie = first
	w.tie.block.Channel.Open = 1
	w.command(abi.Divert, id)
	w.good(abi.Diverted)
	refused(abi.Pass, abi.Passing, abi.InternalError)
	refused(abi.Release, abi.Released, abi.InternalError)
	refused(abi.Resume, abi.Resumed, abi.InternalError)
	w.fill(300000, 300000)
	w.until(time.Minute, "octets", func() bool { return len(w.program.got) == 300000 && len(w.peer.got) == 300000 })
	w.command(abi.Part, id)
	w.good(abi.Parted)
	w.blocks[0].Kernel.State.RcvNxt++ // S is not as it has to be
	refused(abi.Resume, abi.Resumed, abi.NotRebuilt)
	refused(abi.Pass, abi.Passing, abi.InternalError)
	w.rebuild(id)
	w.resume(id)
	w.good(abi.Resumed)
	if first.closed != 1 || w.blocks[0].Ledger.HWID != 0 {
		t.Errorf("after the way home the channel was closed %d times, the ledger is of %v", first.closed, w.blocks[0].Ledger.HWID)
	}
}

// S has got something without the device: the way into bypass is undone, the device
// passes, and owns again as the driver asks it to.
func TestStrayedBeforeTheDivert(t *testing.T) {
	w := newTiedWorld(t, 4, faults{delay: time.Millisecond})
	id := w.ownNow()
	w.ownIt(id)
	w.good(abi.Owned) // it does already
	w.join(id)
	var joined abi.Answer
	w.until(time.Minute, "Joined", func() (ok bool) { joined, ok = w.answer(abi.Joined); return ok })
	var s tcb.Snapshot
	if w.state(&s); joined.Reason != abi.None || joined.Bytes != uint64(s.RcvNxt) {
		t.Errorf("joined %v, S is to receive %d next; it is %d", joined.Reason, joined.Bytes, s.RcvNxt)
	}
	w.fill(100000, 100000)
	w.runFor(5 * time.Millisecond)
	c := w.conn()
	w.device.ask(w.now, c, abi.OutOfStep)
	w.told(abi.Notice, abi.OutOfStep)
	w.command(abi.Resume, id)
	if w.good(abi.Resumed); w.tie.closed != 1 || c.by != nil || c.reowned != 1 {
		t.Errorf("the channel was closed %d times, %+v, passed again %d times", w.tie.closed, c.by, c.reowned)
	}
	w.ownIt(id)
	w.until(time.Minute, "an answer to Own", func() bool { _, ok := w.answer(abi.Owned); return ok })
	if c.place != abi.PlaceOwned {
		t.Errorf("it is at %v", c.place)
	}
	w.until(time.Minute, "octets", func() bool { return len(w.program.got) == 100000 && len(w.peer.got) == 100000 })
}

// An owned connection whose S has more than the device has given it is owned anew,
// from there on.
func TestOwnedAgainOutOfStep(t *testing.T) {
	w := newTiedWorld(t, 4, faults{delay: time.Millisecond})
	id := w.ownNow()
	state := w.program.kernelState()
	state.RcvNxt += 100
	w.probed = &state
	w.ownIt(id)
	w.good(abi.Owned)
	if c := w.conn(); c.reowned != 1 || uint32(c.host.SndEnd()) != state.RcvNxt {
		t.Errorf("passed again %d times, S is given what follows %d and not %d", c.reowned, c.host.SndEnd(), state.RcvNxt)
	}
}

// What S sent before it was rebuilt may wait in the host port for longer than a turn
// takes. It is in S's own sequence numbers: the device goes on with the rebuilt S when
// it has read that, and not before.
func TestFramesOfTheOldS(t *testing.T) {
	w, id := divertNow(t)
	w.fill(100, 0) // by the channel, so that S's sequence numbers lag by that
	w.until(time.Minute, "octets", func() bool { return len(w.peer.got) == 100 })
	w.tie.block.Channel.Limit = 0
	var frames [][]byte
	w.program.transmit = func(b []byte) { frames = append(frames, b) }
	w.peer.got = nil
	w.fill(100000, 0)
	w.program.transmit = w.fromProgram
	spilled := 3 * batch
	for i := range spilled {
		w.fromProgram(frames[i%len(frames)])
	}
	w.command(abi.Part, id)
	w.rebuild(id)
	w.resume(id)
	for turns := 1; ; turns++ {
		w.device.Turn(w.now)
		if _, ok := w.answer(abi.Resumed); ok {
			if turns <= spilled/batch {
				t.Errorf("resumed in turn %d, with %d frames of the old S", turns, spilled)
			}
			break
		}
		if turns > spilled {
			t.Fatal("not resumed")
		}
	}
	w.program.run()
	w.until(time.Minute, "octets", func() bool { return len(w.peer.got) == len(w.peer.want) })
}

// Nor does any of that go to the peer when S goes on without the device: it is un-steered
// then, so that there is nothing else of it in the host port.
func TestFramesOfTheOldSReleased(t *testing.T) {
	w, id := divertNow(t)
	w.fill(100, 0)
	w.until(time.Minute, "octets", func() bool { return len(w.peer.got) == 100 })
	w.tie.block.Channel.Limit = 0
	var frames [][]byte
	w.program.transmit = func(b []byte) { frames = append(frames, b) }
	w.peer.got = nil
	w.fill(100000, 0)
	w.program.transmit = w.fromProgram
	w.command(abi.Part, id)
	w.good(abi.Parted)
	w.rebuild(id)
	for i := range 3 * batch {
		w.fromProgram(frames[i%len(frames)])
	}
	w.steered = false
	w.command(abi.Release, id)
	for n := 0; ; n++ {
		w.device.Turn(w.now)
		w.carry(w.kernelUplink, func(b []byte) { t.Errorf("a frame of %d octets of the old S goes to the peer", len(b)) })
		if _, ok := w.answer(abi.Released); ok {
			break
		}
		if n > 3*batch {
			t.Fatal("not released")
		}
	}
	w.program.run()
	w.until(time.Minute, "octets", func() bool { return len(w.peer.got) == len(w.peer.want) })
}

// A device that has always something to read leaves the rebuilt S to the kernel.
func TestFramesOfTheOldSWithoutEnd(t *testing.T) {
	w, id := divertNow(t)
	w.command(abi.Part, id)
	w.good(abi.Parted)
	w.rebuild(id)
	w.resume(id)
	var a abi.Answer
	for end := w.now.Add(time.Second); ; w.now = w.now.Add(10 * time.Millisecond) {
		for range batch {
			w.fromS(wire.ACK)
		}
		w.device.Turn(w.now)
		var ok bool
		if a, ok = w.answer(abi.Resumed); ok {
			break
		}
		if w.now > end {
			t.Fatal("no answer")
		}
	}
	if a.Reason != abi.Timeout {
		t.Errorf("resumed: %v", a.Reason)
	}
	w.steered = false
	w.command(abi.Release, id)
	w.good(abi.Released)
	w.fill(100000, 100000)
	w.until(time.Minute, "octets", func() bool { return len(w.program.got) == 100000 && len(w.peer.got) == 100000 })
}

// A channel is closed whatever becomes of the message that it came with.
func TestChannelsOfRefusedJoins(t *testing.T) {
	w := newWorld(t, 4, faults{}) // without rings
	id := w.ownNow()
	stale := abi.MakeHWID(id.Index(), id.Generation()+1)
	join := func(ids ...abi.HWID) []byte {
		var all []abi.Command
		for _, id := range ids {
			all = append(all, abi.Command{HWID: id})
		}
		return abi.Append(nil, abi.Join, 1, all)
	}
	for _, tt := range []struct {
		name string
		msg  []byte
		why  abi.Reason
	}{
		{"no ring", join(id), abi.ChannelFailed},
		{"stale", join(stale), abi.NoConnection},
		{"too few entries", join(), abi.None},
		{"too many entries", join(id, id), abi.None},
		{"cut", join(id)[:10], abi.None},
		{"not a Join", abi.Append(nil, abi.Divert, 1, []abi.Command{{HWID: stale}}), abi.None},
		{"empty", nil, abi.None},
	} {
		c := &tie{w: w}
		w.device.Handle(w.now, tt.msg, c)
		w.turnDevice()
		a, ok := w.answer(abi.Joined)
		if c.closed != 1 || ok != (tt.why != abi.None) || a.Reason != tt.why {
			t.Errorf("%s: closed %d times, answered %v: %v", tt.name, c.closed, ok, a.Reason)
		}
	}
}

// Both sides close, in either order: the driver hears of it once the last
// acknowledgment can be repeated no more.
func TestCloseWhileBypassed(t *testing.T) {
	for _, programFirst := range []bool{false, true} {
		w, id := divertNow(t)
		w.fill(500000, 500000)
		first, second := w.peer, w.program
		if programFirst {
			first, second = second, first
		}
		first.closing = true
		first.run()
		w.until(time.Minute, "the FIN and all before it", func() bool {
			return second.conn.PeerFINReceived() && len(first.got) == 500000 && len(second.got) == 500000
		})
		start := w.now
		second.closing = true
		second.run()
		w.until(time.Minute, "the end", func() bool { _, ok := w.answer(abi.Notice); return ok })
		if took := w.now.Sub(start); took >= lastAck != programFirst {
			t.Errorf("program first %v: over after %v", programFirst, took)
		}
		w.command(abi.Release, id)
		w.good(abi.Released)
		if w.device.pool.Used() != 0 || w.tie.closed != 1 {
			t.Errorf("%d octets of buffers in use, the channel closed %d times", w.device.pool.Used(), w.tie.closed)
		}
	}
}

// A peer that missed the last acknowledgment gets it again.
func TestLastAckAgain(t *testing.T) {
	w, _ := divertNow(t)
	w.program.closing = true
	w.program.run()
	w.until(time.Minute, "the program's FIN", w.peer.conn.PeerFINReceived)
	w.until(time.Minute, "its acknowledgment", func() bool { return w.conn().wire.FINAcked() })
	w.peer.closing = true
	w.peer.run()
	w.until(time.Minute, "the peer's FIN", w.program.conn.PeerFINReceived)
	sent := w.conn().wire.Stats().SegsOut
	fin := w.conn().wire.RcvNxt() - 1
	w.forged(fin, w.conn().wire.SndNxt(), wire.FIN|wire.ACK, w.conn().wire.TSRecent(), w.conn().kernel.Flags&abi.FlagTimestamps != 0)
	w.turnDevice()
	if n := w.conn().wire.Stats().SegsOut - sent; n != 1 {
		t.Errorf("%d segments answer a FIN that comes again", n)
	}
}

// An RST of either side ends both.
func TestResetWhileBypassed(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reset func(w *world)
		ended func(w *world) bool
		why   abi.Reason
	}{
		{"the peer's", func(w *world) { w.peer.conn.Abort() }, func(w *world) bool { return w.program.reset }, abi.ResetByPeer},
		{"the program's", func(w *world) { w.program.conn.Abort() }, func(w *world) bool { return w.peer.reset }, abi.ResetByProgram},
		{"for what it left unread", func(w *world) {
			w.tie.block.Channel.Flags = abi.ChannelLeftUnread
			w.program.closing = true
		}, func(w *world) bool { return w.peer.reset }, abi.ResetByProgram},
		{"for what comes after its close", func(w *world) {
			w.program.closing, w.program.stalled = true, true
			w.program.run()
			w.until(time.Minute, "the FIN", w.peer.conn.PeerFINReceived)
			w.tie.fails = unix.EACCES
			w.peer.toSend = make([]byte, 1000)
		}, func(w *world) bool { return w.peer.reset }, abi.ResetByProgram},
	} {
		w, id := divertNow(t)
		w.fill(100000, 100000)
		w.until(time.Minute, "octets", func() bool { return len(w.program.got) == 100000 && len(w.peer.got) == 100000 })
		tt.reset(w)
		w.peer.run()
		w.program.run()
		w.until(time.Minute, tt.name, func() bool { return tt.ended(w) })
		w.told(abi.Notice, tt.why)
		w.command(abi.Part, id)
		w.told(abi.Parted, tt.why)
		w.command(abi.Release, id)
		w.good(abi.Released)
	}
}

// A program that does not read stops its peer: what is given to it is bounded, as is
// what waits, and goes on when it reads.
func TestSlowReaderWhileBypassed(t *testing.T) {
	w, _ := divertNow(t)
	w.program.stalled = true
	w.fill(0, 8<<20)
	w.runFor(10 * time.Second)
	if n := len(w.tie.toS); n < maxUnread/2 || n > maxUnread || w.device.pool.Used() > 4<<20 {
		t.Errorf("%d octets are unread, %d octets of buffers in use", n, w.device.pool.Used())
	}
	w.program.stalled = false
	w.until(time.Minute, "the rest", func() bool { return len(w.program.got) == 8<<20 })
	if w.tie.block.Ledger.Delivered != w.tie.block.Channel.In {
		t.Errorf("delivered %d of %d", w.tie.block.Ledger.Delivered, w.tie.block.Channel.In)
	}
}

// A peer that does not read stops the program: C and ring hold what they may, and the
// rest stays with S.
func TestStalledPeerWhileBypassed(t *testing.T) {
	w, _ := divertNow(t)
	w.peer.stalled = true
	w.fill(8<<20, 0)
	w.runFor(10 * time.Second)
	l := &w.tie.block.Ledger
	if n := seqOf(l.SndEnd).Sub(seqOf(l.SndUna)); n > abi.RingSize || n == 0 || len(w.program.toSend) < 4<<20 {
		t.Errorf("%d octets in the ring, %d with the program", n, len(w.program.toSend))
	}
	w.peer.stalled = false
	w.peer.run()
	w.until(time.Minute, "the rest", func() bool { return len(w.peer.got) == 8<<20 })
}

// What sends a shadow connection home is a wish of a bypassed one.
func TestWishToGoHome(t *testing.T) {
	w, _ := divertNow(t)
	c := w.conn()
	before := c.wire.RcvNxt()
	for range 5 {
		w.forged(before, c.wire.SndNxt(), wire.URG|wire.ACK, c.wire.TSRecent(), c.kernel.Flags&abi.FlagTimestamps != 0)
		w.turnDevice()
	}
	w.told(abi.Notice, abi.UrgentData)
	if _, again := w.answer(abi.Notice); again || c.place != abi.PlaceOwned || c.wire.RcvNxt() != before {
		t.Errorf("asked again %v, place %d", again, c.place)
	}
	w.device.giveBack(w.now, c, abi.Idle)
	w.turnDevice()
	w.told(abi.Notice, abi.Idle)
	w.fill(100000, 100000)
	w.until(time.Minute, "octets", func() bool { return len(w.program.got) == 100000 && len(w.peer.got) == 100000 })
}

// A channel that fails is the driver's to repair; what the peer sends waits.
func TestChannelFails(t *testing.T) {
	w, id := divertNow(t)
	w.tie.fails = unix.EPIPE
	w.fill(100000, 100000)
	w.told(abi.Notice, abi.ChannelFailed)
	w.command(abi.Part, id)
	w.good(abi.Parted)
	w.rebuild(id)
	w.resume(id)
	w.good(abi.Resumed)
	w.until(time.Minute, "octets", func() bool { return len(w.program.got) == 100000 && len(w.peer.got) == 100000 })
}

// What the block tells of reading is not believed when it cannot be.
func TestReadThatCannotBe(t *testing.T) {
	w, _ := divertNow(t)
	w.program.stalled = true
	w.tie.block.Channel.Read = 1 << 40
	w.fill(0, 8<<20)
	w.runFor(10 * time.Second)
	if n := len(w.tie.toS); n > maxUnread {
		t.Errorf("%d octets are unread", n)
	}
}

// An idle connection's ring takes no memory.
func TestIdleRing(t *testing.T) {
	w, id := divertNow(t)
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(w.ringsFD, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	w.fill(3<<20, 0)
	w.until(time.Minute, "octets", func() bool { return len(w.peer.got) == 3<<20 })
	if n := blocks(); n < 2<<20 {
		t.Errorf("the ring took %d octets", n)
	}
	w.runFor(3 * time.Second)
	if n := blocks(); n > 4<<10 {
		t.Errorf("an idle ring takes %d octets", n)
	}
	w.peer.got = nil
	w.fill(10, 0)
	w.until(time.Minute, "octets", func() bool { return len(w.peer.got) == 10 })
	w.command(abi.Part, id)
	w.good(abi.Parted)
	w.rebuild(id)
	w.steered = false
	w.command(abi.Release, id)
	w.good(abi.Released)
	if n := blocks(); n != 0 {
		t.Errorf("the ring of nobody takes %d octets", n)
	}
}

// The block says how the connection is attached.
func TestAttachment(t *testing.T) {
	w, id := divertNow(t)
	w.turnDevice()
	if a := w.blocks[0].Hardware.Attachment; a != abi.AttachBypass {
		t.Errorf("bypassed, it is %d", a)
	}
	w.command(abi.Part, id)
	w.good(abi.Parted)
	if a := w.blocks[0].Hardware.Attachment; a != abi.AttachBypass {
		t.Errorf("parted, it is %d", a)
	}
	w.rebuild(id)
	w.resume(id)
	w.good(abi.Resumed)
	w.turnDevice()
	if a := w.blocks[0].Hardware.Attachment; a != abi.AttachShadow {
		t.Errorf("resumed, it is %d", a)
	}
}

// An idle peer is asked whether it is there as the program has set; one that is not
// is the kernel's to give up.
func TestKeepaliveWhileBypassed(t *testing.T) {
	w, id := divertNow(t)
	b := &w.blocks[0]
	shm.Publish(&b.Kernel.Sequence, func() {
		b.Kernel.State.KeepTime, b.Kernel.State.KeepInterval, b.Kernel.State.KeepProbes = 1000, 500, 3
	})
	shm.Publish(&b.Socket.Sequence, func() { b.Socket.HWID, b.Socket.State.Flags = id, abi.SocketKeepalive })
	w.fill(100, 100)
	w.runFor(10 * time.Second)
	if n := w.conn().wire.Stats().Probes; n < 5 {
		t.Errorf("asked %d times in 10 s", n)
	}
	if a, ok := w.answer(abi.Notice); ok {
		t.Errorf("a peer that answers: %v", a.Reason)
	}
	w.faults.lose = 1
	start := w.now
	w.until(time.Minute, "a wish to go home", func() bool { a, ok := w.answer(abi.Notice); return ok && a.Reason == abi.RecoveryTimeout })
	if took := w.now.Sub(start); took < 2*time.Second || took > 5*time.Second {
		t.Errorf("gave up after %v", took)
	}
	shm.Publish(&b.Socket.Sequence, func() { b.Socket.State.Flags = 0 })
	w.faults.lose = 0
	w.peer.got, w.program.got = nil, nil
	w.fill(100, 100)
	w.runFor(time.Second)
	before := w.conn().wire.Stats().Probes
	w.runFor(10 * time.Second)
	if n := w.conn().wire.Stats().Probes - before; n != 0 {
		t.Errorf("asked %d times when switched off", n)
	}
}

// What the program may have unread is no more than it has set.
func TestReceiveBufferWhileBypassed(t *testing.T) {
	w, id := divertNow(t)
	b := &w.blocks[0]
	shm.Publish(&b.Socket.Sequence, func() {
		b.Socket.HWID, b.Socket.State.Flags, b.Socket.State.RcvBuf = id, abi.SocketRcvBuf, 50000
	})
	w.program.stalled = true
	w.fill(1, 1<<20)
	w.runFor(time.Second)
	if n := len(w.tie.toS); n == 0 || n > 50000+minGrant {
		t.Errorf("%d octets are unread", n)
	}
	w.program.stalled = false
	w.until(time.Minute, "the rest", func() bool { return len(w.program.got) == 1<<20 })
}

// An RST of the peer that comes while the connection is parted is told once, also as the
// answer to whatever is asked then; what the host needs to rebuild S stays.
func TestPeerResetsWhileParted(t *testing.T) {
	for _, tt := range []struct {
		command, answer abi.Type
	}{{abi.Resume, abi.Resumed}, {abi.Divert, abi.Diverted}, {abi.Part, abi.Parted}} {
		w, id := divertNow(t)
		w.fill(100000, 100000)
		w.until(time.Minute, "octets", func() bool { return len(w.program.got) == 100000 && len(w.peer.got) == 100000 })
		w.command(abi.Part, id)
		w.good(abi.Parted)
		before := w.tie.block.Ledger
		w.peer.conn.Abort()
		w.peer.run()
		w.told(abi.Notice, abi.ResetByPeer)
		if after := w.tie.block.Ledger; after.HWID != id || after.Delivered != before.Delivered || after.Taken != before.Taken || after.SndEnd != before.SndEnd {
			t.Errorf("the ledger was %+v and is %+v", before, after)
		}
		w.command(tt.command, id)
		w.told(tt.answer, abi.ResetByPeer)
		w.rebuild(id)
		w.steered = false
		w.command(abi.Release, id)
		w.good(abi.Released)
		w.runFor(time.Second)
		if a, again := w.answer(abi.Notice); again {
			t.Errorf("told again: %v", a.Reason)
		}
	}
}
