package tcp_test

import (
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/tcptest"
	"toehold/internal/wire"
)

// allocFree runs f until queues have grown to what it needs, then counts.
func allocFree(t *testing.T, name string, f func()) {
	t.Helper()
	for range 200 {
		f()
	}
	if n := testing.AllocsPerRun(200, f); n != 0 {
		t.Errorf("%s: %v allocations", name, n)
	}
}

func TestNoAllocations(t *testing.T) {
	big := tcp.Options{RcvBuf: 4 << 20}
	p := newPipe(t, 1448, big, big)
	allocFree(t, "bulk", func() { p.send(45 * 1448) })
	allocFree(t, "small", func() { p.send(64) })
	allocFree(t, "a segment lost", func() { p.lose(3) })
	allocFree(t, "many segments lost", func() { p.lose(2) })
	allocFree(t, "timeout", p.timeout)
	allocFree(t, "tail loss probe", p.tail)
	allocFree(t, "spurious timeout", p.spurious)
	allocFree(t, "reordering timer", p.reordered)
	if st := p.a.Stats(); st.TailProbes == 0 || st.RTOs == 0 || st.Undos == 0 || st.FastRecoveries == 0 {
		t.Errorf("nothing of this happened: %+v", *st)
	}
	plain := newPipe(t, 1448, tcp.Options{CC: "reno"}, big)
	plain.forgetSACK(t)
	allocFree(t, "without SACK", func() { plain.lose(5) })
	allocFree(t, "timeout without SACK", plain.timeout)
	reno := newPipe(t, 1448, tcp.Options{CC: "reno"}, big)
	allocFree(t, "reno", func() { reno.lose(5) })
	bbr := newPipe(t, 1448, tcp.Options{CC: "bbr"}, big)
	allocFree(t, "bbr", func() { bbr.lose(5) })
	through := newPipe(t, 1448, big, tcp.Options{Through: true})
	allocFree(t, "through", through.through)
}

// lose sends 45 segments of which every nth is lost, and repairs that.
func (p *pipe) lose(every int) {
	b := p.pool.Get(45 * 1448)
	p.a.Send(frame.Span{Buf: b, Len: 45 * 1448})
	for p.a.Output(p.now, &p.out) {
		p.split(func(i int) bool { return i%every == 0 })
		p.pass(&p.b, &p.a)
	}
	for p.a.SndUna() != p.a.SndEnd() {
		p.now = max(p.now, p.a.Deadline())
		p.a.Advance(p.now)
		p.pass(&p.a, &p.b)
		p.pass(&p.b, &p.a)
	}
	p.drain()
}

// split delivers p.out to b as single segments, less those lost.
func (p *pipe) split(lost func(i int) bool) {
	size, n := uint32(max(p.out.Size, 1448)), p.out.Length
	p.seg = p.out.Segment
	p.seg.Size = 0
	for i, off := 0, uint32(0); off < n && p.out.NPieces == 1; i, off = i+1, off+size {
		if p.seg.Payload = p.out.Pieces[0].Slice(off, min(size, n-off)); !lost(i) {
			p.b.Receive(p.now, &p.seg)
			p.pass(&p.b, &p.a)
		}
		p.seg.Seq = p.seg.Seq.Add(size)
	}
}

func (p *pipe) drain() {
	var s frame.Span
	for p.b.Next(&s) {
		s.Buf.Release()
	}
	p.pass(&p.b, &p.a)
	p.pool.Recycle()
}

// timeout loses everything, once.
func (p *pipe) timeout() {
	b := p.pool.Get(3000)
	p.a.Send(frame.Span{Buf: b, Len: 3000})
	for p.a.Output(p.now, &p.out) {
		continue
	}
	p.now = p.a.Deadline()
	p.lose(1000)
}

// forgetSACK begins anew without SACK.
func (p *pipe) forgetSACK(t *testing.T) {
	for _, c := range []*tcp.Conn{&p.a, &p.b} {
		var s tcb.Snapshot
		c.Snapshot(p.now, &s)
		s.SACK = false
		c.Close()
		if err := c.Restore(p.now, &s, tcp.Options{CC: "reno", RcvBuf: 4 << 20}); err != nil {
			t.Fatal(err)
		}
	}
}

// tail loses the last of some segments, which a probe finds.
func (p *pipe) tail() {
	b := p.pool.Get(5 * 1448)
	p.a.Send(frame.Span{Buf: b, Len: 5 * 1448})
	for p.a.Output(p.now, &p.out) {
		p.split(func(i int) bool { return i == 4 })
	}
	p.lose(1000)
}

// spurious is a timeout, and the originals arrive after it.
func (p *pipe) spurious() {
	b := p.pool.Get(5 * 1448)
	p.a.Send(frame.Span{Buf: b, Len: 5 * 1448})
	var late wire.Out
	for p.a.Output(p.now, &p.out) {
		late = p.out
	}
	for n := p.a.Stats().RTOs; p.a.Stats().RTOs == n; {
		p.now = max(p.now, p.a.Deadline())
		p.a.Advance(p.now)
		for p.a.Output(p.now, &p.out) {
			continue
		}
	}
	p.out = late
	p.split(func(int) bool { return false })
	p.pass(&p.b, &p.a)
	p.lose(1000)
}

// reordered lets one of some segments come late, once the reordering timer has
// gone off for it.
func (p *pipe) reordered() {
	b := p.pool.Get(2 * 1448)
	p.a.Send(frame.Span{Buf: b, Len: 2 * 1448})
	for p.a.Output(p.now, &p.out) {
		p.now = p.now.Add(time.Millisecond)
		p.split(func(i int) bool { return i == 0 })
	}
	p.pass(&p.b, &p.a)
	p.lose(1000)
}

// through is a super-segment that is permitted afterwards.
func (p *pipe) through() {
	b := p.pool.Get(45 * 1448)
	p.a.Send(frame.Span{Buf: b, Len: 45 * 1448})
	for p.a.SndUna() != p.a.SndEnd() {
		p.pass(&p.a, &p.b)
		p.b.Permit(p.b.RcvNxt(), p.b.RcvNxt()+1<<20)
		p.pass(&p.b, &p.a)
	}
	p.drain()
}

// TestIdleHoldsNoBuffer: a second after the last segment an idle connection
// has given its rings back, and has no timer.
func TestIdleHoldsNoBuffer(t *testing.T) {
	p := newPipe(t, 1448, tcp.Options{}, tcp.Options{})
	p.send(10 * 1448)
	p.lose(3)
	for _, c := range []*tcp.Conn{&p.a, &p.b} {
		for range 10 {
			if d := c.Deadline(); d != 0 {
				p.now = max(p.now, d)
				c.Advance(p.now)
				p.pass(&p.b, &p.a)
				p.pass(&p.a, &p.b)
			}
		}
		if c.Deadline() != 0 {
			t.Errorf("an idle connection has a timer at %v", c.Deadline())
		}
		if n := c.Held(); n != 0 {
			t.Errorf("an idle connection holds %d octets of rings", n)
		}
	}
	if p.pool.Used() != 0 {
		t.Errorf("%d octets of buffers in use", p.pool.Used())
	}
}

// twoHops is a relay in memory: peer, wire engine, host engine, program.
type twoHops struct {
	peer, wire, host, program tcp.Conn
	now                       mono.Time
	pool                      *frame.Pool
	out                       wire.Out
	seg                       wire.Segment
}

func newTwoHops(t testing.TB) *twoHops {
	h := &twoHops{now: mono.Time(time.Hour), pool: frame.NewPool(64 << 20)}
	s := tcptest.Shape{MSS: 1448, SACK: true, TS: true, ShiftA: 7, ShiftB: 7, WindowA: 4 << 20, WindowB: 4 << 20, ISNA: 1, ISNB: 0xffff0000}
	peer, program := s.Snapshots(h.now)
	for _, e := range []error{
		h.peer.Restore(h.now, peer, tcp.Options{RcvBuf: 4 << 20}), h.wire.Restore(h.now, program, tcptest.WireOptions),
		h.host.Restore(h.now, peer, tcptest.HostOptions), h.program.Restore(h.now, program, tcp.Options{RcvBuf: 4 << 20}),
	} {
		if e != nil {
			t.Fatal(e)
		}
	}
	return h
}

func (h *twoHops) pass(from, to *tcp.Conn) {
	for from.Output(h.now, &h.out) {
		h.seg = h.out.Segment
		for i := range max(h.out.NPieces, 1) {
			h.seg.Payload = frame.Span{}
			if i < h.out.NPieces {
				h.seg.Payload = h.out.Pieces[i]
			}
			to.Receive(h.now, &h.seg)
			h.seg.Seq = h.seg.Seq.Add(h.seg.Payload.Len)
		}
	}
}

// pump is what the device does for every frame.
func (h *twoHops) pump() {
	var s frame.Span
	for h.wire.Next(&s) {
		h.host.Send(s)
	}
	for h.host.Next(&s) {
		h.wire.Send(s)
	}
	h.host.SetTimestamp(h.wire.TSRecent(), h.wire.TSEcrLast())
	h.wire.Permit(h.host.SndUna(), h.host.SndEdge())
	h.host.Permit(h.wire.SndUna(), h.wire.SndEdge())
}

// send moves n octets from the peer to the program and the acknowledgments
// back.
func (h *twoHops) send(n int) {
	var s frame.Span
	b := h.pool.Get(n)
	h.peer.Send(frame.Span{Buf: b, Len: uint32(n)})
	h.pass(&h.peer, &h.wire)
	h.pump()
	h.pass(&h.host, &h.program)
	for h.program.Next(&s) {
		s.Buf.Release()
	}
	h.pass(&h.program, &h.host)
	h.pump()
	h.pass(&h.wire, &h.peer)
	h.pool.Recycle()
	h.now += 10000
}

func TestNoAllocationsThroughRelay(t *testing.T) {
	h := newTwoHops(t)
	allocFree(t, "bulk", func() { h.send(45 * 1448) })
	allocFree(t, "small", func() { h.send(64) })
}

// BenchmarkRelay is a super-segment through peer, relay and program: four
// engines.
func BenchmarkRelay(b *testing.B) {
	h := newTwoHops(b)
	b.SetBytes(45 * 1448)
	b.ReportAllocs()
	for b.Loop() {
		h.send(45 * 1448)
	}
}

// BenchmarkRelaySmall is a 64-octet message by the same way.
func BenchmarkRelaySmall(b *testing.B) {
	h := newTwoHops(b)
	b.ReportAllocs()
	for b.Loop() {
		h.send(64)
	}
}

// BenchmarkLossy is 45 single segments of which every fifth is lost: gaps,
// SACK both ways and recovery.
func BenchmarkLossy(b *testing.B) {
	p := newPipe(b, 1448, tcp.Options{}, tcp.Options{RcvBuf: 4 << 20})
	b.SetBytes(45 * 1448)
	b.ReportAllocs()
	for b.Loop() {
		p.lose(5)
	}
}
