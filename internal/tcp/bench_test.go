package tcp_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/tcptest"
	"toehold/internal/wire"
)

// pipe hands what one engine puts out straight to another.
type pipe struct {
	now  mono.Time
	a, b tcp.Conn
	pool *frame.Pool
	out  wire.Out
	seg  wire.Segment
}

func newPipe(t testing.TB, mss uint32, oa, ob tcp.Options) *pipe {
	p := &pipe{now: mono.Time(time.Hour), pool: frame.NewPool(64 << 20)}
	s := tcptest.Shape{MSS: mss, SACK: true, TS: true, ShiftA: 7, ShiftB: 7, WindowA: 4 << 20, WindowB: 4 << 20, ISNA: 1, ISNB: 0xffff0000}
	sa, sb := s.Snapshots(p.now)
	if err := p.a.Restore(p.now, sa, oa); err != nil {
		t.Fatal(err)
	}
	if err := p.b.Restore(p.now, sb, ob); err != nil {
		t.Fatal(err)
	}
	return p
}

// pass carries what from puts out to the other engine. Pieces go as segments
// of their own, as nothing is copied.
func (p *pipe) pass(from, to *tcp.Conn) {
	for from.Output(p.now, &p.out) {
		p.seg = p.out.Segment
		for i := 0; i < max(p.out.NPieces, 1); i++ {
			p.seg.Payload = frame.Span{}
			if i < p.out.NPieces {
				p.seg.Payload = p.out.Pieces[i]
			}
			to.Receive(p.now, &p.seg)
			p.seg.Seq = p.seg.Seq.Add(p.seg.Payload.Len)
		}
	}
}

// send moves one buffer of n octets from a's program to b's.
func (p *pipe) send(n int) {
	b := p.pool.Get(n)
	p.a.Send(frame.Span{Buf: b, Len: uint32(n)})
	p.pass(&p.a, &p.b)
	var s frame.Span
	for p.b.Next(&s) {
		s.Buf.Release()
	}
	p.pass(&p.b, &p.a)
	p.pool.Recycle()
	p.now += 10000
}

// gbits reports how many Gbit/s ops of n octets are.
func gbits(b *testing.B, n int) {
	b.ReportMetric(float64(b.N)*float64(n)*8/float64(b.Elapsed().Nanoseconds()), "Gbit/s")
}

const super = 45 * 1448

// BenchmarkSuper is bulk: 64 KiB super-segments through both engines.
func BenchmarkSuper(b *testing.B) {
	for _, name := range append([]string{"none"}, fuzzControls...) {
		b.Run(name, func(b *testing.B) {
			p := newPipe(b, 1448, tcp.Options{CC: name}, tcp.Options{RcvBuf: 4 << 20})
			b.ReportAllocs()
			for b.Loop() {
				p.send(super)
			}
			gbits(b, super)
		})
	}
}

// BenchmarkRepair is bulk of which every so many segments one is lost, the rest
// arrive each on its own: 45 segments, their acknowledgments and the repair.
func BenchmarkRepair(b *testing.B) {
	for _, name := range fuzzControls {
		for _, every := range []int{100, 20, 3} {
			b.Run(fmt.Sprintf("%s, one of %d", name, every), func(b *testing.B) {
				p := newPipe(b, 1448, tcp.Options{CC: name}, tcp.Options{RcvBuf: 4 << 20})
				b.ReportAllocs()
				for b.Loop() {
					p.lose(every)
				}
				gbits(b, super)
			})
		}
	}
}

// BenchmarkSmall is one 64-octet message and its acknowledgment, both engines:
// two segments sent and two received.
func BenchmarkSmall(b *testing.B) {
	p := newPipe(b, 1448, tcp.Options{}, tcp.Options{RcvBuf: 4 << 20})
	b.ReportAllocs()
	for b.Loop() {
		p.send(64)
	}
	b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "segs/s")
}

// BenchmarkReceive is one engine that gets 64-octet segments in order, hands
// them out and acknowledges.
func BenchmarkReceive(b *testing.B) {
	p := newPrey(b, tcp.Options{RcvBuf: 4 << 20}, func(s *tcb.Snapshot) { wide(s); s.RcvWscale, s.Timestamps = 7, true })
	buf := p.pool.Get(64)
	seg := wire.Segment{Seq: p.RcvNxt(), Ack: p.SndUna(), Flags: wire.ACK, Window: 1 << 13, TSOK: true, TSVal: 1, Payload: frame.Span{Buf: buf, Len: 64}}
	var s frame.Span
	b.ReportAllocs()
	for b.Loop() {
		p.Receive(p.now, &seg)
		for p.Next(&s) {
			s.Buf.Release()
		}
		for p.Output(p.now, &p.out) {
			continue
		}
		seg.Seq += 64
		p.now += 300
	}
	buf.Release()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "segs/s")
}

// BenchmarkHostileAcknowledgment is the work that four blocks at random make
// on a full scoreboard.
func BenchmarkHostileAcknowledgment(b *testing.B) {
	p := newPrey(b, tcp.Options{}, func(s *tcb.Snapshot) { wide(s); s.MSS, s.Cwnd = 88, 5000 })
	p.write(400000)
	r := rand.New(rand.NewPCG(1, 1))
	edit := func(s *wire.Segment) { hostile(r, s, p.SndUna(), p.SndNxt(), 0) }
	for range 2000 {
		p.take(edit)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.seg = wire.Segment{Seq: p.RcvNxt(), Ack: p.SndUna(), Flags: wire.ACK}
		edit(&p.seg)
		p.now += 1000
		p.Receive(p.now, &p.seg)
		for p.Output(p.now, &p.out) {
			continue
		}
	}
}
