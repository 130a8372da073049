package tcptest

import (
	"bytes"
	"fmt"
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// A Box is an engine with a link to send on, and its timers.
type Box struct {
	tcp.Conn
	Name   string
	Pool   *frame.Pool // the world's
	Out    *Link
	Events tcp.Event // all there were
	After  func()    // runs after everything that came in, before the output

	world *World
	timer mono.Time // when the next alarm rings, 0: none
	out   wire.Out
	snap  tcb.Snapshot
}

// NewBox returns a box whose engine is closed.
func (w *World) NewBox(name string) *Box {
	return &Box{Name: name, Pool: w.Pool, world: w}
}

// Accept takes in a segment.
func (b *Box) Accept(seg *wire.Segment) tcp.Event {
	ev := b.Receive(b.world.Now, seg)
	b.Events |= ev
	b.Pump()
	return ev
}

// Pump does what is to be done: After, output, timer.
func (b *Box) Pump() {
	if b.After != nil {
		b.After()
	}
	b.Flush()
}

// Flush sends what is to be sent and sets the timer.
func (b *Box) Flush() {
	for n := 0; b.Output(b.world.Now, &b.out); n++ {
		if b.Out != nil {
			b.Out.Carry(&b.out)
		}
		if n > 1<<16 {
			panic(fmt.Sprintf("%s: output without end", b.Name))
		}
	}
	b.Pool.Recycle()
	b.setTimer()
	if b.world.Check != nil {
		b.world.Check(b)
	}
}

// setTimer sets an alarm unless one rings by then, which will set the next.
func (b *Box) setTimer() {
	at := b.Deadline()
	if at == 0 || b.timer != 0 && b.timer <= at {
		return
	}
	b.timer = max(at, b.world.Now)
	b.world.at(b.timer, (*alarm)(b))
}

// An alarm is the end of a box's timer, unless an earlier one was set since.
type alarm Box

func (a *alarm) run() {
	b, now := (*Box)(a), a.world.Now
	if b.timer != now {
		return
	}
	b.timer = 0
	if at := b.Deadline(); at == 0 || at > now {
		b.setTimer()
		return
	}
	b.Events |= b.Advance(now)
	b.Pump()
}

// TooBig makes segments fit an MTU, as a link tells it. All of them fit,
// whatever options they have.
func (b *Box) TooBig(mtu int) {
	b.PacketTooBig(b.world.Now, uint32(mtu-ipHeaders-40))
	b.Pump()
}

// An End is a box with a program on top, which writes one stream and reads
// another.
type End struct {
	*Box
	Source  []byte // what is to be written
	Want    []byte // what is to be read
	Wrote   int
	Read    int
	Chunk   int    // octets written at once, 64 KiB unless told otherwise
	Gap     int    // octets in memory between what is written, 0: the engine may join it
	Backlog uint32 // octets that Send may be ahead of snd.una, 256 KiB unless told otherwise
	Slow    bool   // reads only when ReadSome is called
	Lazy    bool   // writes only when Write is called
	Stay    bool   // does not close after Source
	Endless bool   // Source and Want begin again at their end
	Err     error
}

// NewEnd returns an end whose engine is closed.
func (w *World) NewEnd(name string, source, want []byte) *End {
	e := &End{Box: w.NewBox(name), Source: source, Want: want, Chunk: 64 << 10, Backlog: 256 << 10}
	e.After = e.program
	return e
}

func (e *End) program() {
	if !e.Slow {
		e.ReadSome(1 << 30)
	}
	for n := e.writable(); n > 0 && !e.Lazy; n = e.writable() {
		e.Write(n)
	}
	if e.Wrote == len(e.Source) && !e.Stay && !e.Endless {
		e.CloseSend()
	}
}

// writable is how much may be written at once: whole chunks within Backlog, or
// one however large when nothing is in flight.
func (e *End) writable() int {
	left := len(e.Source) - e.Wrote
	if e.Endless {
		left = e.Chunk
	}
	chunk, ahead := min(e.Chunk, left), int(e.SndEnd().Sub(e.SndUna()))
	if ahead == 0 {
		return chunk
	}
	if chunk == 0 || ahead+chunk > int(e.Backlog) {
		return 0
	}
	n := (int(e.Backlog) - ahead) / chunk * chunk
	return min(n, left, max(chunk, 32<<10/chunk*chunk))
}

// Write queues n octets of Source, in chunks.
func (e *End) Write(n int) {
	b := e.Pool.Get(min(n+n/e.Chunk*e.Gap, frame.Large))
	for off := 0; n > 0; {
		k := min(n, e.Chunk, len(b.B)-off)
		fill(b.B[off:off+k], e.Source, e.Wrote)
		b.Retain()
		e.Send(frame.Span{Buf: b, Off: uint32(off), Len: uint32(k)})
		e.Wrote += k
		n -= k
		off += k + e.Gap
	}
	b.Release()
}

// fill copies into b the octets from at on of source, which begins again at
// its end.
func fill(b, source []byte, at int) {
	for n := 0; n < len(b); {
		n += copy(b[n:], source[(at+n)%len(source):])
	}
}

// ReadSome reads about n octets and compares them with Want.
func (e *End) ReadSome(n int) {
	var s frame.Span
	for n > 0 && e.Next(&s) {
		if !e.wanted(s.Bytes()) {
			e.fail("octets at %d are not those sent", e.Read)
		}
		e.Read += int(s.Len)
		n -= int(s.Len)
		s.Buf.Release()
	}
}

// wanted reports whether got is what comes next in Want.
func (e *End) wanted(got []byte) bool {
	if len(e.Want) == 0 || !e.Endless && e.Read+len(got) > len(e.Want) {
		return false
	}
	for at := e.Read; len(got) > 0; {
		want := e.Want[at%len(e.Want):]
		n := min(len(want), len(got))
		if !bytes.Equal(got[:n], want[:n]) {
			return false
		}
		got, at = got[n:], at+n
	}
	return true
}

func (e *End) fail(format string, args ...any) {
	if e.Err == nil {
		e.Err = fmt.Errorf(e.Name+": "+format, args...)
	}
}

// Done reports whether everything was written, acknowledged and read, and both
// directions closed.
func (e *End) Done() bool {
	return e.Err == nil && e.Wrote == len(e.Source) && e.Read == len(e.Want) && e.FINAcked() && e.PeerFINReceived()
}

// Move takes a snapshot and restores it, as a handover does.
func (b *Box) Move(o tcp.Options) error {
	s := &b.snap
	b.Snapshot(b.world.Now, s)
	for _, list := range [][]frame.Span{s.Unacked, s.Unsent} {
		for _, p := range list {
			p.Buf.Retain()
		}
	}
	for _, p := range s.OutOfOrder {
		p.Span.Buf.Retain()
	}
	b.Close()
	return b.Restore(b.world.Now, s, o)
}

// Move lets the program read what is there first: a snapshot has no place for
// it.
func (e *End) Move(o tcp.Options) error {
	e.ReadSome(1 << 30)
	return e.Box.Move(o)
}

// A Shape is what two ends of a connection agreed on.
type Shape struct {
	MSS        uint32
	SACK, TS   bool
	ECN        bool
	ShiftA     uint8 // of the window field that A sends
	ShiftB     uint8
	WindowA    uint32 // first window that A offers
	WindowB    uint32
	ISNA, ISNB seqnum.Value
}

// What the two ends add to the time for their timestamps, in ms.
const (
	ClockA uint32 = 1000
	ClockB uint32 = 1<<32 - 1 - 3600000 - 2000 // it wraps two seconds after the start
)

// Snapshots returns the two ends of a connection with nothing in flight.
func (s Shape) Snapshots(now mono.Time) (a, b *tcb.Snapshot) {
	make1 := func(snd, rcv seqnum.Value, sndWnd, rcvWnd uint32, sndShift, rcvShift uint8, off, recent uint32) *tcb.Snapshot {
		return &tcb.Snapshot{
			State: tcb.Established, SndUna: snd, SndNxt: snd, SndWnd: sndWnd, SndWL1: rcv, SndWL2: snd,
			RcvNxt: rcv, RcvAcked: rcv, RcvEdge: rcv.Add(rcvWnd), SndWscale: sndShift, RcvWscale: rcvShift,
			MSS: s.MSS, SACK: s.SACK, ECN: s.ECN, Timestamps: s.TS, TSOffset: off,
			TSRecent: uint32(now.Milliseconds()) + recent, RTO: 300 * time.Millisecond,
		}
	}
	a = make1(s.ISNA, s.ISNB, s.WindowB, s.WindowA, s.ShiftB, s.ShiftA, ClockA, ClockB)
	b = make1(s.ISNB, s.ISNA, s.WindowA, s.WindowB, s.ShiftA, s.ShiftB, ClockB, ClockA)
	return a, b
}

// Join connects two boxes by links.
func Join(w *World, a, b *Box, ab, ba Path) {
	a.Out = w.NewLink(ab)
	a.Out.Deliver = func(s *wire.Segment) { b.Accept(s) }
	b.Out = w.NewLink(ba)
	b.Out.Deliver = func(s *wire.Segment) { a.Accept(s) }
}
