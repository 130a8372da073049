package tcp_test

import (
	"encoding/binary"
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// feed hands out the octets of a fuzzer's input, zeros after its end.
type feed []byte

func (f *feed) u8() uint8 {
	if len(*f) == 0 {
		return 0
	}
	v := (*f)[0]
	*f = (*f)[1:]
	return v
}

func (f *feed) u16() uint16 { return uint16(f.u8())<<8 | uint16(f.u8()) }
func (f *feed) u32() uint32 { return uint32(f.u16())<<16 | uint32(f.u16()) }

// near is a sequence number close to v most of the time.
func (f *feed) near(v seqnum.Value) seqnum.Value {
	switch k := f.u8(); k & 7 {
	case 0:
		return v
	case 1:
		return v - seqnum.Value(f.u8())
	case 2, 3:
		return v + seqnum.Value(f.u8())
	case 4:
		return v + seqnum.Value(f.u16())
	case 5:
		return v - seqnum.Value(f.u16())
	case 6:
		return seqnum.Value(f.u32())
	}
	return v + 1
}

// fuzzed is an engine at the mercy of a feed.
type fuzzed struct {
	t    *testing.T
	feed feed
	c    tcp.Conn
	now  mono.Time
	pool *frame.Pool
	opts tcp.Options
	out  wire.Out
}

func (f *fuzzed) span(n uint32) frame.Span {
	n = max(n, 1)
	return frame.Span{Buf: f.pool.Get(int(n)), Len: n}
}

func (f *fuzzed) segment() {
	seg := wire.Segment{
		Seq: f.feed.near(f.c.RcvNxt()), Ack: f.feed.near(f.c.SndNxt()), Window: f.feed.u16(),
		Flags: f.feed.u8()&^(wire.RST|wire.SYN) | wire.ACK, Size: uint16(f.feed.u8()),
	}
	if kind := f.feed.u8(); kind == 255 {
		seg.Flags = f.feed.u8()
	} else if kind&1 != 0 {
		seg.Payload = f.span(uint32(f.feed.u16()) % 3000)
		defer seg.Payload.Buf.Release()
	}
	if f.feed.u8()&1 != 0 {
		seg.TSOK, seg.TSVal, seg.TSEcr = true, f.c.TSRecent()+uint32(int8(f.feed.u8())), f.feed.u32()
	}
	seg.ECN = seg.Flags >> 3 & 3 // PSH and ACK mean nothing here
	seg.NSACK = int(f.feed.u8()%7) - 1
	for i := range seg.SACK {
		seg.SACK[i].Lo = f.feed.near(f.c.SndUna())
		seg.SACK[i].Hi = f.feed.near(seg.SACK[i].Lo)
	}
	f.c.Receive(f.now, &seg)
}

func (f *fuzzed) step() {
	var s frame.Span
	switch f.feed.u8() % 15 {
	case 0:
		f.c.Send(f.span(uint32(f.feed.u16())))
	case 1:
		f.c.CloseSend()
	case 2:
		f.c.Permit(f.feed.near(f.c.RcvNxt()), f.feed.near(f.c.RcvNxt()))
	case 3:
		f.now = f.now.Add(time.Duration(f.feed.u16()) * time.Millisecond)
		f.c.Advance(f.now)
	case 4:
		for f.c.Next(&s) {
			s.Buf.Release()
		}
	case 5:
		f.c.SetMSS(uint32(f.feed.u16()))
	case 6:
		f.c.Probe()
	case 7:
		f.c.FlushAll()
	case 8:
		f.move()
	case 9:
		if f.feed.u8() == 255 {
			f.c.Abort()
		}
	case 10:
		f.set()
	default:
		f.segment()
	}
}

// set changes an option of the socket.
func (f *fuzzed) set() {
	what, on := f.feed.u8(), f.feed.u8()
	switch what % 6 {
	case 0:
		f.c.SetNoDelay(on&1 != 0)
	case 1:
		f.c.SetCork(on&1 != 0)
	case 2:
		f.c.SetQuickAck(on&1 != 0)
	case 3:
		f.c.SetKeepalive(f.now, tcp.Keepalive{Idle: time.Duration(on) * time.Second, Interval: time.Duration(f.feed.u8()) * time.Second, Count: f.feed.u8()})
	case 4:
		f.c.SetUserTimeout(time.Duration(on) * 10 * time.Second)
	case 5:
		f.c.MarkNext(tcp.Event(on) << 11)
	}
}

// move restores the engine from its own snapshot, which must be valid.
func (f *fuzzed) move() {
	var s tcb.Snapshot
	f.c.Snapshot(f.now, &s)
	for _, list := range [][]frame.Span{s.Unacked, s.Unsent} {
		for _, p := range list {
			p.Buf.Retain()
		}
	}
	for _, p := range s.OutOfOrder {
		p.Span.Buf.Retain()
	}
	f.c.Close()
	if err := f.c.Restore(f.now, &s, f.opts); err != nil {
		f.t.Fatalf("the engine's own snapshot: %v", err)
	}
}

// output drains the engine and checks what it sends.
func (f *fuzzed) output() {
	for n := 0; f.c.Output(f.now, &f.out); n++ {
		o := &f.out
		got := uint32(0)
		for _, p := range o.Pieces[:o.NPieces] {
			got += uint32(len(p.Bytes()))
		}
		if got != o.Length || got > wire.MaxSuper || o.Size != 0 && got <= uint32(o.Size) {
			f.t.Fatalf("%d octets in pieces, length %d, size %d", got, o.Length, o.Size)
		}
		if f.c.SndNxt().Less(o.Seq) {
			f.t.Fatalf("sent %v, snd.nxt is %v", o.Seq, f.c.SndNxt())
		}
		if n > 1<<14 {
			f.t.Fatal("output without end")
		}
	}
	if !f.c.SndUna().LessEq(f.c.SndNxt()) || !f.c.RcvAcked().LessEq(f.c.RcvNxt()) {
		f.t.Fatalf("snd %v %v, rcv %v %v", f.c.SndUna(), f.c.SndNxt(), f.c.RcvAcked(), f.c.RcvNxt())
	}
	if err := f.c.Unsound(); err != nil {
		f.t.Fatal(err)
	}
	if in, ooo := f.c.Miscounted(); in != 0 || ooo != 0 {
		f.t.Fatalf("counts %d and %d octets of memory more than it holds", in, ooo)
	}
	f.pool.Recycle()
}

// end checks that nothing is kept.
func (f *fuzzed) end() {
	f.c.Close()
	f.pool.Recycle()
	if f.pool.Used() != 0 {
		f.t.Fatalf("%d octets leaked", f.pool.Used())
	}
}

func fuzzOptions(b uint8) tcp.Options {
	return tcp.Options{Through: b&1 != 0, TSTold: b&2 != 0, CC: []string{"cubic", "reno", "none", ""}[b>>2&3], RcvBuf: 20000, MaxOOO: 30000,
		NoDelay: b&16 != 0, RcvBufMax: uint32(b&32) << 11}
}

// FuzzConn does whatever the input says to an engine: nothing panics, nothing
// leaks, every snapshot is valid.
func FuzzConn(f *testing.F) {
	for i := range uint8(8) {
		f.Add(append([]byte{i, 3, 0, 0}, octets(uint64(i), 400)...))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		z := &fuzzed{t: t, feed: in, now: mono.Time(time.Hour), pool: frame.NewPool(1 << 30)}
		z.opts = fuzzOptions(z.feed.u8())
		flags := z.feed.u8()
		s := &tcb.Snapshot{
			State: tcb.Established, SndUna: seqnum.Value(z.feed.u16()) - 5000, RcvNxt: seqnum.Value(z.feed.u16()) - 5000, MSS: 100,
			SndWnd: 9000, SACK: flags&1 != 0, Timestamps: flags&2 != 0, SndWscale: flags >> 2 & 7, RcvWscale: flags >> 5,
			ECN: flags&4 != 0,
		}
		s.SndNxt, s.RcvAcked, s.RcvEdge = s.SndUna, s.RcvNxt, s.RcvNxt+20000
		if err := z.c.Restore(z.now, s, z.opts); err != nil {
			t.Fatal(err)
		}
		for n := 0; len(z.feed) > 0 && n < 2000; n++ {
			z.step()
			z.output()
		}
		z.move()
		z.output()
		z.end()
	})
}

// FuzzSnapshot restores whatever passes Check; what does not is refused and
// takes nothing.
func FuzzSnapshot(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Add(octets(1, 120))
	f.Fuzz(func(t *testing.T, in []byte) {
		z := &fuzzed{t: t, feed: in, now: mono.Time(time.Hour), pool: frame.NewPool(1 << 30)}
		s := z.snapshot()
		z.opts = fuzzOptions(z.feed.u8())
		if err := z.c.Restore(z.now, s, z.opts); err != nil {
			release(s)
			z.end()
			return
		}
		z.output()
		z.move()
		for n := 0; len(z.feed) > 0 && n < 200; n++ {
			z.step()
			z.output()
		}
		z.end()
	})
}

// snapshot is one that is valid but for what the input changes.
func (f *fuzzed) snapshot() *tcb.Snapshot {
	s := &tcb.Snapshot{State: tcb.State(f.feed.u8() % 9), SndUna: 1000, RcvNxt: 5000, MSS: uint32(f.feed.u16()), SndWnd: uint32(f.feed.u16())}
	s.RcvAcked, s.RcvEdge = f.feed.near(s.RcvNxt), f.feed.near(s.RcvNxt)
	s.SndWscale, s.RcvWscale = f.feed.u8()%16, f.feed.u8()%16
	flags := f.feed.u8()
	s.FINQueued, s.FINSent, s.PeerFIN, s.SACK, s.Timestamps = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&8 != 0, flags&16 != 0
	s.SRTT, s.RTTVar, s.RTO = time.Duration(f.feed.u32()), time.Duration(f.feed.u32()), time.Duration(f.feed.u32())
	s.Cwnd, s.Ssthresh = f.feed.u32(), f.feed.u32()
	s.SndNxt = s.SndUna
	for range f.feed.u8() % 5 {
		p := f.span(uint32(f.feed.u16()))
		s.Unacked = append(s.Unacked, p)
		s.SndNxt = s.SndNxt.Add(p.Len)
	}
	if s.FINSent {
		s.SndNxt++
	}
	if f.feed.u8() == 255 {
		s.SndNxt = f.feed.near(s.SndNxt)
	}
	for range f.feed.u8() % 3 {
		s.Unsent = append(s.Unsent, f.span(uint32(f.feed.u16())))
	}
	at := s.RcvNxt
	for range f.feed.u8() % 4 {
		p := f.span(uint32(f.feed.u8()))
		at = f.feed.near(at)
		s.OutOfOrder = append(s.OutOfOrder, tcb.OOOSpan{Seq: at, Span: p})
		at = at.Add(p.Len)
	}
	return s
}

func release(s *tcb.Snapshot) {
	for _, list := range [][]frame.Span{s.Unacked, s.Unsent} {
		for _, p := range list {
			p.Buf.Release()
		}
	}
	for _, p := range s.OutOfOrder {
		p.Span.Buf.Release()
	}
}

// TestFuzzedForAWhile runs the fuzz target over inputs of its own, as a plain
// test.
func TestFuzzedForAWhile(t *testing.T) {
	for seed := range uint64(300) {
		in := octets(seed, 3000)
		binary.LittleEndian.PutUint16(in, uint16(seed))
		z := &fuzzed{t: t, feed: in, now: mono.Time(time.Hour), pool: frame.NewPool(1 << 30), opts: fuzzOptions(uint8(seed))}
		s := &tcb.Snapshot{
			State: tcb.Established, SndUna: 100, SndNxt: 100, RcvNxt: 0xfffffff0, RcvAcked: 0xfffffff0, RcvEdge: 10000, MSS: 100, SndWnd: 9000,
			SACK: seed&1 != 0, Timestamps: seed&2 != 0,
		}
		if err := z.c.Restore(z.now, s, z.opts); err != nil {
			t.Fatal(err)
		}
		for len(z.feed) > 0 {
			z.step()
			z.output()
		}
		z.end()
	}
}
