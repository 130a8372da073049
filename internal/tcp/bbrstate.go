package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcb"
)

func (b *bbr) save(now mono.Time, s *tcb.Snapshot) {
	mss := max(s.MSS, 1)
	pacing, cwnd := b.gains()
	s.CC = "bbr"
	s.CCState.BBR = tcb.BBR{
		Mode: b.mode, CycleIndex: b.phase,
		MinRTT: b.minRTT, MinRTTAge: max(now.Sub(b.minRTTAt), 0),
		Bandwidth: b.rates.max(), FullBandwidth: b.fullRate, FullCount: b.stalled, Filled: b.filled,
		PacingGain: pacing, CwndGain: cwnd,
		PriorCwnd: b.prior / mss, ExtraAcked: max(b.most[0], b.most[1]) / mss,
	}
	if b.mode == tcb.BBRProbeBW {
		s.CCState.BBR.CycleAge = max(now.Sub(b.at), 0)
	}
	if b.policed {
		s.CCState.BBR.LongTerm = b.policer
	}
}

// load goes on where another stack's BBR was, or starts from cwnd and the
// smoothed round-trip time (bbr_init).
func (b *bbr) load(g *congestion, now mono.Time, s *tcb.Snapshot) {
	c := tcb.BBR{}
	if s.CC == "bbr" {
		c = s.CCState.BBR
	}
	b.minRTT, b.minRTTAt = min(max(s.MinRTT, 0), longestRTT), now
	b.aggregation.begin(now)
	b.at = now
	g.ssthresh = unlimited
	b.initPacing(g, s.SRTT)
	if c.MinRTT > 0 {
		b.resume(now, &c, s.MSS)
		b.setPacing(g, s.SRTT)
	}
}

// resume takes what was estimated.
func (b *bbr) resume(now mono.Time, c *tcb.BBR, mss uint32) {
	b.minRTT, b.minRTTAt = min(c.MinRTT, longestRTT), now.Add(-aged(c.MinRTTAge))
	b.at = now.Add(-aged(c.CycleAge))
	b.rates.add(0, min(c.Bandwidth, highestRate))
	b.fullRate, b.stalled = min(c.FullBandwidth, highestRate), min(c.FullCount, stallRounds)
	b.mode, b.phase, b.filled = min(c.Mode, tcb.BBRProbeRTT), c.CycleIndex%uint8(len(probeGains)), c.Filled
	b.prior, b.most[0] = octetsOf(c.PriorCwnd, mss), octetsOf(c.ExtraAcked, mss)
	if b.mode == tcb.BBRProbeRTT {
		b.at = 0
	}
	if c.LongTerm > 0 {
		b.policer, b.policed = min(c.LongTerm, highestRate), true
	}
}

func aged(d time.Duration) time.Duration { return min(max(d, 0), longestAge) }
