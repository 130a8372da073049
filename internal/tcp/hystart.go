package tcp

import (
	"time"

	"toehold/internal/seqnum"
)

// hystart is HyStart++ (RFC 9406): the first slow start, while ssthresh was
// never set, slows down when the round-trip time rises, and ends when it does
// not fall again.
type hystart struct {
	end      seqnum.Value // windowEnd
	last     uint32       // lastRoundMinRTT, microseconds; 0: none
	current  uint32       // currentRoundMinRTT
	baseline uint32       // cssBaselineMinRtt
	samples  uint8        // rttSampleCount
	rounds   uint8        // of Conservative Slow Start, with the one under way; 0: not in it
}

// The constants of RFC 9406, section 4.3. L is infinite, as in Linux and as for senders
// that pace: a receiver that acknowledges a super-segment at once, which is
// the rule among Linux hosts, would be sent to at a fraction of slow start
// with the 8 segments that are meant for the others.
const (
	hystartMinThresh  = uint32(4 * time.Millisecond / time.Microsecond)
	hystartMaxThresh  = uint32(16 * time.Millisecond / time.Microsecond)
	hystartRTTDivisor = 8
	hystartSamples    = 8 // N_RTT_SAMPLE
	hystartGrowth     = 4 // CSS_GROWTH_DIVISOR
	hystartRounds     = 5 // CSS_ROUNDS
)

// observe takes in the round-trip time of an acknowledgment.
func (h *hystart) observe(g *congestion, s sample) {
	if g.ssthresh < unlimited || s.recovering {
		return
	}
	if h.end.Less(s.una) { // what acknowledges windowEnd itself is of the round that it ends, as in Linux
		h.nextRound(g, s.nxt)
	}
	if s.rtt <= 0 {
		return
	}
	rtt := max(micros(s.rtt), 1)
	if h.current == 0 || rtt < h.current {
		h.current = rtt
	}
	h.samples = min(h.samples, 254) + 1
	h.judge()
}

// nextRound begins a round that ends when nxt is acknowledged.
func (h *hystart) nextRound(g *congestion, nxt seqnum.Value) {
	h.end, h.last, h.current, h.samples = nxt, h.current, 0, 0
	switch {
	case h.rounds == 0:
	case h.rounds < hystartRounds:
		h.rounds++
	default:
		*h = hystart{end: nxt}
		g.ssthresh = g.cwnd
	}
}

// judge enters Conservative Slow Start, and leaves it for slow start when the
// rise was none.
func (h *hystart) judge() {
	if h.samples < hystartSamples {
		return
	}
	switch {
	case h.rounds > 0 && h.current < h.baseline:
		h.rounds, h.baseline = 0, 0
	case h.rounds == 0 && h.last > 0 && h.current >= h.last+h.thresh():
		h.rounds, h.baseline = 1, h.current
	}
}

// thresh is RttThresh.
func (h *hystart) thresh() uint32 {
	return max(hystartMinThresh, min(h.last/hystartRTTDivisor, hystartMaxThresh))
}

// slowStart grows the window up to ssthresh and returns how many of the acked
// octets are left for congestion avoidance.
func (h *hystart) slowStart(g *congestion, acked uint32) uint32 {
	if h.rounds > 0 && g.ssthresh >= unlimited {
		g.slowStart(acked / hystartGrowth)
		return 0
	}
	return g.slowStart(acked)
}
