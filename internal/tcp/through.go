package tcp

import (
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

// AckNow makes an acknowledgment due even if nothing changed.
func (c *Conn) AckNow() { c.rcv.ackDue = c.live }
