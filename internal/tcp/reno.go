package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// reno is the congestion control of RFC 5681.
type reno struct {
	hystart
	credit uint32 // octets acknowledged towards the next increase
}

func (r *reno) grow(g *congestion, s sample) {
	if acked := r.slowStart(g, s.acked); acked > 0 {
		g.raise(r.increase(acked, g.cwnd, g.mss))
	}
}

// increase is congestion avoidance: one segment for each window acknowledged
// (RFC 5681, section 3.1, with the byte counting of RFC 3465).
func (r *reno) increase(acked, cwnd, mss uint32) uint32 {
	cwnd = max(cwnd, 1)
	r.credit += min(acked, unlimited)
	if r.credit < cwnd {
		return 0
	}
	n := r.credit / cwnd
	r.credit -= n * cwnd
	return uint32(min(uint64(n)*uint64(mss), unlimited))
}

// threshold is equation 4 of RFC 5681, of no more than the window: what limited
// transmit sent is not to be counted (section 3.2), and with much SACKed or
// lost snd.nxt is many windows beyond snd.una, so that a loss would raise it.
func (r *reno) threshold(g *congestion, flight uint32, _ happening) uint32 {
	r.credit = 0
	return max(min(flight, g.cwnd)/2, 2*g.mss)
}

func (*reno) event(*congestion, mono.Time, happening) {}

func (*reno) save(_ mono.Time, s *tcb.Snapshot)                  { s.CC = "reno" }
func (r *reno) load(_ *congestion, _ mono.Time, s *tcb.Snapshot) { r.end = s.SndUna }
