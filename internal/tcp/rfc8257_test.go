package tcp

import (
	"testing"
	"time"

	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// marked acknowledges n octets, with ECE or without, up to una of nxt.
func (d *dctcp) marking(g *congestion, n uint32, ece bool, una, nxt seqnum.Value) {
	d.observe(g, sample{now: noon, acked: n, ece: ece, una: una, nxt: nxt})
}

func dctcpWindow(cwnd uint32) (*congestion, *dctcp) {
	d := new(dctcp)
	return windowOf(d, cwnd, cwnd), d
}

// Those of 3.3-growth, 3.5 and 4.2 could not be compared with the text:
// docs/RFC.md, "Not compared".
func TestRFC8257(t *testing.T) {
	checkSentences(t, []sentence{
		{"4.2", "it is RECOMMENDED to initialize DCTCP.Alpha to 1", func(t *testing.T) {
			if _, d := dctcpWindow(100); d.alpha != 1 {
				t.Errorf("alpha %v", d.alpha)
			}
		}},
		{"3.3-estimate", "M = DCTCP.BytesMarked / DCTCP.BytesAcked; DCTCP.Alpha = DCTCP.Alpha * (1 - g) + g * M", func(t *testing.T) {
			g, d := dctcpWindow(100)
			d.alpha, d.window = 0.5, 10000
			d.marking(g, 2500, true, 2500, 10000)
			d.marking(g, 5000, false, 7500, 10000)
			d.marking(g, 2500, false, 10000, 12000)
			if d.alpha != 0.5 {
				t.Errorf("alpha %v though the acknowledgment number is not beyond WindowEnd", d.alpha)
			}
			d.marking(g, 0, false, 10001, 20000)
			between(t, "alpha", float64(d.alpha), 0.5*15/16+0.25/16-1e-6, 0.5*15/16+0.25/16+1e-6)
			if d.window != 20000 || d.acked != 0 || d.marked != 0 {
				t.Errorf("WindowEnd %d, BytesAcked %d, BytesMarked %d", d.window, d.acked, d.marked)
			}
		}},
		{"3.3-reduce", "cwnd = cwnd * (1 - DCTCP.Alpha / 2)", func(t *testing.T) {
			for alpha, want := range map[float32]uint32{1: 50000, 0.5: 75000, 0.25: 87500, 0: 100000} {
				g, d := dctcpWindow(100)
				d.alpha = alpha
				g.reduce(noon, g.cwnd, beganCWR)
				if g.ssthresh != want {
					t.Errorf("alpha %v: ssthresh %d, want %d", alpha, g.ssthresh, want)
				}
			}
		}},
		{"3.5", "A DCTCP sender MUST react to loss episodes in the same way as conventional TCP", func(t *testing.T) {
			for _, e := range []happening{beganRecovery, beganLoss} {
				g, d := dctcpWindow(100)
				d.alpha = 0
				g.reduce(noon, 90*testMSS, e)
				if g.ssthresh != 45*testMSS {
					t.Errorf("ssthresh %d, want half of the flight", g.ssthresh)
				}
			}
		}},
		{"3.3-growth", "in the absence of congestion ... a DCTCP sender grows its congestion window in the same way as conventional TCP", func(t *testing.T) {
			g, _ := dctcpWindow(20)
			between(t, "after ten rounds", drive(g, noon, time.Millisecond, 10*time.Millisecond), 29, 31)
		}},
	})
}

// With a queue that marks from 20 segments on, DCTCP keeps the queue short and
// the path full; alpha falls far below 1.
func TestDCTCPKeepsTheQueueShort(t *testing.T) {
	m := newModel("dctcp")
	m.rate, m.rtt, m.queue, m.mark = 1.25e7, 4*time.Millisecond, 1e6, 20000
	m.run(2 * time.Second)
	most, least := uint32(0), uint32(unlimited)
	m.acks = func(s sample) { most, least = max(most, s.inFlight), min(least, s.inFlight) }
	rate := m.run(2 * time.Second)
	between(t, "rate", rate, 0.97*m.rate, m.rate*1.01)
	between(t, "most in flight", float64(most), 50000, 50000+20000+15000)
	if m.losses > 0 || m.marks == 0 {
		t.Errorf("%d lost, %d marked windows", m.losses, m.marks)
	}
	between(t, "alpha", float64(m.algorithm.(*dctcp).alpha), 0.01, 0.6)
	if least == 0 {
		t.Errorf("in flight %d to %d", least, most)
	}
}

func TestDCTCPStateCrosses(t *testing.T) {
	g, d := dctcpWindow(100)
	d.alpha = 0.25
	g.reduce(noon, g.cwnd, beganLoss)
	s := tcb.Snapshot{MSS: testMSS}
	g.snapshot(noon, &s)
	if s.CC != "dctcp" || s.CCState.DCTCP != (tcb.DCTCP{Alpha: 0.25, LossCwnd: 100}) {
		t.Errorf("%q, %+v", s.CC, s.CCState.DCTCP)
	}
	to := new(dctcp)
	new(congestion).restore(noon, to, &s)
	if to.alpha != 0.25 || to.lost != 100*testMSS {
		t.Errorf("%+v", to)
	}
}
