package device

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/shm"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

func plainWorld(t *testing.T, ts, sack bool) *world {
	for seed := uint64(1); ; seed++ {
		w := newWorld(t, seed, faults{delay: time.Millisecond})
		var s tcb.Snapshot
		w.program.conn.Snapshot(w.now, &s)
		if s.Timestamps == ts && s.SACK == sack && !w.l3 {
			return w
		}
	}
}

// forged is a frame that an off-path attacker sends in the peer's name.
func (w *world) forged(seq, ack seqnum.Value, flags uint8, tsval uint32, tsok bool) {
	var h [wire.MaxHeaders]byte
	var out wire.Out
	out.Seq, out.Ack, out.Flags, out.Window = seq, ack, flags, 1000
	out.TSOK, out.TSVal = tsok, tsval
	n := w.peer.template.Build(h[:], &out)
	w.arrive(bytes.Clone(h[:n]))
}

func (w *world) ownNow() abi.HWID {
	id := w.admit()
	w.steered = true
	w.ownIt(id)
	w.turnDevice()
	if a, ok := w.answer(abi.Owned); !ok || a.Reason != abi.None {
		w.t.Fatal("not owned")
	}
	return id
}

func (w *world) runFor(d time.Duration) {
	end := w.now.Add(d)
	for n := 0; w.now < end && n < 300000; n++ {
		w.step()
	}
}

func (w *world) state(s *tcb.Snapshot) { w.program.conn.Snapshot(w.now, s) }

func TestAForgedAcknowledgementWhileOwned(t *testing.T) {
	for _, steered := range []bool{false, true} {
		w := plainWorld(t, false, true)
		if steered {
			w.ownNow()
		}
		var s tcb.Snapshot
		w.state(&s)
		w.forged(s.RcvNxt, s.SndNxt.Add(1<<20), wire.ACK, 0, false)
		w.runFor(50 * time.Millisecond)
		w.fill(100000, 100000)
		w.runFor(10 * time.Minute)
		if len(w.peer.got) != 100000 || len(w.program.got) != 100000 {
			t.Errorf("steered %v: hung: %v", steered, w)
		}
	}
}

func TestAForgedAcknowledgementWhilePassed(t *testing.T) {
	w := plainWorld(t, true, true)
	id := w.admit()
	w.steered = true
	var s tcb.Snapshot
	w.state(&s)
	w.forged(s.RcvNxt-1<<29, s.SndNxt.Add(1<<20), wire.ACK, 5, true) // any seq, any timestamp
	w.turnDevice()
	w.ownIt(id)
	w.fill(100000, 100000)
	w.runFor(10 * time.Minute)
	if len(w.peer.got) != 100000 || len(w.program.got) != 100000 {
		t.Errorf("hung: %v", w)
	}
}

func TestAForgedTimestampWhilePassed(t *testing.T) {
	w := plainWorld(t, true, true)
	id := w.admit()
	w.steered = true
	var s tcb.Snapshot
	w.state(&s)
	w.forged(s.RcvNxt-1<<29, s.SndNxt, wire.ACK, s.TSRecent+1<<30, true)
	w.turnDevice()
	w.ownIt(id)
	w.fill(100000, 100000)
	w.runFor(10 * time.Minute)
	if len(w.peer.got) != 100000 || len(w.program.got) != 100000 {
		t.Errorf("hung: %v", w)
	}
	// and at home again
	w.command(abi.Pass, id)
	w.turnDevice()
	w.steered = false
	w.command(abi.Release, id)
	w.runFor(5 * time.Minute)
	if len(w.peer.got) != 100000 || len(w.program.got) != 100000 {
		t.Errorf("hung at home: %v", w)
	}
}

func TestALostWindowUpdate(t *testing.T) {
	w := plainWorld(t, true, true)
	w.program.stalled = true
	w.ownNow()
	w.fill(0, 2<<20)
	w.runFor(5 * time.Second) // S's window closes
	orig, dropped := w.program.transmit, 0
	w.program.transmit = func(b []byte) {
		var p wire.Packet
		buf := w.program.pool.Get(len(b))
		copy(buf.B, b)
		if wire.Parse(buf, len(b), etherLen, &p) == wire.OK && p.Seg.Window > 0 && dropped == 0 {
			dropped++ // the host port's ring is full, or the pool
			return
		}
		orig(b)
	}
	w.program.stalled = false
	w.program.run()
	w.runFor(time.Hour)
	if len(w.program.got) != 2<<20 {
		t.Errorf("hung after %d update(s) lost: %v", dropped, w)
	}
}

// blockUplink fills the uplink until it takes nothing more.
func (w *world) blockUplink() {
	w.t.Helper()
	d := w.device
	junk := make([]byte, 60)
	for range 1024 + 64 { // the uplink's queue is full
		d.uplink.Queue(nil, spanOf(junk))
		if d.uplink.Pending() >= 60 {
			if done, _ := d.uplink.Flush(); !done {
				break
			}
		}
	}
	if d.uplink.Pending() < queueRoom {
		w.t.Fatal("not blocked", d.uplink.Pending())
	}
}

func TestAResetWhileTheUplinkIsBlocked(t *testing.T) {
	w := plainWorld(t, true, true)
	w.ownNow()
	d := w.device
	w.blockUplink()
	var s tcb.Snapshot
	w.state(&s)
	w.forged(s.RcvNxt, s.SndNxt, wire.RST|wire.ACK, s.TSRecent+1, true)
	if _, err := d.Turn(w.now); err != nil {
		t.Fatal(err)
	}
	if a, ok := w.answer(abi.Notice); !ok || a.Reason != abi.ResetByPeer {
		t.Fatal("no notice", a)
	}
	w.carry(w.kernelUplink, func([]byte) {}) // the uplink drains
	for range 5 {
		d.Turn(w.now)
		w.carry(w.kernelUplink, func([]byte) {})
		w.carry(w.kernelHost, w.program.receive)
	}
	if !w.program.reset {
		t.Error("the peer's RST never reached S")
	}
}

// fromS hands the device a frame that S sends.
func (w *world) fromS(flags uint8) {
	var s tcb.Snapshot
	w.state(&s)
	var h [wire.MaxHeaders]byte
	var out wire.Out
	out.Seq, out.Ack, out.Flags, out.Window = s.SndNxt, s.RcvNxt, flags, 1000
	out.TSOK, out.TSVal = true, uint32(w.now.Milliseconds())+s.TSOffset
	w.fromProgram(bytes.Clone(h[:w.program.template.Build(h[:], &out)]))
}

// S's RST, which it sends but once, waits for room too.
func TestAResetOfSWhileTheUplinkIsBlocked(t *testing.T) {
	w := plainWorld(t, true, true)
	w.ownNow()
	w.blockUplink()
	w.fromS(wire.RST | wire.ACK)
	w.device.Turn(w.now)
	if a, ok := w.answer(abi.Notice); ok {
		t.Errorf("said %v before the RST was sent", a.Reason)
	}
	for range 5 {
		w.carry(w.kernelUplink, w.peerReceives)
		w.device.Turn(w.now)
	}
	if a, ok := w.answer(abi.Notice); !ok || a.Reason != abi.ResetByProgram {
		t.Errorf("notice %v, %v", ok, a.Reason)
	}
	if !w.peer.reset {
		t.Error("S's RST never reached the peer")
	}
}

// A SYN of S means that the name is another connection's now.
func TestASYNOfS(t *testing.T) {
	w := plainWorld(t, true, true)
	w.ownNow()
	w.fromS(wire.SYN)
	passed := 0
	w.device.Turn(w.now)
	w.carry(w.kernelUplink, func(b []byte) {
		if b[wire.VNetLen+etherLen+20+13] == wire.SYN {
			passed++
		}
	})
	if a, ok := w.answer(abi.Notice); !ok || a.Reason != abi.Closed || passed != 1 {
		t.Errorf("notice %v, %v; %d SYNs passed", ok, a.Reason, passed)
	}
}

// Urgent data sends a connection home, but only in a segment that the peer can
// have sent.
func TestUrgentData(t *testing.T) {
	for _, forged := range []bool{true, false} {
		w := plainWorld(t, true, true)
		w.ownNow()
		var s tcb.Snapshot
		w.state(&s)
		seq := s.RcvNxt
		if forged {
			seq += 1 << 30
		}
		w.forged(seq, s.SndNxt, wire.ACK|wire.URG, s.TSRecent+1, true)
		w.turnDevice()
		a, said := w.answer(abi.Notice)
		if said == forged || said && a.Reason != abi.UrgentData {
			t.Errorf("forged %v: notice %v, %v", forged, said, a.Reason)
		}
	}
}

func TestTheLimitOfMemory(t *testing.T) {
	for _, writes := range []int{300, 600} {
		w := plainWorld(t, true, true)
		w.newDevice(1 << 20)
		w.ownNow()
		e := w.program
		w.fill(400000, 0) // S's congestion window grows
		for n := 0; len(w.peer.got) < 400000 && n < 10000; n++ {
			w.step()
		}
		w.runFor(5 * time.Millisecond)
		w.faults.lose = 1 // the peer is out of reach for two seconds
		w.peer.want = append(w.peer.want, make([]byte, writes*100)...)
		for range writes { // small writes, no Nagle
			b := e.pool.Get(100)
			clear(b.B)
			e.conn.Send(frame.Span{Buf: b, Len: 100})
			e.run()
		}
		w.runFor(2 * time.Second)
		full := w.device.pool.Used()
		w.faults.lose = 0 // and back
		w.runFor(20 * time.Minute)
		if len(w.peer.got) != len(w.peer.want) || e.conn.SndUna() != e.conn.SndEnd() {
			t.Errorf("%d writes: hung 20 minutes after the peer is back; pool then %d, now %d of %d: %v", writes, full, w.device.pool.Used(), w.device.pool.Limit(), w)
		} else {
			t.Logf("%d writes fine: pool was at %d of %d", writes, full, w.device.pool.Limit())
		}
	}
}

func TestASmallerPathMTU(t *testing.T) {
	for _, mtu := range []int{1500, 1000} {
		pathMTU(t, mtu)
	}
}

func pathMTU(t *testing.T, mtu int) {
	w := plainWorld(t, true, true)
	w.ownNow()
	w.program.conn.SetMSS(948) // ICMP: fragmentation needed, as S takes it
	part := &w.blocks[0].Kernel
	shm.Publish(&part.Sequence, func() { part.State.MSS = 948 }) // and the driver tells
	cut := mono.Time(0)
	deliver := func(b []byte) {
		var v wire.VNet
		v.Get(b)
		seg := len(b) - wire.VNetLen - etherLen
		if v.GSOType != wire.GSONone {
			seg = int(v.GSOSize) + 52
		}
		if seg > mtu || w.now < cut {
			return // too big, DF
		}
		w.peerReceives(b)
	}
	// carry with the path's MTU
	cut = w.now.Add(300 * time.Millisecond)
	data := make([]byte, 2800)
	w.peer.want = data
	for range 4 {
		b := w.program.pool.Get(700)
		w.program.conn.Send(frame.Span{Buf: b, Len: 700})
		w.program.run()
	}
	end := w.now.Add(20 * time.Minute)
	for n := 0; w.now < end && n < 300000; n++ {
		for {
			busy, err := w.device.Turn(w.now)
			if err != nil {
				t.Fatal(err)
			}
			busy = w.carry(w.kernelUplink, deliver) || busy
			busy = w.carry(w.kernelHost, w.program.receive) || busy
			if !busy {
				break
			}
		}
		w.step()
	}
	if len(w.peer.got) != 2800 {
		t.Errorf("mtu %d hung: %v", mtu, w)
	}
}

func (w *world) forgedData(out *wire.Out, text string) {
	var h [wire.MaxHeaders]byte
	b := w.peer.pool.Get(len(text))
	copy(b.B, text)
	out.Pieces[0], out.NPieces, out.Length = frame.Span{Buf: b, Len: uint32(len(text))}, 1, uint32(len(text))
	n := w.peer.template.Build(h[:], out)
	w.arrive(append(bytes.Clone(h[:n]), text...))
}

// A segment without ACK flag, which no TCP takes, becomes octets of the stream.
func TestDataWithoutACKFlag(t *testing.T) {
	for _, steered := range []bool{false, true} {
		w := plainWorld(t, true, true)
		var id abi.HWID
		if steered {
			id = w.admit()
			w.steered = true
		}
		var s tcb.Snapshot
		w.state(&s)
		var out wire.Out
		out.Seq, out.Flags, out.Window, out.TSOK, out.TSVal = s.RcvNxt, wire.PSH, 1000, true, s.TSRecent
		w.forgedData(&out, "forged")
		w.turnDevice()
		if steered {
			w.ownIt(id)
		}
		w.peer.toSend = nil
		w.program.want = []byte("forged")
		w.runFor(10 * time.Second)
		if len(w.program.got) > 0 {
			t.Errorf("steered %v: S received %q, which the peer never sent", steered, w.program.got)
		}
	}
}

// S's frames that wait in the host port while the device passes again.
func TestTimestampsOfFramesThatWait(t *testing.T) {
	w := plainWorld(t, true, true)
	id := w.ownNow()
	w.fill(4<<20, 0)
	for n := 0; len(w.peer.got) < 1<<20 && n < 20000; n++ {
		w.step()
	}
	before := w.peer.conn.Stats().PAWSDrops
	// The device is held up for 20 ms while S goes on sending.
	e := w.program
	for range 80 { // small writes: more frames than one turn reads
		b := e.pool.Get(1000)
		copy(b.B, e.toSend[:1000])
		e.toSend = e.toSend[1000:]
		e.conn.Send(frame.Span{Buf: b, Len: 1000})
		keep := e.toSend
		e.toSend = nil
		e.run()
		e.toSend = keep
	}
	w.now = w.now.Add(20 * time.Millisecond)
	w.device.Turn(w.now) // reads 32 of them
	w.command(abi.Pass, id)
	w.runFor(30 * time.Millisecond)
	w.runFor(time.Minute)
	if len(w.peer.got) != 4<<20 {
		t.Error("hung", w)
	}
	if n := w.peer.conn.Stats().PAWSDrops - before; n > 0 {
		t.Errorf("peer dropped %d segments by PAWS, srtx %d", n, w.program.conn.Stats().Retransmits)
	}
}

// Owned again after a segment out of step, with the windows of long ago.
func TestWindowsWhenOwnedAgain(t *testing.T) {
	w := plainWorld(t, true, true)
	w.program.stalled = true
	w.ownNow()
	w.fill(0, 2<<20)
	w.runFor(3 * time.Second) // S's window is closed now
	c := w.device.slots[0].conn
	t.Logf("before: edge %d from una", c.host.SndEdge().Sub(c.host.SndUna()))
	var s tcb.Snapshot
	w.state(&s)
	w.forged(s.RcvNxt, s.SndNxt.Add(1), wire.ACK, s.TSRecent+1, true) // the ack of an octet sent while it was steered
	w.turnDevice()
	t.Logf("place %d edge %d from una", c.place, c.host.SndEdge().Sub(c.host.SndUna()))
	if n := c.host.SndEdge().Sub(c.host.SndUna()); n > 1<<14 {
		t.Errorf("S's window is closed, the device takes it for %d octets", n)
	}
}

// Whatever frames and commands come, in whatever order, the device neither
// panics nor keeps a buffer for ever.
func TestRandomFrames(t *testing.T) {
	for seed := range uint64(400) {
		randomFrames(t, seed)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(randomFrames)
}

func randomFrames(t *testing.T, seed uint64) {
	w := newWorld(t, seed, faults{delay: time.Millisecond})
	w.program.transmit, w.peer.transmit = func([]byte) {}, func([]byte) {}
	r := rand.New(rand.NewPCG(seed, 1))
	var s tcb.Snapshot
	w.state(&s)
	near := func(v seqnum.Value) seqnum.Value {
		switch r.IntN(5) {
		case 0:
			return v
		case 1:
			return v.Add(uint32(r.IntN(3000)))
		case 2:
			return v - seqnum.Value(r.IntN(3000))
		case 3:
			return v.Add(1<<31 + uint32(r.IntN(7)) - 3)
		}
		return seqnum.Value(r.Uint32())
	}
	id := w.admit()
	for n := range 200 {
		if n == 20 || n > 20 && r.IntN(30) == 0 {
			w.ownIt(id)
		}
		if n > 30 && r.IntN(40) == 0 {
			w.command(abi.Pass, id)
		}
		var out wire.Out
		fromPeer := r.IntN(2) == 0
		tmpl, a, b := &w.peer.template, s.RcvNxt, s.SndNxt
		if !fromPeer {
			tmpl, a, b = &w.program.template, s.SndNxt, s.RcvNxt
		}
		out.Seq, out.Ack, out.Window = near(a), near(b), uint16(r.Uint32())
		out.Flags = wire.ACK
		if r.IntN(4) == 0 {
			out.Flags = uint8(r.Uint32())
		}
		out.TSOK, out.TSVal = r.IntN(2) == 0, s.TSRecent+uint32(r.IntN(100))
		if l := r.IntN(4); l > 0 {
			buf := w.peer.pool.Get(2000)
			k := uint32(r.IntN(1800))
			out.Pieces[0], out.NPieces, out.Length = frame.Span{Buf: buf, Len: k}, 1, k
		}
		var h [wire.MaxHeaders]byte
		f := bytes.Clone(h[:tmpl.Build(h[:], &out)])
		f = append(f, make([]byte, out.Length)...)
		if fromPeer {
			give(t, w.kernelUplink, w.bare(f))
		} else {
			give(t, w.kernelHost, f)
		}
		w.device.Turn(w.now)
		w.carry(w.kernelUplink, func([]byte) {})
		w.carry(w.kernelHost, func([]byte) {})
		w.now = w.now.Add(time.Duration(r.IntN(300)) * time.Millisecond)
	}
	w.command(abi.Release, id)
	for range 4 {
		w.device.Turn(w.now)
		w.carry(w.kernelUplink, func([]byte) {})
		w.carry(w.kernelHost, func([]byte) {})
	}
	if u := w.device.pool.Used(); u != 0 {
		t.Fatalf("seed %d: %d octets leaked", seed, u)
	}
}

// Segments out of step keep a connection passed, and end with its way home.
func TestOutOfStepAgainAndAgain(t *testing.T) {
	w := plainWorld(t, true, true)
	w.ownNow()
	var s tcb.Snapshot
	for range 12 {
		w.state(&s)
		w.forged(s.RcvNxt, s.SndNxt.Add(1<<20), wire.ACK, 0, false)
		w.turnDevice()
	}
	c := w.device.slots[0].conn
	if c.place == abi.PlaceOwned {
		t.Errorf("owned after %d segments out of step", 12)
	}
	w.fill(100000, 100000)
	w.runFor(10 * time.Second)
	if len(w.peer.got) != 100000 || len(w.program.got) != 100000 {
		t.Errorf("hung: %v", w)
	}
}

// The reason of that is the fragments, if some came in the last minute before.
func TestOutOfStepByFragments(t *testing.T) {
	for _, tt := range []struct {
		fragments uint64
		pause     time.Duration // after the first time, with all of them before
		want      abi.Reason
	}{
		{0, 0, abi.OutOfStep},
		{1, 0, abi.Fragments},
		{1, 2 * time.Minute, abi.OutOfStep},
	} {
		w := plainWorld(t, true, true)
		id := w.ownNow()
		c := w.device.find(id)
		w.device.blocks[id.Index()].Fragments += tt.fragments
		w.device.outOfStep(w.now, c)
		w.now = w.now.Add(tt.pause)
		for c.reowned <= maxReowned {
			w.device.outOfStep(w.now, c)
		}
		w.device.Turn(w.now)
		if a, ok := w.answer(abi.Notice); !ok || a.Reason != tt.want {
			t.Errorf("%d fragments, then %v: %v, %q, want %q", tt.fragments, tt.pause, ok, a.Reason, tt.want)
		}
	}
}

// The FIN of the peer is lost while S is in CLOSE_WAIT and being moved.
func TestCloseWaitWithTheFINAgain(t *testing.T) {
	w := plainWorld(t, true, true)
	w.peer.closing = true
	w.peer.run()
	w.runFor(100 * time.Millisecond) // S is in CLOSE_WAIT
	id := w.admit()
	w.steered = true
	var s tcb.Snapshot
	w.state(&s)
	w.forged(s.RcvNxt-1, s.SndNxt, wire.ACK|wire.FIN, s.TSRecent, true) // the peer sends its FIN again
	w.turnDevice()
	w.ownIt(id)
	w.runFor(3 * time.Second)
	c := w.device.slots[0].conn
	if c.place != 2 {
		t.Error("never owned, and the driver is not told why")
	}
}

// A GRO frame of the greatest length that IP allows arrives after a gap, and
// the connection goes home.
func TestAFrameLongerThanMayGoOut(t *testing.T) {
	for _, v := range []int{60000, 65535 - 20 - 32} {
		w := plainWorld(t, true, true)
		id := w.ownNow()
		c := w.device.slots[0].conn
		var s tcb.Snapshot
		w.state(&s)
		// window: S's is 64 KB, so the frame starts 100 octets in and ends at the edge or beyond it
		b := w.peer.pool.Get(v)
		var out wire.Out
		out.Seq, out.Ack, out.Flags, out.Window, out.TSOK, out.TSVal = s.RcvNxt.Add(1), s.SndNxt, wire.ACK, 4096, true, s.TSRecent
		out.Pieces[0], out.NPieces, out.Length, out.Size = frame.Span{Buf: b, Len: uint32(v)}, 1, uint32(v), 1448
		var h [wire.MaxHeaders]byte
		n := w.peer.template.Build(h[:], &out)
		if n == 0 {
			t.Logf("%d: cannot be built by the template: MaxSuper %d", v, wire.MaxSuper)
			out.Length = 60000
			n = w.peer.template.Build(h[:], &out)
			// put the greater length in
			f := append(bytes.Clone(h[:n]), make([]byte, v)...)
			ip := wire.VNetLen + etherLen
			total := 20 + 32 + v
			f[ip+2], f[ip+3] = byte(total>>8), byte(total)
			f[ip+10], f[ip+11] = 0, 0
			ipsum := ^onesSum(f[ip : ip+20])
			f[ip+10], f[ip+11] = byte(ipsum>>8), byte(ipsum)
			at := ip + 20 + 16 // the pseudo-header's sum has the length in it
			sum := uint32(f[at])<<8 + uint32(f[at+1]) + uint32(v-60000)
			sum = sum&0xffff + sum>>16
			f[at], f[at+1] = byte(sum>>8), byte(sum)
			copy(f[len(f)-v:], "THIS IS THE PEER'S PAYLOAD")
			w.arrive(f)
		} else {
			w.arrive(append(bytes.Clone(h[:n]), make([]byte, v)...))
		}
		w.turnDevice()
		t.Logf("%d: ooo %d, bad %d", v, c.wire.Stats().OutOfOrder, w.device.Stats().BadFrames)
		w.command(abi.Pass, id)
		if _, err := w.device.Turn(w.now); err != nil {
			t.Fatal(err)
		}
		w.carry(w.kernelHost, func(b []byte) {
			if bytes.HasPrefix(b, []byte("THIS IS")) {
				t.Errorf("payload of %d octets written to the host port as a frame: %q...", len(b), b[:26])
			}
		})
	}
}

// After a timeout the next hop is the one that the driver has written last.
func TestNextHopAfterATimeout(t *testing.T) {
	w := plainWorld(t, true, true)
	w.ownNow()
	part := &w.blocks[0].Kernel
	hop := [6]byte{2, 9, 9, 9, 9, 9}
	shm.Publish(&part.Sequence, func() { part.NextHop = hop })
	var last []byte
	w.fill(5000, 0)
	for end := w.now.Add(time.Second); w.now < end; {
		for {
			busy, err := w.device.Turn(w.now)
			if err != nil {
				t.Fatal(err)
			}
			// Nobody answers.
			busy = w.carry(w.kernelUplink, func(b []byte) { last = b[wire.VNetLen:][:6] }) || busy
			w.carry(w.kernelHost, func([]byte) {})
			if !busy {
				break
			}
		}
		w.step()
	}
	if !bytes.Equal(last, hop[:]) {
		t.Errorf("the last frame went to %x, not to %x", last, hop)
	}
}
