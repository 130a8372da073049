package tcp

// renoIncrease is congestion avoidance: one segment for each window
// acknowledged (RFC 5681, section 3.1, with the byte counting of RFC 3465).
func (g *congestion) renoIncrease(acked, mss uint32) uint32 {
	g.credit += acked
	if g.credit < g.cwnd {
		return 0
	}
	n := g.credit / g.cwnd
	g.credit -= n * g.cwnd
	return n * mss
}

// renoThreshold is equation 4 of RFC 5681.
func renoThreshold(flight, mss uint32) uint32 { return max(flight/2, 2*mss) }
