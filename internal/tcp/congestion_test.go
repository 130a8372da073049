package tcp

import (
	"math"
	"testing"
	"time"

	"toehold/internal/mono"
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

// Section 4.7: "With fast convergence ... W_max is further reduced".
func TestCubicFastConvergence(t *testing.T) {
	var q cubic
	q.reduce(100*testMSS, testMSS)
	q.reduce(70*testMSS, testMSS)
	if !near(q.wMax, 70*(1+cubicBeta)/2, 1e-9) {
		t.Errorf("W_max is %v", q.wMax)
	}
	q.reduce(90*testMSS, testMSS)
	if q.wMax != 90 {
		t.Errorf("W_max is %v", q.wMax)
	}
	if s := q.reduce(testMSS, testMSS); s != 2*testMSS {
		t.Errorf("ssthresh is %d, want two segments at least", s)
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
