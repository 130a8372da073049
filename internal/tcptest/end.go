package tcptest

import (
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
	Pool   *frame.Pool
	Out    *Link
	Events tcp.Event // all there were
	After  func()    // runs after everything that came in, before the output

	world *World
	timer mono.Time
	out   wire.Out
}

// NewBox returns a box whose engine is closed.
func (w *World) NewBox(name string) *Box {
	return &Box{Name: name, Pool: frame.NewPool(1 << 30), world: w}
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
}

func (b *Box) setTimer() {
	at := b.Deadline()
	if at == 0 || b.timer != 0 && b.timer <= at && b.timer > b.world.Now {
		return
	}
	b.timer = max(at, b.world.Now)
	b.world.At(b.timer, func() { b.ring(at) })
}

func (b *Box) ring(at mono.Time) {
	if b.timer == at {
		b.timer = 0
	}
	b.Events |= b.Advance(b.world.Now)
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
	Chunk   int    // octets written at most at once, 0: 64 KiB
	Backlog uint32 // octets that Send may be ahead of snd.una, 0: 256 KiB
	Slow    bool   // reads only when ReadSome is called
	Stay    bool   // does not close after Source
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
	e.write()
}

// write queues as much as may be.
func (e *End) write() {
	for e.Wrote < len(e.Source) {
		ahead := e.SndEnd().Sub(e.SndUna())
		n := min(e.Chunk, len(e.Source)-e.Wrote, frame.Large)
		if ahead+uint32(n) > e.Backlog && ahead > 0 {
			return
		}
		e.Write(n)
	}
	if !e.Stay {
		e.CloseSend()
	}
}

// Write queues n octets of Source.
func (e *End) Write(n int) {
	b := e.Pool.Get(n)
	copy(b.B, e.Source[e.Wrote:e.Wrote+n])
	e.Wrote += n
	e.Send(frame.Span{Buf: b, Len: uint32(n)})
}

// ReadSome reads about n octets and compares them with Want.
func (e *End) ReadSome(n int) {
	var s frame.Span
	for n > 0 && e.Next(&s) {
		got := s.Bytes()
		if e.Read+len(got) > len(e.Want) || string(got) != string(e.Want[e.Read:e.Read+len(got)]) {
			e.fail("octets at %d are not those sent", e.Read)
		}
		e.Read += len(got)
		n -= len(got)
		s.Buf.Release()
	}
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
	var s tcb.Snapshot
	b.Snapshot(b.world.Now, &s)
	for _, list := range [][]frame.Span{s.Unacked, s.Unsent} {
		for _, p := range list {
			p.Buf.Retain()
		}
	}
	for _, p := range s.OutOfOrder {
		p.Span.Buf.Retain()
	}
	b.Close()
	return b.Restore(b.world.Now, &s, o)
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
			MSS: s.MSS, SACK: s.SACK, Timestamps: s.TS, TSOffset: off,
			TSRecent: uint32(now.Milliseconds()) + recent, RTO: 300 * time.Millisecond,
		}
	}
	a = make1(s.ISNA, s.ISNB, s.WindowB, s.WindowA, s.ShiftB, s.ShiftA, ClockA, ClockB)
	b = make1(s.ISNB, s.ISNA, s.WindowA, s.WindowB, s.ShiftA, s.ShiftB, ClockB, ClockA)
	return a, b
}

// Join connects two boxes by links.
func Join(w *World, a, b *Box, ab, ba Path) {
	a.Out = w.NewLink(ab, b.Pool)
	a.Out.Deliver = func(s *wire.Segment) { b.Accept(s) }
	b.Out = w.NewLink(ba, a.Pool)
	b.Out.Deliver = func(s *wire.Segment) { a.Accept(s) }
}
