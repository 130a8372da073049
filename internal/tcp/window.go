package tcp

import (
	"time"

	"toehold/internal/mono"
)

const (
	quickAcks = 16                    // segments acknowledged at once at the start and after a gap, as Linux (TCP_MAX_QUICKACKS)
	ackDelay  = 40 * time.Millisecond // Linux TCP_DELACK_MIN; RFC 9293, section 3.8.6.3, allows 500 ms
)

// field is the window field of a segment to send.
func (r *recvState) field() uint16 {
	return uint16(min(distance(r.acked, r.edge)>>r.wscale, 65535))
}

// scheduleAck decides when to acknowledge what was received in order, unless
// that is told by Permit: at once for every second full segment, for what
// closes or is before a gap and for a FIN, else after a delay (RFC 5681, section 4.2).
func (c *Conn) scheduleAck(now mono.Time, atOnce bool) {
	r := &c.rcv
	switch {
	case c.through:
		r.ackDue = r.ackDue || atOnce && !r.runs.empty()
	case atOnce || r.nxt.Sub(r.acked) >= 2*c.snd.mss:
		r.ackDue = true
	case r.quick > 0:
		r.quick--
		r.ackDue = true
	case r.delack == 0:
		r.delack = now.Add(ackDelay)
	}
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
