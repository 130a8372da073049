package tcptest

import (
	"bytes"
	"math"
	"slices"
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/wire"
)

const ms = time.Millisecond

// An arrival is a segment as it was delivered, its payload copied.
type arrival struct {
	wire.Segment
	at   time.Duration
	data []byte
}

// A sink is a link whose arrivals are kept.
type sink struct {
	*Link
	w   *World
	got []arrival
}

func newSink(w *World, p Path) *sink {
	s, start := &sink{Link: w.NewLink(p), w: w}, w.Now
	s.Deliver = func(seg *wire.Segment) {
		a := arrival{Segment: *seg, at: w.Now.Sub(start)}
		if seg.Payload.Len > 0 {
			a.data = bytes.Clone(seg.Payload.Bytes())
		}
		s.got = append(s.got, a)
	}
	return s
}

// send carries a super-segment of n octets at seq, in segments of 100, in two
// pieces. Octet i of the sequence space is byte(i).
func (s *sink) send(seq, n int, edit func(*wire.Out)) {
	out := wire.Out{Length: uint32(n)}
	out.Seq, out.Flags = 0, wire.ACK
	out.Seq = out.Seq.Add(uint32(seq))
	if n > 100 {
		out.Size = 100
	}
	if n > 0 {
		b := s.w.Pool.Get(n)
		for i := range n {
			b.B[i] = byte(seq + i)
		}
		cut := uint32(n / 3)
		out.Pieces[0], out.Pieces[1] = frame.Span{Buf: b, Len: cut}, frame.Span{Buf: b, Off: cut, Len: uint32(n) - cut}
		out.NPieces = 2
		defer b.Release()
	}
	edit(&out)
	s.Carry(&out)
}

func plain(*wire.Out) {}

func (s *sink) seqs() (list []int) {
	for _, a := range s.got {
		list = append(list, int(a.Seq))
	}
	return list
}

func (s *sink) times() (list []time.Duration) {
	for _, a := range s.got {
		list = append(list, a.at)
	}
	return list
}

func (s *sink) wait(d time.Duration) { s.w.RunUntil(s.w.Now.Add(d)) }

// carried sends a super-segment of n segments of 100 octets over a path.
func carried(p Path, n int) *sink {
	s := newSink(NewWorld(7), p)
	s.send(0, 100*n, plain)
	s.wait(time.Hour)
	return s
}

// TestSplit: FIN and PSH go with the last segment, CWR with the first
// (RFC 3168, section 6.1.2: a new window's first), all the rest with all.
func TestSplit(t *testing.T) {
	s := newSink(NewWorld(7), Path{Delay: 5 * ms})
	s.send(1000, 350, func(o *wire.Out) {
		o.Flags = wire.ACK | wire.PSH | wire.FIN | wire.CWR
		o.Ack, o.Window, o.TSOK, o.TSVal = 77, 88, true, 99
	})
	s.wait(time.Second)
	if !slices.Equal(s.seqs(), []int{1000, 1100, 1200, 1300}) || s.Carried != 4 || s.Lost != 0 {
		t.Fatalf("%v, carried %d", s.seqs(), s.Carried)
	}
	flags := []uint8{wire.ACK | wire.CWR, wire.ACK, wire.ACK, wire.ACK | wire.PSH | wire.FIN}
	for i, a := range s.got {
		if a.Flags != flags[i] || a.Ack != 77 || a.Window != 88 || !a.TSOK || a.TSVal != 99 || a.Size != 0 || a.at != 5*ms {
			t.Errorf("segment %d at %v: %+v", i, a.at, a.Segment)
		}
		s.check(t, a)
	}
}

// check compares an arrival's octets with those sent.
func (s *sink) check(t *testing.T, a arrival) {
	t.Helper()
	for i, o := range a.data {
		if o != byte(int(a.Seq)+i) {
			t.Fatalf("octet %d is %d", int(a.Seq)+i, o)
		}
	}
}

func TestWhole(t *testing.T) {
	s := carried(Path{Whole: true}, 4)
	if len(s.got) != 1 || len(s.got[0].data) != 400 || s.got[0].Size != 100 {
		t.Fatalf("%d arrivals", len(s.got))
	}
	s.check(t, s.got[0])
}

func TestWeather(t *testing.T) {
	for _, tt := range []struct {
		name     string
		path     Path
		min, max int // arrivals of 600
		ordered  bool
	}{
		{"loss", Path{Loss: 0.5}, 250, 350, true},
		{"corruption", Path{Corrupt: 0.5}, 250, 350, true},
		{"all lost", Path{Loss: 1}, 0, 0, true},
		{"loss of acknowledgments alone", Path{AckLoss: 1}, 600, 600, true},
		{"doubled", Path{Double: 0.5}, 850, 950, true},
		{"jitter", Path{Jitter: time.Second}, 600, 600, false},
		{"wobble", Path{Wobble: time.Second}, 600, 600, true},
		{"late", Path{Late: 0.1, Behind: time.Second}, 600, 600, false},
		{"rate", Path{Rate: 15400}, 600, 600, true},
		{"queue", Path{Rate: 15400, Queue: 1540}, 10, 12, true},
		{"hold of acknowledgments alone", Path{AckHold: time.Second}, 600, 600, true},
	} {
		s := carried(tt.path, 600)
		sorted := slices.IsSorted(s.seqs())
		if len(s.got) < tt.min || len(s.got) > tt.max || sorted != tt.ordered || s.Carried != 600 || s.Lost != 600-min(len(s.got), 600) && tt.path.Double == 0 {
			t.Errorf("%s: %d arrived, in order %v", tt.name, len(s.got), sorted)
		}
		switch at := s.times(); tt.name {
		case "rate": // 154 octets each
			if at[599] != 6*time.Second {
				t.Errorf("the last arrived at %v", at[599])
			}
		case "wobble", "hold of acknowledgments alone":
			if spread := at[599] - at[0]; (spread > 50*ms) != (tt.name == "wobble") {
				t.Errorf("%s: spread %v", tt.name, spread)
			}
		}
	}
}

// TestHeaders: what the line counts is the whole Ethernet frame: 14, 20 and 20
// octets, 12 of timestamps, 4 and 8 for each SACK block.
func TestHeaders(t *testing.T) {
	for _, tt := range []struct {
		n    int
		edit func(*wire.Out)
		want int
	}{
		{0, plain, 54},
		{100, plain, 154},
		{100, func(o *wire.Out) { o.TSOK = true }, 166},
		{0, func(o *wire.Out) { o.TSOK, o.NSACK = true, 3 }, 94},
		{250, plain, 412},
	} {
		for _, whole := range []bool{false, true} {
			s := newSink(NewWorld(1), Path{Rate: 1, Whole: whole})
			s.send(0, tt.n, tt.edit)
			if s.own.Octets != tt.want {
				t.Errorf("%d octets are %d on the line, not %d", tt.n, s.own.Octets, tt.want)
			}
		}
	}
}

// TestBurst: losses come in rows of the length that was asked for, and are as
// many as Mean says.
func TestBurst(t *testing.T) {
	b := Burst{Start: 0.01, End: 0.2, Loss: 1}
	s := newSink(NewWorld(7), Path{Burst: b})
	const n = 100000
	for i := range n {
		s.send(i, 0, plain)
	}
	s.wait(time.Second)
	rows, next := 0, 0
	for _, seq := range append(s.seqs(), n) {
		if seq > next {
			rows++
		}
		next = seq + 1
	}
	loss, row := float64(s.Lost)/n, float64(s.Lost)/float64(rows)
	if math.Abs(loss-b.Mean()) > 0.005 || math.Abs(row-5) > 0.5 {
		t.Errorf("%.4f lost, %.4f expected, %.1f in a row", loss, b.Mean(), row)
	}
	if (Burst{}).Mean() != 0 {
		t.Error("loss without bursts")
	}
}

// TestAckCompression: acknowledgments leave one by one and arrive in bunches;
// what has payload does not wait.
func TestAckCompression(t *testing.T) {
	s := newSink(NewWorld(1), Path{AckHold: 10 * ms})
	for i := range 30 {
		s.w.After(time.Duration(i)*ms+ms/2, func() { s.send(i, 0, plain) })
	}
	s.w.After(3*ms, func() { s.send(5000, 100, plain) })
	s.wait(time.Second)
	at := map[time.Duration]int{}
	for _, a := range s.got {
		at[a.at]++
	}
	if len(at) != 4 || at[3*ms] != 1 || at[10*ms] != 10 || at[20*ms] != 10 || at[30*ms] != 10 {
		t.Errorf("arrivals at %v", at)
	}
	if !slices.IsSorted(s.seqs()[1:]) {
		t.Errorf("order %v", s.seqs())
	}
}

// TestMTU: from when it is narrow what is too large vanishes, and a signal of
// it comes a delay later.
func TestMTU(t *testing.T) {
	s := newSink(NewWorld(1), Path{Delay: 5 * ms})
	var told []time.Duration
	begin := s.w.Now
	s.TooBig = func(mtu int) {
		if mtu != 139 {
			t.Errorf("MTU %d", mtu)
		}
		told = append(told, s.w.Now.Sub(begin))
	}
	s.send(0, 200, plain)
	s.w.After(20*ms, func() { s.MTU = 139; s.send(200, 250, plain) })
	s.w.After(40*ms, func() { s.TooBig = nil; s.send(450, 100, plain) })
	s.w.After(60*ms, func() { s.MTU = 140; s.send(550, 200, plain) })
	s.w.After(80*ms, func() { s.Whole = true; s.MTU = 139; s.send(750, 300, plain) })
	s.wait(time.Second)
	if !slices.Equal(s.seqs(), []int{0, 100, 400, 550, 650}) || s.Lost != 4 {
		t.Errorf("arrived %v, %d lost", s.seqs(), s.Lost)
	}
	if !slices.Equal(told, []time.Duration{25 * ms, 25 * ms}) {
		t.Errorf("told at %v", told)
	}
}

// TestMark: segments that find the threshold waiting are marked, if they may.
func TestMark(t *testing.T) {
	for _, ecn := range []uint8{wire.NotECT, wire.ECT0, wire.ECT1} {
		s := newSink(NewWorld(1), Path{Rate: 15400, Mark: 308})
		s.send(0, 500, func(o *wire.Out) { o.ECN = ecn })
		s.wait(time.Second)
		for i, a := range s.got {
			want := ecn
			if i >= 2 && ecn != wire.NotECT {
				want = wire.CE
			}
			if a.ECN != want {
				t.Errorf("segment %d, sent with %d, has %d", i, ecn, a.ECN)
			}
		}
	}
}

// TestSharedLine: links that share a line share its rate and its queue.
func TestSharedLine(t *testing.T) {
	w := NewWorld(1)
	line := &Line{Rate: 15400, Queue: 1540}
	a, b := newSink(w, Path{Line: line}), newSink(w, Path{Line: line, Delay: time.Second})
	a.send(0, 600, plain)
	b.send(0, 600, plain)
	if n := line.Waiting(w.Now); n != 1540 {
		t.Errorf("%d octets wait", n)
	}
	a.wait(10 * time.Second)
	if len(a.got) != 6 || len(b.got) != 4 || b.Lost != 2 || line.Dropped != 2 || line.Octets != 1540 {
		t.Errorf("%d and %d arrived, %d dropped, %d octets", len(a.got), len(b.got), line.Dropped, line.Octets)
	}
	if at := b.got[3].at; at != 1100*ms {
		t.Errorf("the last arrived at %v", at)
	}
}

// TestMerge: what GRO merges and what it does not.
func TestMerge(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(s *sink)
		want []int // octets of each arrival
	}{
		{"a super-segment", func(s *sink) { s.send(0, 450, plain) }, []int{450}},
		{"two in a row", func(s *sink) { s.send(0, 200, plain); s.send(200, 300, plain) }, []int{500}},
		{"a short one ends it", func(s *sink) { s.send(0, 250, plain); s.send(250, 200, plain) }, []int{250, 200}},
		{"a gap", func(s *sink) { s.send(0, 200, plain); s.send(300, 200, plain) }, []int{200, 200}},
		{"PSH ends it", func(s *sink) {
			s.send(0, 200, func(o *wire.Out) { o.Flags |= wire.PSH })
			s.send(200, 200, plain)
		}, []int{200, 200}},
		{"FIN ends it", func(s *sink) { s.send(0, 200, func(o *wire.Out) { o.Flags |= wire.FIN }) }, []int{200}},
		{"an acknowledgment between", func(s *sink) { s.send(0, 200, plain); s.send(200, 0, plain); s.send(200, 200, plain) }, []int{200, 0, 200}},
		{"another acknowledgment number", func(s *sink) { s.send(0, 200, plain); s.send(200, 200, func(o *wire.Out) { o.Ack++ }) }, []int{200, 200}},
		{"another window", func(s *sink) { s.send(0, 200, plain); s.send(200, 200, func(o *wire.Out) { o.Window++ }) }, []int{200, 200}},
		{"another timestamp", func(s *sink) {
			s.send(0, 200, func(o *wire.Out) { o.TSOK = true })
			s.send(200, 200, func(o *wire.Out) { o.TSOK, o.TSVal = true, 1 })
		}, []int{200, 200}},
		{"another codepoint", func(s *sink) { s.send(0, 200, plain); s.send(200, 200, func(o *wire.Out) { o.ECN = wire.CE }) }, []int{200, 200}},
		{"too late", func(s *sink) {
			s.send(0, 200, plain)
			s.w.After(3*ms, func() { s.send(200, 200, plain) })
		}, []int{200, 200}},
		{"larger than a super-segment may be", func(s *sink) { s.send(0, 65000, plain); s.send(65000, 700, plain) }, []int{65400, 300}},
	} {
		s := newSink(NewWorld(1), Path{Delay: ms, Merge: 2 * ms})
		tt.send(s)
		s.wait(time.Second)
		var lens []int
		for _, a := range s.got {
			lens = append(lens, len(a.data))
			s.check(t, a)
			if size := min(len(a.data), 100); len(a.data) > 100 && int(a.Size) != size {
				t.Errorf("%s: size %d", tt.name, a.Size)
			}
		}
		if !slices.Equal(lens, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, lens, tt.want)
		}
		if s.w.Pool.Recycle(); s.w.Pool.Used() != 0 {
			t.Errorf("%s: %d octets leaked", tt.name, s.w.Pool.Used())
		}
	}
}

// TestMergedWaits: a batch that nothing follows is delivered when its time is
// over.
func TestMergedWaits(t *testing.T) {
	s := newSink(NewWorld(1), Path{Delay: 5 * ms, Merge: 2 * ms})
	s.send(0, 200, plain)
	s.wait(time.Second)
	if len(s.got) != 1 || s.got[0].at != 7*ms {
		t.Errorf("arrivals at %v", s.times())
	}
}

// TestWays: each direction has a path of its own.
func TestWays(t *testing.T) {
	w := NewWorld(1)
	a, b := w.NewEnd("a", nil, nil), w.NewEnd("b", nil, nil)
	Join(w, a.Box, b.Box, Path{Delay: ms}, Path{Delay: 30 * ms, Loss: 1})
	if a.Out.Delay != ms || b.Out.Delay != 30*ms || a.Out.Loss != 0 || b.Out.Loss != 1 {
		t.Errorf("%+v %+v", a.Out.Path, b.Out.Path)
	}
}

func TestChancesFollowFromTheSeed(t *testing.T) {
	p := Path{Loss: 0.3, Double: 0.2, Jitter: time.Second, Burst: Burst{Start: 0.1, End: 0.1, Loss: 0.9}}
	a, b := carried(p, 200), carried(p, 200)
	if !slices.Equal(a.seqs(), b.seqs()) || !slices.Equal(a.times(), b.times()) {
		t.Error("two runs of one seed differ")
	}
}

// TestResetForgets: a world that was used is as a new one, and holds nothing of
// what was on its way.
func TestResetForgets(t *testing.T) {
	p := Path{Delay: ms, Loss: 0.3, Double: 0.3, Jitter: 50 * ms, Merge: 5 * ms}
	w := NewWorld(3)
	old := newSink(w, p)
	old.send(0, 5000, plain)
	old.wait(20 * ms)
	arrived := len(old.got)
	w.Reset(7)
	if w.Pool.Used() != 0 {
		t.Errorf("%d octets leaked", w.Pool.Used())
	}
	again, fresh := newSink(w, p), newSink(NewWorld(7), p)
	for _, s := range []*sink{again, fresh} {
		s.send(0, 5000, plain)
		s.wait(time.Second)
	}
	if !slices.Equal(again.seqs(), fresh.seqs()) || !slices.Equal(again.times(), fresh.times()) {
		t.Error("a world reset to a seed and one made with it differ")
	}
	if len(old.got) != arrived {
		t.Error("something arrived after the reset")
	}
}

// TestCarryAllocatesNothing: a world that is warm carries segments without
// allocating, so that tens of thousands of runs are cheap.
func TestCarryAllocatesNothing(t *testing.T) {
	w := NewWorld(1)
	l := w.NewLink(Path{Rate: 1e6, Delay: ms, Jitter: ms, Double: 0.1, Merge: ms / 10})
	l.Deliver = func(*wire.Segment) {}
	b := w.Pool.Get(5000)
	out := wire.Out{NPieces: 1, Length: 5000}
	out.Size = 100
	out.Pieces[0] = frame.Span{Buf: b, Len: 5000}
	run := func() {
		l.Carry(&out)
		w.RunUntil(w.Now.Add(time.Second))
		w.Pool.Recycle()
	}
	run()
	if n := testing.AllocsPerRun(100, run); n > 0 {
		t.Errorf("%v allocations for 50 segments", n)
	}
}
