package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// dctcp is the sender's side of DCTCP (RFC 8257): Reno, but the window gives
// way to marks by as much as there are of them.
type dctcp struct {
	reno
	window seqnum.Value // DCTCP.WindowEnd
	acked  uint32       // DCTCP.BytesAcked
	marked uint32       // DCTCP.BytesMarked
	alpha  float32      // DCTCP.Alpha
	lost   uint32       // octets, cwnd at the last loss; 0: none
}

// dctcpGain is g of RFC 8257, section 4.2.
const dctcpGain = 1.0 / 16

// observe is section 3.3, steps 1 to 7.
func (d *dctcp) observe(g *congestion, s sample) {
	d.reno.observe(g, s)
	d.acked = min(d.acked+s.acked, unlimited)
	if s.ece {
		d.marked = min(d.marked+s.acked, unlimited)
	}
	if s.una.LessEq(d.window) {
		return
	}
	if d.acked > 0 {
		m := float32(d.marked) / float32(d.acked)
		d.alpha = min(d.alpha*(1-dctcpGain)+dctcpGain*m, 1)
	}
	d.window, d.acked, d.marked = s.nxt, 0, 0
}

// threshold is section 3.3, step 8, for marks; losses are as in Reno (section 3.5).
func (d *dctcp) threshold(g *congestion, flight uint32, e happening) uint32 {
	if e != beganCWR {
		d.lost = g.cwnd
		return d.reno.threshold(g, flight, e)
	}
	d.credit = 0
	return max(uint32(float64(g.cwnd)*(1-float64(d.alpha)/2)), 2*g.mss)
}

func (d *dctcp) save(_ mono.Time, s *tcb.Snapshot) {
	s.CC = "dctcp"
	s.CCState.DCTCP.Alpha = float64(d.alpha)
	s.CCState.DCTCP.LossCwnd = d.lost / max(s.MSS, 1)
}

// load begins with an alpha of 1, as section 4.2 and Linux
// (dctcp_alpha_on_init) do, so that the first marks are not underrated.
func (d *dctcp) load(g *congestion, now mono.Time, s *tcb.Snapshot) {
	d.reno.load(g, now, s)
	d.window, d.alpha = s.SndUna, 1
	if c := &s.CCState.DCTCP; s.CC == "dctcp" && c.Alpha > 0 {
		d.alpha = float32(min(c.Alpha, 1))
		d.lost = octetsOf(c.LossCwnd, s.MSS)
	}
}
