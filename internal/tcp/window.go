package tcp

import "toehold/internal/seqnum"

// field is the window field of a segment to send.
func (r *recvState) field() uint16 { return r.offer(r.acked) }

// offer is the window field beside an acknowledgment up to ack.
func (r *recvState) offer(ack seqnum.Value) uint16 {
	return uint16(min(distance(ack, r.edge)>>r.wscale, 65535))
}

// acknowledge says all that may be: it sets what the next segment acknowledges
// and offers.
func (c *Conn) acknowledge() {
	r := &c.rcv
	if !c.through {
		r.acked = r.nxt
		r.openWindow(c.snd.mss)
	}
	ack := r.acked
	if m := c.ecn.dctcp; m != nil {
		ack, c.ecn.echo = m.cut(r.sentAck, ack, r.nxt)
	}
	r.sentAck, r.sentWnd = ack, r.offer(ack)
	r.ackDue, r.delack.at = ack != r.acked, 0
}

// openWindow moves the edge as far as the receive buffer allows, in steps of a
// segment or half the buffer, lest the sender be led to send small ones
// (RFC 9293, section 3.8.6.2.2). It never moves back.
func (r *recvState) openWindow(mss uint32) {
	free := r.buffer - min(r.held, r.buffer)
	gain := int32(r.nxt.Add(free) - r.edge)
	if gain > 0 && uint32(gain) >= min(r.buffer/2, mss) {
		r.edge = r.nxt.Add(free)
		if r.maxEdge.Less(r.edge) {
			r.maxEdge = r.edge
		}
	}
}

// windowNews makes an acknowledgment due when the program has taken so much
// that a sender that waits should know: the window was below half of the
// buffer and would grow by a quarter.
func (r *recvState) windowNews() {
	r.update = false
	free := r.buffer - min(r.held, r.buffer)
	left := distance(r.nxt, r.edge)
	if left < r.buffer/2 && free > left && free-left >= r.buffer/4 {
		r.ackDue = true
	}
}
