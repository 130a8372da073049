package tcp_test

import (
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
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

// BenchmarkSuper is bulk: 64 KiB super-segments through both engines.
func BenchmarkSuper(b *testing.B) {
	p := newPipe(b, 1448, tcp.Options{}, tcp.Options{RcvBuf: 4 << 20})
	b.SetBytes(45 * 1448)
	b.ReportAllocs()
	for b.Loop() {
		p.send(45 * 1448)
	}
}

// BenchmarkSmall is one 64-octet message and its acknowledgment.
func BenchmarkSmall(b *testing.B) {
	p := newPipe(b, 1448, tcp.Options{}, tcp.Options{RcvBuf: 4 << 20})
	b.ReportAllocs()
	for b.Loop() {
		p.send(64)
	}
}
