package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// Permit tells how far the engine may acknowledge and open its window: as far
// as the other end of the relay has. ack is bounded by what was received and
// never moves backwards; edge is taken as it is, since whoever shrank the
// window did it already. An acknowledgment is due when the peer would see a
// difference.
func (c *Conn) Permit(ack, edge seqnum.Value) {
	r := &c.rcv
	if !c.through || !c.live {
		return
	}
	if r.acked.Less(ack) {
		r.acked = seqnum.Min(ack, r.nxt)
	}
	if distance(r.acked, edge) > tcb.MaxWindow {
		edge = r.acked.Add(tcb.MaxWindow) // no window field says more
	}
	r.edge = edge
	r.maxEdge = seqnum.Max(r.maxEdge, edge)
	if r.acked != r.sentAck || r.field() != r.sentWnd {
		r.ackDue = true
	}
}

// Deliver is Permit where nobody else's acknowledgments say when: what was received
// goes straight to the program. The engine may then acknowledge up to ack, as soon
// as one that takes data itself would, and edge never moves back. The peer is told of
// a window alone only when it has less than half of what it could have.
func (c *Conn) Deliver(now mono.Time, ack, edge seqnum.Value) {
	r := &c.rcv
	if !c.through || !c.live {
		return
	}
	if r.acked.Less(ack) {
		r.acked = seqnum.Min(ack, r.nxt)
	}
	r.edge = seqnum.Max(r.edge, edge)
	if distance(r.acked, r.edge) > tcb.MaxWindow {
		r.edge = r.acked.Add(tcb.MaxWindow)
	}
	r.maxEdge = seqnum.Max(r.maxEdge, r.edge)
	left := distance(r.acked, r.sentAck.Add(uint32(r.sentWnd)<<r.wscale))
	if free := uint32(r.field()) << r.wscale; left < free/2 && free-left >= min(free, c.snd.mss) {
		r.ackDue = true
	}
	c.soon(now)
}

// soon schedules the acknowledgment of what may be and was not acknowledged: at once
// for more than a full segment and for a FIN (RFC 5681, section 4.2).
func (c *Conn) soon(now mono.Time) {
	r := &c.rcv
	d := &r.delack
	n := r.acked.Sub(r.sentAck)
	switch {
	case n == 0 || r.ackDue:
	case n > uint32(d.segment) || r.finDone && r.acked == r.nxt:
		r.ackDue = true
	case d.at != 0: // one waits already
	case d.quick > 0 && !d.pingPong:
		d.quick--
		r.ackDue = true
	default:
		c.delayAck(now)
	}
}

// Probes is how many window and keepalive probes in a row nothing has answered.
func (c *Conn) Probes() uint8 { return c.opt.probes }

// AckNow makes an acknowledgment due even if nothing changed.
func (c *Conn) AckNow() { c.rcv.ackDue = c.live }
