package tcp

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

const testMSS = 1000

// noon is when the tests of this package's insides happen.
const noon = mono.Time(time.Hour)

// drive lets a window be acknowledged once each rtt for d, and returns it in
// segments.
func drive(g *congestion, now mono.Time, rtt, d time.Duration) float64 {
	for end := now.Add(d); now < end; now = now.Add(rtt) {
		for left := g.cwnd; left > 0; left -= min(left, testMSS) {
			g.limited = true
			g.onAck(sample{now: now, acked: min(left, testMSS), srtt: rtt})
		}
	}
	return float64(g.cwnd) / testMSS
}

// lose is a reduction after a loss.
func lose(g *congestion) {
	g.reduce(noon, g.cwnd, beganRecovery)
	g.cwnd = g.ssthresh
}

// copied returns a copy of g with an algorithm of its own.
func copied(g *congestion) congestion {
	c := *g
	q := *g.algorithm.(*cubic)
	c.algorithm = &q
	return c
}

func near(got, want, part float64) bool { return math.Abs(got-want) <= part*want }

// RFC 9438, section 4.2: "K is the time period that ... takes to increase the
// current window size to W_max", K = cbrt((W_max - cwnd_epoch) / C).
func TestCubicComesBackAfterK(t *testing.T) {
	var g congestion
	g.restore(noon, new(cubic), &tcb.Snapshot{MSS: testMSS, Cwnd: 1000, Ssthresh: 1000})
	lose(&g)
	if g.cwnd != 700*testMSS || g.ssthresh != 700*testMSS {
		t.Fatalf("after a loss: cwnd %d, ssthresh %d", g.cwnd, g.ssthresh)
	}
	k := time.Duration(math.Cbrt(300/cubicC) * float64(time.Second))
	start := mono.Time(time.Hour)
	half := copied(&g)
	if w := drive(&half, start, 100*time.Millisecond, k/2); !near(w, 1000-300.0/8, 0.01) {
		t.Errorf("%.0f segments after half of K, want about %.0f: concave", w, 1000-300.0/8)
	}
	whole := copied(&g)
	if w := drive(&whole, start, 100*time.Millisecond, k); !near(w, 1000, 0.01) {
		t.Errorf("%.0f segments after K, want 1000", w)
	}
	more := copied(&g)
	if w := drive(&more, start, 100*time.Millisecond, 2*k); !near(w, 1300, 0.03) {
		t.Errorf("%.0f segments after 2 K, want 1300: convex", w)
	}
}

// Section 4.3: on short paths CUBIC grows as Reno with alpha would.
func TestCubicIsNoSlowerThanReno(t *testing.T) {
	var g congestion
	g.restore(noon, new(cubic), &tcb.Snapshot{MSS: testMSS, Cwnd: 20, Ssthresh: 20})
	lose(&g)
	rounds := 200.0
	w := drive(&g, mono.Time(time.Hour), time.Millisecond, time.Duration(rounds)*time.Millisecond)
	slow := 14 + cubicAlpha*6/cubicAlpha + (rounds - 6/cubicAlpha) // alpha to cwnd_prior, then 1 a round
	if !near(w, slow, 0.1) {
		t.Errorf("%.1f segments after %v rounds, want about %.1f", w, rounds, slow)
	}
}

// RFC 5681, section 3.1: one segment each round trip.
func TestRenoGrowsByASegmentARound(t *testing.T) {
	var g congestion
	g.restore(noon, new(reno), &tcb.Snapshot{MSS: testMSS, Cwnd: 20, Ssthresh: 20})
	if w := drive(&g, mono.Time(time.Hour), time.Millisecond, 30*time.Millisecond); !near(w, 50, 0.03) {
		t.Errorf("%.1f segments after 30 rounds, want 50", w)
	}
}

func TestSlowStartEndsAtTheThreshold(t *testing.T) {
	for _, a := range []algorithm{new(cubic), new(reno)} {
		var g congestion
		g.restore(noon, a, &tcb.Snapshot{MSS: testMSS, Cwnd: 10, Ssthresh: 25})
		g.limited = true
		g.onAck(sample{now: noon, acked: 10 * testMSS, srtt: time.Millisecond})
		g.limited = true
		g.onAck(sample{now: noon, acked: 20 * testMSS, srtt: time.Millisecond})
		if g.cwnd < 25*testMSS || g.cwnd > 27*testMSS {
			t.Errorf("%T: cwnd %d after an acknowledgment beyond ssthresh", a, g.cwnd)
		}
	}
}

func TestCongestionSnapshot(t *testing.T) {
	for _, tt := range []struct{ cwnd, ssthresh, wantCwnd, wantSsthresh uint32 }{
		{0, 0, 10, tcb.NoThreshold},
		{7, 5, 7, 5},
		{3, tcb.NoThreshold, 3, tcb.NoThreshold},
		{1 << 31, 1 << 30, tcb.NoThreshold, tcb.NoThreshold},
	} {
		var g congestion
		g.restore(noon, new(cubic), &tcb.Snapshot{MSS: testMSS, Cwnd: tt.cwnd, Ssthresh: tt.ssthresh})
		var s tcb.Snapshot
		g.snapshot(noon, &s)
		if s.Cwnd != tt.wantCwnd || s.Ssthresh != tt.wantSsthresh {
			t.Errorf("%+v: cwnd %d, ssthresh %d", tt, s.Cwnd, s.Ssthresh)
		}
	}
}

func TestNoCongestionControlHasNoLimit(t *testing.T) {
	var g congestion
	g.restore(noon, nil, &tcb.Snapshot{MSS: testMSS, Cwnd: 1})
	g.reduce(noon, 9000, beganRecovery)
	g.undo(noon)
	g.idle(noon, time.Hour, time.Second)
	if g.cwnd != unlimited {
		t.Errorf("cwnd is %d", g.cwnd)
	}
}

func TestRFC5681Window(t *testing.T) {
	checkSentences(t, []sentence{
		{"3.1-start", "During slow start, a TCP increments cwnd by at most SMSS bytes for each ACK received that cumulatively acknowledges new data. (Here by what is acknowledged, as RFC 3465 without its limit and Linux.)", func(t *testing.T) {
			g := windowOf(new(reno), 10, 100)
			ackOne(g, noon, time.Millisecond)
			if segs(g) != 11 {
				t.Errorf("%v segments", segs(g))
			}
		}},
		{"3.1-threshold", "The slow start algorithm is used when cwnd < ssthresh, while the congestion avoidance algorithm is used when cwnd > ssthresh.", func(t *testing.T) {
			g := windowOf(new(reno), 10, 10)
			for range 10 {
				ackOne(g, noon, time.Millisecond)
			}
			if segs(g) != 11 {
				t.Errorf("%v segments after a window", segs(g))
			}
		}},
		{"3.1-loss", "ssthresh = max (FlightSize / 2, 2*SMSS)", func(t *testing.T) {
			g := windowOf(new(reno), 100, 100)
			g.reduce(noon, 60*testMSS, beganRecovery)
			if g.ssthresh != 30*testMSS {
				t.Errorf("ssthresh %d", g.ssthresh)
			}
			g.reduce(noon, testMSS, beganLoss)
			if g.ssthresh != 2*testMSS {
				t.Errorf("ssthresh %d", g.ssthresh)
			}
		}},
		{"4.1", "Therefore, a TCP SHOULD set cwnd to no more than RW before beginning transmission if the TCP has not sent data in an interval exceeding the retransmission timeout. (RFC 7661 replaces it, but not where nothing tells how to pace.)", func(t *testing.T) {
			g := windowOf(new(reno), 100, 100)
			g.use.srtt = 0
			g.idle(noon, time.Second, 300*time.Millisecond)
			if segs(g) != initialWindow {
				t.Errorf("%v segments", segs(g))
			}
			g = windowOf(new(reno), 4, 4)
			g.idle(noon, time.Second, 300*time.Millisecond)
			if segs(g) != 4 {
				t.Errorf("%v segments of 4", segs(g))
			}
		}},
	})
}

// hostile makes numbers at the edges of what there is, and some others.
func hostile(r *rand.Rand) uint64 {
	edges := []uint64{0, 1, 2, 7, 1447, 1448, 65535, 1<<30 - 1, 1 << 30, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 40, 1<<63 - 1}
	if r.IntN(2) == 0 {
		return edges[r.IntN(len(edges))]
	}
	return r.Uint64() >> r.IntN(64)
}

// hostileSample has only what no engine can get wrong: time goes on, no
// duration is negative.
func hostileSample(r *rand.Rand, now mono.Time) sample {
	n := func() uint32 { return uint32(hostile(r)) }
	d := func() time.Duration { return time.Duration(hostile(r) >> 1) }
	b := func() bool { return r.IntN(2) == 0 }
	return sample{
		now: now, una: seqnum.Value(n()), nxt: seqnum.Value(n()), acked: n(), delivered: n(), lost: n(), ece: b(),
		rtt: d(), srtt: d(), before: n(), inFlight: n(), interval: d(), rated: hostile(r), prior: hostile(r), total: hostile(r),
		appLimited: b(), recovering: b(), resent: b(),
	}
}

func unharmed(g *congestion) bool {
	s := tcb.Snapshot{MSS: g.mss}
	g.snapshot(noon.Add(time.Hour), &s)
	s.SndUna, s.SndNxt = 0, 0
	return g.cwnd >= g.mss && g.cwnd <= unlimited && g.ssthresh > 0 && s.CCState.Cubic.WMax >= 0 && s.Check() == nil
}

// torment restores an algorithm from any state and does anything to it.
func torment(t *testing.T, name string, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	f := func() float64 { return math.Float64frombits(r.Uint64()) }
	d := func() time.Duration { return time.Duration(r.Uint64()) }
	s := tcb.Snapshot{
		MSS: uint32(r.IntN(tcb.MaxMSS-tcb.MinMSS)) + tcb.MinMSS, Cwnd: uint32(hostile(r)), Ssthresh: uint32(hostile(r)), SRTT: time.Duration(hostile(r) >> 1), CC: name,
		CCState: tcb.CCState{
			Cubic: tcb.Cubic{WMax: f(), InEpoch: r.IntN(2) == 0, Epoch: d(), Origin: f(), K: d(), WEst: f(), DelayMin: d()},
			BBR: tcb.BBR{Mode: tcb.BBRMode(r.Uint32()), CycleIndex: uint8(r.Uint32()), CycleAge: d(), MinRTT: d(), MinRTTAge: d(), Bandwidth: r.Uint64(),
				LongTerm: r.Uint64(), FullBandwidth: r.Uint64(), FullCount: uint8(r.Uint32()), Filled: r.IntN(2) == 0, PriorCwnd: r.Uint32(), ExtraAcked: r.Uint32()},
			DCTCP: tcb.DCTCP{Alpha: f(), LossCwnd: r.Uint32()},
		},
	}
	var g congestion
	now := noon
	g.restore(now, algorithms[name](), &s)
	for i := range 300 {
		now = now.Add(time.Duration(hostile(r) % uint64(time.Minute)))
		switch r.IntN(8) {
		case 0:
			g.reduce(now, uint32(hostile(r)), beganRecovery+happening(r.IntN(3)))
			g.cwnd = min(g.cwnd, max(g.ssthresh, g.mss))
		case 1:
			g.tell(now, ended)
		case 2:
			g.undo(now)
		case 3:
			g.idle(now, time.Duration(hostile(r)>>1), time.Second)
		case 4:
			g.floor(uint32(r.IntN(tcb.MaxMSS-tcb.MinMSS)) + tcb.MinMSS)
		default:
			x := hostileSample(r, now)
			g.observe(x)
			if !g.control(x) {
				g.limited = r.IntN(2) == 0
				g.onAck(x)
			}
		}
		if !unharmed(&g) {
			t.Fatalf("%s, seed %d, step %d: %+v %+v", name, seed, i, g, g.algorithm)
		}
	}
}

func TestHostileStateAndSamples(t *testing.T) {
	for name := range algorithms {
		for seed := range uint64(60) {
			if name != "none" && name != "" {
				torment(t, name, seed)
			}
		}
	}
}

func FuzzCongestion(f *testing.F) {
	for i, name := range []string{"cubic", "reno", "dctcp", "bbr"} {
		f.Add(name, uint64(i))
	}
	f.Fuzz(func(t *testing.T, name string, seed uint64) {
		if Supports(name) {
			torment(t, name, seed)
		}
	})
}

// An algorithm takes up its own state, and no other's.
func TestStateCrosses(t *testing.T) {
	for name := range algorithms {
		if name == "none" || name == "" {
			continue
		}
		m := newModel(name)
		m.run(12 * time.Second)
		s := tcb.Snapshot{MSS: testMSS, SRTT: m.srtt}
		m.snapshot(m.now, &s)
		if s.CC != name {
			t.Errorf("%s names itself %q", name, s.CC)
		}
		var again congestion
		again.restore(m.now, algorithms[name](), &s)
		to := tcb.Snapshot{MSS: testMSS}
		again.snapshot(m.now, &to)
		if to.CCState != s.CCState || to.Cwnd != s.Cwnd || to.Ssthresh != s.Ssthresh {
			t.Errorf("%s: %+v became %+v", name, s, to)
		}
		s.CC = "vegas"
		var fresh, other congestion
		other.restore(m.now, algorithms[name](), &s)
		fresh.restore(m.now, algorithms[name](), &tcb.Snapshot{MSS: testMSS, Cwnd: s.Cwnd, Ssthresh: s.Ssthresh, SRTT: s.SRTT})
		a, b := tcb.Snapshot{MSS: testMSS}, tcb.Snapshot{MSS: testMSS}
		other.snapshot(m.now, &a)
		fresh.snapshot(m.now, &b)
		if a.CCState != b.CCState {
			t.Errorf("%s took another's state: %+v", name, a.CCState)
		}
	}
}

func TestCongestionSizes(t *testing.T) {
	for name, tt := range map[string]struct{ size, limit uintptr }{
		"congestion": {unsafe.Sizeof(congestion{}), 96},
		"cubic":      {unsafe.Sizeof(cubic{}), 120},
		"reno":       {unsafe.Sizeof(reno{}), 32},
		"dctcp":      {unsafe.Sizeof(dctcp{}), 64},
		"bbr":        {unsafe.Sizeof(bbr{}), 200},
	} {
		t.Logf("%s: %d octets", name, tt.size)
		if tt.size > tt.limit {
			t.Errorf("%s: %d octets, the limit is %d", name, tt.size, tt.limit)
		}
	}
}

func TestAcknowledgmentsDoNotAllocate(t *testing.T) {
	for name := range algorithms {
		m := newModel(name)
		if m.algorithm == nil {
			continue
		}
		s := sample{now: m.now, acked: testMSS, delivered: testMSS, rtt: m.rtt, srtt: m.rtt, before: 9000, inFlight: 8000, interval: m.rtt, rated: 9000}
		if n := testing.AllocsPerRun(1000, func() {
			s.now, s.una, s.nxt, s.total = s.now.Add(time.Millisecond), s.una+testMSS, s.una+9*testMSS, s.total+testMSS
			s.prior = s.total - min(s.total, 9000)
			m.observe(s)
			if !m.control(s) {
				m.limited = true
				m.onAck(s)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// RFC 5681, section 3.1: "ssthresh = max (FlightSize / 2, 2*SMSS)"; section 3.2:
// "additional data sent in limited transmit MUST NOT be included in this
// calculation".
func TestRenoLossNeverRaisesTheWindow(t *testing.T) {
	for _, tt := range []struct{ flight, want uint32 }{{1, 2}, {6, 3}, {10, 5}, {80, 5}} {
		var g congestion
		g.restore(noon, new(reno), &tcb.Snapshot{MSS: testMSS, Cwnd: 10, Ssthresh: 10})
		g.reduce(noon, tt.flight*testMSS, beganRecovery)
		if g.ssthresh != tt.want*testMSS {
			t.Errorf("%d in flight: ssthresh %d", tt.flight, g.ssthresh)
		}
	}
}
