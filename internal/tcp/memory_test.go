package tcp_test

import (
	"testing"

	"toehold/internal/frame"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// An attack is what a peer sends to make an engine hold memory: segment i of
// it starts at seq(i) after rcv.nxt, is n octets and comes in a buffer of buf.
type attack struct {
	name string
	seq  func(i uint32) uint32
	n    uint32
	buf  int
}

var attacks = []attack{
	{"octets in a row", func(i uint32) uint32 { return 1 + i }, 1, frame.Small},
	{"octets from the far end on", func(i uint32) uint32 { return 60000 - i }, 1, frame.Small},
	{"octets with gaps", func(i uint32) uint32 { return 1 + 2*i }, 1, frame.Small},
	{"octets at random", func(i uint32) uint32 { return 1 + i*7919%60000 }, 1, frame.Small},
	{"an octet in a large buffer", func(i uint32) uint32 { return 1 + i }, 1, frame.Large},
	{"super-segments of two", func(i uint32) uint32 { return 1 + 2896*i }, 2896, frame.Medium},
	{"super-segments of two, each in a large buffer", func(i uint32) uint32 { return 1 + 2896*i }, 2896, frame.Large},
	{"super-segments with one new octet each", func(i uint32) uint32 { return 1 + i }, 60000, frame.Large},
	{"overlaps", func(i uint32) uint32 { return 1 + i%2*4000 + i/2*8000 }, 5000, frame.Large},
}

// victim is an engine with a window that nothing of an attack is beyond.
func victim(t *testing.T, o tcp.Options) *tcp.Conn {
	var c tcp.Conn
	s := established(func(s *tcb.Snapshot) { s.RcvEdge = s.RcvNxt.Add(tcb.MaxWindow) })
	if err := c.Restore(noon, s, o); err != nil {
		t.Fatal(err)
	}
	return &c
}

// deliver is a segment as the device gets it: the reader's reference to the
// buffer is given up once it was looked at.
func deliver(t *testing.T, c *tcp.Conn, pool *frame.Pool, seq seqnum.Value, n uint32, buf int) tcp.Event {
	b := pool.Get(buf)
	if b == nil {
		t.Fatalf("%d octets in use", pool.Used())
	}
	ev := c.Receive(noon, &wire.Segment{Seq: seq, Ack: 1000, Flags: wire.ACK, Window: 60000, Payload: frame.Span{Buf: b, Len: n}})
	b.Release()
	pool.Recycle()
	return ev
}

// TestOutOfOrderMemory: whatever comes after a gap, the buffers that the engine
// keeps for it hold no more than MaxOOO; and it goes on when the gap closes.
func TestOutOfOrderMemory(t *testing.T) {
	for _, limit := range []uint32{0, 1 << 20, 3 * frame.Small} {
		for _, a := range attacks {
			for _, through := range []bool{true, false} {
				pool := frame.NewPool(1 << 30)
				c := victim(t, tcp.Options{Through: through, MaxOOO: limit})
				checkOutOfOrder(t, a, c, pool, limit)
				c.Close()
				pool.Recycle()
				if pool.Used() != 0 {
					t.Errorf("%s: %d octets leaked", a.name, pool.Used())
				}
			}
		}
	}
}

func checkOutOfOrder(t *testing.T, a attack, c *tcp.Conn, pool *frame.Pool, limit uint32) {
	if limit == 0 {
		limit = 4 << 20
	}
	most := 0
	for i := range uint32(6000) {
		deliver(t, c, pool, seqnum.Value(5000).Add(a.seq(i)), a.n, a.buf)
		most = max(most, pool.Used())
	}
	if most > int(limit) {
		t.Errorf("%s: %d octets of memory, the limit is %d", a.name, most, limit)
	}
	if most == 0 && int(limit) >= a.buf {
		t.Errorf("%s: nothing was kept", a.name)
	}
	if in, ooo := c.Miscounted(); in != 0 || ooo != 0 {
		t.Errorf("%s: counts %d, %d octets more than it holds", a.name, in, ooo)
	}
	var s frame.Span
	deliver(t, c, pool, 5000, 1, frame.Small)
	for c.Next(&s) {
		s.Buf.Release()
	}
	c.OOO(func(seq seqnum.Value, _ frame.Span) {
		if !c.RcvNxt().Less(seq) {
			t.Errorf("%s: octets at %d wait, rcv.nxt is %d", a.name, seq, c.RcvNxt())
		}
	})
}

// TestInOrderMemory: payload that the program does not read is bounded in
// memory, too, not only by the window; what was refused is taken when it comes
// again after the program has read.
func TestInOrderMemory(t *testing.T) {
	const buffer, limit = 100000, 500000
	for _, buf := range []int{frame.Small, frame.Large} {
		pool := frame.NewPool(1 << 30)
		c := victim(t, tcp.Options{RcvBuf: buffer, MaxOOO: limit - buffer})
		refused := 0
		for range 6000 {
			if ev := deliver(t, c, pool, c.RcvNxt(), 1, buf); ev == tcp.Dropped {
				refused++
			}
		}
		if pool.Used() > limit+frame.Large || pool.Used() < limit-frame.Large || refused == 0 {
			t.Errorf("buffers of %d: %d octets of memory, %d segments refused", buf, pool.Used(), refused)
		}
		if in, ooo := c.Miscounted(); in != 0 || ooo != 0 {
			t.Errorf("counts %d, %d octets more than it holds", in, ooo)
		}
		var s frame.Span
		for c.Next(&s) {
			s.Buf.Release()
		}
		pool.Recycle()
		if ev := deliver(t, c, pool, c.RcvNxt(), 1, buf); ev != tcp.Readable || pool.Used() != buf {
			t.Errorf("after reading: events %b, %d octets of memory", ev, pool.Used())
		}
	}
}

// TestSmallSegmentsAreKept: with its default limit the engine keeps a lossy
// path's worth of ordinary segments.
func TestSmallSegmentsAreKept(t *testing.T) {
	pool := frame.NewPool(1 << 30)
	c := victim(t, tcp.Options{Through: true})
	for i := range uint32(2000) {
		deliver(t, c, pool, seqnum.Value(5000).Add(1448+1448*i), 1448, frame.Small)
	}
	if n := c.Stats().OOODropped; n != 0 {
		t.Errorf("%d octets dropped", n)
	}
	if deliver(t, c, pool, 5000, 1448, frame.Small); c.RcvNxt() != 5000+2001*1448 {
		t.Errorf("rcv.nxt is %d", c.RcvNxt())
	}
	c.Close()
}
