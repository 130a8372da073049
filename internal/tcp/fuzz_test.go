package tcp_test

import (
	"slices"
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
func (f *feed) u64() uint64 { return uint64(f.u32())<<32 | uint64(f.u32()) }
func (f *feed) yes() bool   { return f.u8()&1 != 0 }

// wait is from a microsecond to half a day, the short ones as likely as the
// long ones.
func (f *feed) wait() time.Duration {
	k := f.u8()
	return time.Duration(16+k&15) << (k >> 4) << (f.u8() & 15) * time.Microsecond / 16
}

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

// fuzzControls are all congestion controls that may be asked for by name.
var fuzzControls = slices.DeleteFunc([]string{"cubic", "reno", "dctcp", "bbr"}, func(name string) bool { return !tcp.Supports(name) })

func (f *feed) options() tcp.Options {
	flags, names := f.u8(), append([]string{"", "none"}, fuzzControls...)
	o := tcp.Options{
		Through: flags&1 != 0, TSTold: flags&3 == 3, NoDelay: flags&4 != 0,
		CC: names[int(f.u8())%len(names)], RcvBuf: 20000, MaxOOO: 30000, MTUProbing: flags&32 != 0,
	}
	if flags&8 != 0 {
		o.RcvBufMax, o.SndBuf = uint32(f.u16())*2, uint32(f.u16())
	}
	if flags&16 != 0 {
		o.Keepalive, o.UserTimeout = f.keepalive(), f.wait()
	}
	return o
}

func (f *feed) keepalive() tcp.Keepalive {
	return tcp.Keepalive{Idle: f.wait(), Interval: f.wait(), Count: f.u8()}
}

// fuzzed is an engine at the mercy of a feed.
type fuzzed struct {
	feed
	t    *testing.T
	c    tcp.Conn
	now  mono.Time
	pool *frame.Pool
	opts tcp.Options
	out  wire.Out
}

func newFuzzed(t *testing.T, in []byte) *fuzzed {
	return &fuzzed{t: t, feed: in, now: mono.Time(time.Hour), pool: frame.NewPool(1 << 30)}
}

func (f *fuzzed) span(n uint32) frame.Span {
	n = max(n, 1)
	return frame.Span{Buf: f.pool.Get(int(n)), Len: n}
}

func (f *fuzzed) segment() {
	flags := f.u8()
	seg := wire.Segment{
		Seq: f.near(f.c.RcvNxt()), Ack: f.near(f.c.SndNxt()), Window: f.u16(), Size: uint16(f.u8()), ECN: flags & 3,
		Flags: f.u8()&^(wire.RST|wire.SYN|wire.URG) | wire.ACK,
	}
	if flags&0xf0 == 0xf0 {
		seg.Flags = f.u8()
	}
	if flags&4 != 0 {
		seg.Payload = f.span(uint32(f.u16()) % 3000)
		defer seg.Payload.Buf.Release()
	}
	if flags&8 != 0 {
		seg.TSOK, seg.TSVal, seg.TSEcr = true, f.c.TSRecent()+uint32(int8(f.u8())), f.stamp()
	}
	seg.NSACK = int(f.u8()%7) - 1
	for i := range seg.SACK[:min(max(seg.NSACK, 0), len(seg.SACK))] {
		seg.SACK[i].Lo = f.near(f.c.SndUna())
		seg.SACK[i].Hi = f.near(seg.SACK[i].Lo)
	}
	f.c.Receive(f.now, &seg)
}

// stamp is a timestamp to echo, one that may have been sent most of the time.
func (f *fuzzed) stamp() uint32 {
	if k := f.u8(); k < 250 {
		return uint32(f.now.Milliseconds()) - uint32(k)
	}
	return f.u32()
}

// step is whatever can be done with an engine.
func (f *fuzzed) step() {
	c := &f.c
	switch f.u8() % 28 {
	case 0, 1, 2:
		c.Send(f.span(uint32(f.u16())))
	case 3, 4, 5:
		f.now = f.now.Add(f.wait())
		c.Advance(f.now)
	case 6, 7:
		if at := c.Deadline(); at != 0 {
			f.now = max(f.now, at)
			c.Advance(f.now)
		}
	case 8:
		c.Permit(f.near(c.RcvNxt()), f.near(c.RcvNxt()))
	case 9:
		f.read()
	case 10:
		f.move()
	case 11:
		f.seldom()
	case 12:
		f.set()
	default:
		f.segment()
	}
}

func (f *fuzzed) read() {
	var s frame.Span
	for n := f.u8(); n > 0 && f.c.Next(&s); n-- {
		s.Buf.Release()
	}
}

func (f *fuzzed) seldom() {
	c := &f.c
	switch k := f.u8(); k % 10 {
	case 0:
		c.CloseSend()
	case 1:
		c.Probe()
	case 2:
		c.FlushAll()
	case 3:
		c.AckNow()
	case 4:
		c.SetTimestamp(f.u32(), f.u32())
	case 5:
		c.MarkNext(tcp.Event(f.u32()))
	case 6:
		p := f.span(uint32(f.u16()))
		c.Stray(f.now, &f.out, f.near(c.SndNxt()), p)
		p.Buf.Release()
	case 7:
		lo := f.near(c.RcvNxt())
		c.OutputSACK(f.now, &f.out, []seqnum.Range{{Lo: lo, Hi: f.near(lo)}})
	case 8:
		c.PacketTooBig(f.now, uint32(f.u16())>>(f.u8()&15))
	case 9:
		if k == 249 {
			c.Abort()
		}
	}
}

// set is what a program or a path sets.
func (f *fuzzed) set() {
	c := &f.c
	switch f.u8() % 8 {
	case 0:
		c.SetNoDelay(f.yes())
	case 1:
		c.SetCork(f.yes())
	case 2:
		c.SetQuickAck(f.yes())
	case 3:
		c.SetKeepalive(f.now, f.keepalive())
	case 4:
		c.SetUserTimeout(f.wait())
	case 5:
		c.SetMSS(uint32(f.u16()) >> (f.u8() & 15))
	case 6:
		var m tcp.Metrics
		c.Metrics(&m)
		if n := c.SendRoom(); n > 4<<20 {
			f.t.Fatalf("room for %d octets", n)
		}
	case 7:
		c.Sacked(func(seqnum.Range) {})
		c.OOO(func(seqnum.Value, frame.Span) {})
	}
}

// move restores the engine from its own snapshot, which must be valid, maybe
// with other options.
func (f *fuzzed) move() {
	var s tcb.Snapshot
	f.c.Snapshot(f.now, &s)
	each(&s, (*frame.Buf).Retain)
	f.c.Close()
	if f.u8()&7 == 0 {
		f.opts = f.options()
	}
	if err := f.c.Restore(f.now, &s, f.opts); err != nil {
		f.t.Fatalf("the engine's own snapshot: %v", err)
	}
}

// each calls do for the buffer of every span of s.
func each(s *tcb.Snapshot, do func(*frame.Buf)) {
	for _, list := range [][]frame.Span{s.Unacked, s.Unsent} {
		for _, p := range list {
			do(p.Buf)
		}
	}
	for _, p := range s.OutOfOrder {
		do(p.Span.Buf)
	}
}

// output drains the engine and checks what it sends and what it promises.
func (f *fuzzed) output() {
	for n := 0; f.c.Output(f.now, &f.out); n++ {
		f.sent(&f.out)
		if n > 1<<14 {
			f.t.Fatal("output without end")
		}
	}
	if err := f.c.Promises(); err != nil {
		f.t.Fatal(err)
	}
	f.pool.Recycle()
}

func (f *fuzzed) sent(o *wire.Out) {
	got := uint32(0)
	for _, p := range o.Pieces[:o.NPieces] {
		got += uint32(len(p.Bytes()))
	}
	if got != o.Length || got > wire.MaxSuper || o.Size != 0 && got <= uint32(o.Size) {
		f.t.Fatalf("%d octets in pieces, length %d, size %d", got, o.Length, o.Size)
	}
	if f.c.SndNxt().Less(o.Seq.Add(got)) {
		f.t.Fatalf("sent %d octets at %v, snd.nxt is %v", got, o.Seq, f.c.SndNxt())
	}
	for _, b := range o.SACK[:o.NSACK] {
		if b.Empty() {
			f.t.Fatalf("an empty SACK block at %d", b.Lo)
		}
	}
}

// run does what the input says, to its end.
func (f *fuzzed) run(most int) {
	f.output()
	for n := 0; len(f.feed) > 0 && n < most; n++ {
		f.step()
		f.output()
	}
	f.move()
	f.output()
	f.c.Close()
	f.end()
}

// end checks that nothing is kept.
func (f *fuzzed) end() {
	f.pool.Recycle()
	if f.pool.Used() != 0 {
		f.t.Fatalf("%d octets leaked", f.pool.Used())
	}
}

// conn is an engine with nothing in flight.
func (f *fuzzed) conn() {
	f.opts = f.options()
	flags, shifts := f.u8(), f.u8()
	s := &tcb.Snapshot{
		State: tcb.Established, SndUna: seqnum.Value(f.u16()) - 5000, RcvNxt: seqnum.Value(f.u16()) - 5000, MSS: 100,
		SndWnd: 9000, SACK: flags&1 != 0, Timestamps: flags&2 != 0, ECN: flags&4 != 0, SndWscale: shifts & 7, RcvWscale: shifts >> 4 & 7,
		SRTT: time.Duration(flags>>5) * 10 * time.Millisecond, Cwnd: uint32(f.u8()),
	}
	s.SndNxt, s.RcvAcked, s.RcvEdge = s.SndUna, s.RcvNxt, s.RcvNxt+20000
	if err := f.c.Restore(f.now, s, f.opts); err != nil {
		f.t.Fatal(err)
	}
}

// conversation does whatever in says to an engine.
func conversation(t *testing.T, in []byte) {
	f := newFuzzed(t, in)
	f.conn()
	f.run(2000)
}

// FuzzConn does whatever the input says to an engine: nothing panics, nothing
// leaks, every snapshot is valid, every promise is kept after every step.
func FuzzConn(f *testing.F) {
	for i := range uint8(8) {
		f.Add(append([]byte{i, i}, octets(uint64(i), 400)...))
	}
	f.Fuzz(conversation)
}

// TestFuzzedForAWhile runs the fuzz target over inputs of its own, as a plain
// test.
func TestFuzzedForAWhile(t *testing.T) {
	for seed := range uint64(300) {
		conversation(t, append([]byte{uint8(seed), uint8(seed / 7)}, octets(seed, 3000)...))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
