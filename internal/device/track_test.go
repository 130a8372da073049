package device

import (
	"math/rand/v2"
	"testing"

	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

func payload(p *frame.Pool, n uint32) frame.Span {
	return frame.Span{Buf: p.Get(int(n)), Len: n}
}

// check holds a track to its promises.
func (t *track) check(tb testing.TB) {
	tb.Helper()
	var octets uint32
	for _, s := range t.held {
		octets += s.Len
	}
	switch {
	case octets != t.octets:
		tb.Fatalf("holds %d octets, counts %d", octets, t.octets)
	case !t.seen || !t.told:
	case t.nxt.Less(t.una):
		tb.Fatalf("una %d is after nxt %d", t.una, t.nxt)
	case len(t.held) > 0 && t.lo.Less(t.una):
		tb.Fatalf("lo %d is before una %d", t.lo, t.una)
	case len(t.held) > 0 && t.lo.Add(octets) != t.nxt:
		tb.Fatalf("from %d on %d octets are held, nxt is %d", t.lo, octets, t.nxt)
	case t.covered() && t.una.Add(octets) != t.nxt:
		tb.Fatalf("says covered with %d octets from %d, nxt %d", octets, t.una, t.nxt)
	}
}

func TestTrack(t *testing.T) {
	pool := frame.NewPool(64 << 20)
	type do func(*track)
	sent := func(seq seqnum.Value, n uint32) do {
		return func(tr *track) { tr.sent(seq, payload(pool, n), false) }
	}
	acked := func(ack seqnum.Value) do { return func(tr *track) { tr.acked(ack, 100) } }
	settle := func(una, nxt seqnum.Value) do { return func(tr *track) { tr.settle(una, nxt) } }
	for _, tt := range []struct {
		name    string
		does    []do
		covered bool
		octets  uint32
	}{
		{"nothing seen", nil, false, 0},
		{"idle", []do{settle(100, 100)}, true, 0},
		{"in flight before the steering", []do{settle(100, 200)}, false, 0},
		{"that acknowledged", []do{settle(100, 200), acked(200)}, true, 0},
		{"that acknowledged in part", []do{settle(100, 200), acked(150)}, false, 0},
		{"all seen from the first", []do{sent(100, 50), sent(150, 50), settle(100, 200)}, true, 100},
		{"seen from the middle", []do{sent(150, 50), settle(100, 200)}, false, 50},
		{"no acknowledgement known", []do{sent(100, 50)}, false, 50},
		{"a hole", []do{acked(100), sent(100, 10), sent(150, 50)}, false, 50},
		{"a hole, acknowledged past it", []do{sent(100, 10), sent(150, 50), acked(150)}, true, 50},
		{"sent again", []do{acked(100), sent(100, 50), sent(100, 50)}, true, 50},
		{"sent again with more", []do{acked(100), sent(100, 50), sent(100, 80)}, true, 80},
		{"acknowledged in the middle", []do{sent(100, 50), acked(120)}, true, 30},
		{"acknowledged beyond what was seen", []do{sent(100, 50), acked(500)}, true, 0},
		{"old data after the kernel told", []do{settle(200, 200), sent(100, 50)}, true, 0},
		{"an old acknowledgement", []do{sent(100, 50), acked(120), acked(110)}, true, 30},
		{"across the wrap", []do{sent(0xfffffff0, 0x20), acked(0xfffffff8)}, true, 0x18},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var tr track
			for _, d := range tt.does {
				d(&tr)
				tr.check(t)
			}
			if tr.covered() != tt.covered || tr.octets != tt.octets {
				t.Errorf("covered %v with %d octets, want %v with %d", tr.covered(), tr.octets, tt.covered, tt.octets)
			}
		})
	}
}

func TestTrackForgetsWhatNobodyAcknowledges(t *testing.T) {
	pool := frame.NewPool(200 << 20)
	var tr track
	seq := seqnum.Value(1)
	for range 2000 {
		s := payload(pool, 60000)
		tr.sent(seq, s, false)
		s.Buf.Release()
		pool.Recycle()
		seq = seq.Add(60000)
		if tr.octets > maxTracked+60000 {
			t.Fatalf("holds %d octets", tr.octets)
		}
	}
}

func TestTrackReleasesEveryBuffer(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		pool := frame.NewPool(64 << 20)
		var tr track
		base := seqnum.Value(r.Uint32())
		for range 200 {
			at := base.Add(uint32(r.IntN(100000)))
			switch r.IntN(4) {
			case 0, 1:
				s := payload(pool, uint32(1+r.IntN(5000)))
				tr.sent(at, s, false)
				s.Buf.Release()
			case 2:
				tr.acked(at, 0)
			case 3:
				tr.settle(at, at.Add(uint32(r.IntN(1000))))
			}
			tr.check(t)
		}
		tr.release()
		pool.Recycle()
		if pool.Used() != 0 {
			t.Fatalf("seed %d: %d octets are still in use", seed, pool.Used())
		}
	}
}
