package port

import (
	"bytes"
	"testing"

	"toehold/internal/frame"
)

// holds puts text into a buffer of pool.
func holds(pool *frame.Pool, text string) frame.Span {
	b := pool.Get(frame.Small)
	return frame.Span{Buf: b, Len: uint32(copy(b.B, text))}
}

// gathered is frame i as the kernel would take it.
func (q *queue) gathered(i int) string {
	var out bytes.Buffer
	for _, v := range q.iovecs[i][:q.frames[i].iovecs] {
		out.Write(octetsOf(v))
	}
	return out.String()
}

func TestQueueGathersHeaderAndPieces(t *testing.T) {
	pool := frame.NewPool(1 << 20)
	a, b := holds(pool, "abcdefgh"), holds(pool, "12345678")
	for _, tt := range []struct {
		name           string
		header         string
		pieces         []frame.Span
		want           string
		iovecs, pinned int
	}{
		{"header alone", "head", nil, "head", 1, 0},
		{"piece alone", "", []frame.Span{a}, "abcdefgh", 1, 1},
		{"both", "head", []frame.Span{a, b}, "headabcdefgh12345678", 3, 2},
		{"neighbours become one", "h", []frame.Span{a.Slice(0, 2), a.Slice(2, 3), a.Slice(5, 1)}, "habcdef", 2, 1},
		{"a gap does not", "h", []frame.Span{a.Slice(0, 2), a.Slice(3, 3)}, "habdef", 3, 2},
		{"nor another buffer", "h", []frame.Span{a.Slice(0, 2), b.Slice(2, 2)}, "hab34", 3, 2},
		{"nothing is left out", "h", []frame.Span{{}, a.Slice(0, 1), {}, a.Slice(1, 1)}, "hab", 2, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := new(queue)
			header := []byte(tt.header)
			if !q.add(header, tt.pieces) {
				t.Fatal("full")
			}
			clear(header) // it was copied
			f := q.frames[0]
			if got := q.gathered(0); got != tt.want || f.octets != len(tt.want) {
				t.Errorf("frame %q of %d octets, want %q", got, f.octets, tt.want)
			}
			if f.iovecs != tt.iovecs || f.pieces != tt.pinned {
				t.Errorf("%d iovecs and %d references", f.iovecs, f.pieces)
			}
			q.pop(1)
		})
	}
	a.Buf.Release()
	b.Buf.Release()
	pool.Recycle()
	if pool.Used() != 0 {
		t.Errorf("%d octets were never released", pool.Used())
	}
}

func TestQueuedPiecesOutliveTheirOwner(t *testing.T) {
	pool := frame.NewPool(1 << 20)
	s := holds(pool, "payload")
	q := new(queue)
	q.add([]byte("h"), []frame.Span{s})
	s.Buf.Release()
	pool.Recycle()
	if other := pool.Get(frame.Small); other == s.Buf {
		t.Fatal("a queued buffer was given out again")
	}
	if got := q.gathered(0); got != "hpayload" {
		t.Errorf("frame %q", got)
	}
	q.pop(1)
	pool.Recycle()
	if pool.Get(frame.Small) != s.Buf {
		t.Error("a buffer was not released by the queue")
	}
}

func TestQueueIsBoundedAndKeepsOrder(t *testing.T) {
	q := new(queue)
	for i := range batch {
		if !q.add([]byte{byte(i)}, nil) {
			t.Fatalf("full after %d frames", i)
		}
	}
	if q.add([]byte{0}, nil) {
		t.Fatal("took more than a batch")
	}
	q.pop(10)
	if q.pending() != batch-10 || q.gathered(q.first) != string([]byte{10}) {
		t.Errorf("%d wait, the first is %q", q.pending(), q.gathered(q.first))
	}
	q.pop(batch - 10)
	if !q.add([]byte{1}, nil) || q.pending() != 1 {
		t.Error("an empty queue takes nothing")
	}
}

func TestFits(t *testing.T) {
	for _, tt := range []struct {
		header, pieces int
		want           bool
	}{
		{0, 0, true}, {maxHeader, maxPieces, true}, {maxHeader + 1, 0, false}, {0, maxPieces + 1, false},
	} {
		if got := fits(make([]byte, tt.header), make([]frame.Span, tt.pieces)); got != tt.want {
			t.Errorf("%d octets and %d pieces: %v", tt.header, tt.pieces, got)
		}
	}
}
