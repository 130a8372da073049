package tcp

import (
	"math"
	"testing"
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// A sentence of an RFC, and what is to be seen of it.
type sentence struct {
	section, says string
	check         func(t *testing.T)
}

func checkSentences(t *testing.T, all []sentence) {
	t.Helper()
	for _, s := range all {
		t.Run(s.section, func(t *testing.T) {
			if s.check(t); t.Failed() {
				t.Logf("%q", s.says)
			}
		})
	}
}

// windowOf returns a window of cwnd segments and ssthresh, with an algorithm.
func windowOf(a algorithm, cwnd, ssthresh uint32) *congestion {
	g := new(congestion)
	g.restore(noon, a, &tcb.Snapshot{MSS: testMSS, Cwnd: cwnd, Ssthresh: ssthresh, SRTT: 100 * time.Millisecond})
	return g
}

// cubicWindow is one in congestion avoidance.
func cubicWindow(cwnd uint32) (*congestion, *cubic) {
	q := new(cubic)
	return windowOf(q, cwnd, cwnd), q
}

// ackOne acknowledges a segment at now with a window that limits.
func ackOne(g *congestion, now mono.Time, srtt time.Duration) {
	g.limited = true
	g.observe(sample{now: now, acked: testMSS, srtt: srtt, rtt: srtt})
	g.limited = true
	g.onAck(sample{now: now, acked: testMSS, srtt: srtt})
}

func segs(g *congestion) float64 { return float64(g.cwnd) / testMSS }

func TestRFC9438(t *testing.T) {
	const rtt = 100 * time.Millisecond
	checkSentences(t, []sentence{
		{"4.2-K", "K is the time period that the above function takes to increase the congestion window size at the beginning of the current congestion avoidance stage to W_max if there are no further congestion events.", func(t *testing.T) {
			g, q := cubicWindow(1000)
			lose(g)
			ackOne(g, noon, rtt)
			between(t, "K", float64(q.k), math.Cbrt(300/0.4)*0.999, math.Cbrt(300/0.4)*1.001)
		}},
		{"4.2-target", "The lower and upper bounds below ensure that CUBIC's congestion window increase rate is non-decreasing and is less than the increase rate of slow start [SXEZ19].", func(t *testing.T) {
			g, q := cubicWindow(1000)
			lose(g)
			ackOne(g, noon, rtt)
			g.cwnd = 1200 * testMSS // above the curve, and above W_est
			before := g.cwnd
			ackOne(g, noon.Add(rtt), rtt)
			if g.cwnd != before {
				t.Errorf("cwnd grew from %d to %d above the curve", before, g.cwnd)
			}
			if n := q.increase(noon.Add(time.Hour), 10*testMSS, g.cwnd, testMSS, rtt); n > 5*testMSS || n < 4999 {
				t.Errorf("%d octets more for 10000 after an hour", n)
			}
		}},
		{"4.2-time", "The elapsed time t in Figure 1 MUST NOT include periods during which cwnd has not been updated due to application-limited behavior (see Section 5.8).", func(t *testing.T) {
			g, q := cubicWindow(1000)
			lose(g)
			ackOne(g, noon, rtt)
			for i := range mono.Time(100) {
				g.limited = false
				g.observe(sample{now: noon + (i+1)*mono.Time(rtt), acked: testMSS, srtt: rtt})
			}
			if got := noon.Add(100 * rtt).Sub(q.epoch); got != 0 {
				t.Errorf("the epoch is %v old after 10 s without use of the window", got)
			}
			g.tell(noon.Add(time.Minute), restarted)
			if got := noon.Add(time.Minute).Sub(q.epoch); got != 0 {
				t.Errorf("the epoch is %v old after idleness", got)
			}
			ackOne(g, noon.Add(time.Minute+rtt), rtt)
			if got := noon.Add(time.Minute + rtt).Sub(q.epoch); got != rtt {
				t.Errorf("the epoch is %v old after a round trip with use", got)
			}
		}},
		{"4.3-estimate", "After that, on every new ACK, W_est is updated using Figure 4.", func(t *testing.T) {
			g, q := cubicWindow(100)
			lose(g)
			ackOne(g, noon, time.Millisecond)
			between(t, "W_est", q.wEst/testMSS, 70+cubicAlpha/70-1e-9, 70+cubicAlpha/70+1e-9)
		}},
		{"4.3-alpha", "Once W_est has grown to reach the cwnd at the time of most recently setting ssthresh -- that is, W_est >= cwnd_prior -- the sender SHOULD set alpha_cubic to 1 ...", func(t *testing.T) {
			g, q := cubicWindow(100)
			lose(g)
			ackOne(g, noon, time.Millisecond)
			before := 100.0 * testMSS
			q.wEst = before
			ackOne(g, noon, time.Millisecond)
			between(t, "growth of W_est", (q.wEst-before)*70/testMSS, 0.99, 1.01)
		}},
		{"4.3-friendly", "If so, CUBIC is in the Reno-friendly region and cwnd SHOULD be set to W_est at each reception of a new ACK.", func(t *testing.T) {
			g, q := cubicWindow(20)
			lose(g)
			drive(g, noon, time.Millisecond, 50*time.Millisecond)
			between(t, "cwnd beside W_est", float64(g.cwnd)-q.wEst, -testMSS, testMSS)
		}},
		{"4.4-concave", "In this region, cwnd MUST be incremented by (target - cwnd) / cwnd for each received new ACK, where target is calculated as described in Section 4.2.", func(t *testing.T) {
			g, q := cubicWindow(1000)
			lose(g)
			ackOne(g, noon, rtt)
			now := noon.Add(2 * time.Second)
			w := segs(g)
			want := (q.at(now.Sub(q.epoch)+rtt, testMSS)/testMSS - w) / w
			ackOne(g, now, rtt)
			between(t, "growth", segs(g)-w, want-0.001, want+0.001)
		}},
		{"4.6", "Some implementations of CUBIC currently use cwnd instead of flight_size when calculating a new ssthresh ...", func(t *testing.T) {
			g, _ := cubicWindow(100)
			lose(g)
			if g.ssthresh != 70*testMSS {
				t.Errorf("ssthresh %d", g.ssthresh)
			}
			g.cwnd = 2 * testMSS
			lose(g)
			if g.ssthresh != 2*testMSS {
				t.Errorf("ssthresh %d of two segments", g.ssthresh)
			}
		}},
		{"4.7", "With fast convergence, when a congestion event occurs, W_max is updated as follows, before the window reduction described in Section 4.6.", func(t *testing.T) {
			g, q := cubicWindow(100)
			lose(g)
			between(t, "W_max", float64(q.wMax), 100*testMSS, 100*testMSS)
			lose(g)
			between(t, "W_max after less", float64(q.wMax), 70*0.85*testMSS-1, 70*0.85*testMSS+1)
			g.cwnd = 90 * testMSS
			lose(g)
			between(t, "W_max after more", float64(q.wMax), 90*testMSS, 90*testMSS)
		}},
		{"4.8", "During the first congestion avoidance stage after a timeout, CUBIC increases its congestion window size using Figure 1, where t is the elapsed time since the beginning of the current congestion avoidance stage, K is set to 0, and W_max is set to the congestion window size at the beginning of the current congestion avoidance stage.", func(t *testing.T) {
			g, q := cubicWindow(100)
			g.reduce(noon, g.cwnd, beganLoss)
			if g.ssthresh != 70*testMSS {
				t.Errorf("ssthresh %d", g.ssthresh)
			}
			g.cwnd = 70 * testMSS
			ackOne(g, noon, rtt)
			if q.k != 0 || q.origin != 70*testMSS || q.prior != 100*testMSS {
				t.Errorf("K %v, W_max %v, cwnd_prior %v", q.k, q.origin, q.prior)
			}
		}},
		{"4.9", "(A spurious congestion event gives back cwnd, ssthresh, cwnd_prior, W_max, K, t_epoch and W_est as they were.)", func(t *testing.T) {
			for _, e := range []happening{beganRecovery, beganLoss} {
				g, q := cubicWindow(1000)
				lose(g)
				drive(g, noon, rtt, time.Second)
				want, cwnd, ssthresh := q.curve, g.cwnd, g.ssthresh
				g.reduce(noon, g.cwnd, e)
				g.cwnd = testMSS
				g.undo(noon)
				if q.curve != want || g.cwnd != cwnd || g.ssthresh != ssthresh {
					t.Errorf("%+v, cwnd %d, ssthresh %d; before %+v, %d, %d", q.curve, g.cwnd, g.ssthresh, want, cwnd, ssthresh)
				}
			}
		}},
		{"4.10", "When CUBIC uses HyStart++ [RFC9406], it may exit the first slow start without incurring any packet loss and thus W_max is undefined.", func(t *testing.T) {
			q := new(cubic)
			g := windowOf(q, 10, 20)
			ackOne(g, noon, rtt)
			if segs(g) != 11 {
				t.Errorf("%v segments in slow start", segs(g))
			}
			g.cwnd = 20 * testMSS
			ackOne(g, noon, rtt)
			if q.k != 0 || q.origin != 20*testMSS || q.prior != 20*testMSS {
				t.Errorf("K %v, W_max %v, cwnd_prior %v", q.k, q.origin, q.prior)
			}
		}},
		{"5.8", "CUBIC does not increase its congestion window if a flow is application limited.", func(t *testing.T) {
			g, _ := cubicWindow(100)
			for range 1000 {
				g.limited = false
				g.onAck(sample{now: noon, acked: testMSS, srtt: rtt, before: 20 * testMSS})
			}
			if segs(g) != 100 {
				t.Errorf("%v segments", segs(g))
			}
		}},
	})
}

// Small increments are not lost to rounding: a window of 10 000 segments near
// its plateau grows by a part of an octet for each acknowledgment.
func TestCubicCountsPartsOfOctets(t *testing.T) {
	g, q := cubicWindow(10000)
	lose(g)
	g.cwnd = 9999 * testMSS
	q.begin(noon, float64(g.cwnd), testMSS)
	q.wEst = 0
	from := g.cwnd
	for range 20000 {
		ackOne(g, noon.Add(time.Duration(float64(q.k)*1.8*1e9)), 0)
	}
	between(t, "segments gained", float64(g.cwnd-from)/testMSS, 0.9, 1.6)
}

// Linux's cubic grows by a twentieth each round trip at least until it has
// seen a loss (bictcp_update).
func TestCubicWithoutALossSoFar(t *testing.T) {
	g, _ := cubicWindow(100)
	between(t, "after ten rounds", drive(g, noon, time.Millisecond, 10*time.Millisecond), 100*math.Pow(1.05, 9.5), 100*math.Pow(1.052, 10))
}
