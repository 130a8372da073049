package tcp

// prrState is proportional rate reduction (RFC 9937, section 6), in octets.
type prrState struct {
	prior     uint32 // cwnd when the reduction began (RecoverFS as Linux has it)
	delivered uint32 // prr_delivered
	out       uint32 // prr_out
}

// reduceByPRR sets the window after an acknowledgment in a reduction (Linux
// tcp_cwnd_reduction): in proportion while more than ssthresh is in flight,
// then back to it, in slow start as long as nothing more is lost.
func (c *Conn) reduceByPRR(d *delivery) {
	p, g := &c.loss.prr, &c.cc
	if d.delivered == 0 || p.prior == 0 {
		return
	}
	p.delivered += d.delivered
	n := uint32(0)
	if d.inFlight > g.ssthresh {
		due := (uint64(g.ssthresh)*uint64(p.delivered) + uint64(p.prior) - 1) / uint64(p.prior)
		n = uint32(max(int64(due)-int64(p.out), 0))
	} else {
		n = max(p.delivered-min(p.out, p.delivered), d.delivered)
		if d.acked > 0 && d.lost == 0 {
			n += g.mss
		}
		n = min(n, g.ssthresh-d.inFlight)
	}
	if p.out == 0 {
		n = max(n, g.mss) // the fast retransmit itself
	}
	g.cwnd = max(d.inFlight+n, g.mss)
}
