package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// reno is the congestion control of RFC 5681.
type reno struct {
	credit uint32 // octets acknowledged towards the next increase
}

func (*reno) observe(*congestion, sample) {}

func (r *reno) grow(g *congestion, s sample) {
	if acked := g.slowStart(s.acked); acked > 0 {
		g.raise(r.increase(acked, g.cwnd, g.mss))
	}
}

// increase is congestion avoidance: one segment for each window acknowledged
// (RFC 5681, section 3.1, with the byte counting of RFC 3465).
func (r *reno) increase(acked, cwnd, mss uint32) uint32 {
	r.credit += acked
	if r.credit < cwnd {
		return 0
	}
	n := r.credit / cwnd
	r.credit -= n * cwnd
	return n * mss
}

// threshold is equation 4 of RFC 5681.
func (r *reno) threshold(g *congestion, flight uint32) uint32 {
	r.credit = 0
	return max(flight/2, 2*g.mss)
}

func (*reno) event(*congestion, mono.Time, happening) {}

func (*reno) save(mono.Time, *tcb.Snapshot) {}
func (*reno) load(mono.Time, *tcb.Snapshot) {}
