package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/wire"
)

// acknowledgment processes SEG.ACK, SEG.WND and the SACK option (RFC 9293,
// section 3.10.7.4, fifth).
func (c *Conn) acknowledgment(now mono.Time, seg *wire.Segment) Event {
	s := &c.snd
	switch {
	case s.nxt.Less(seg.Ack):
		c.challenge(now)
		return OutOfStep
	case seg.Ack.Less(s.una):
		return c.oldAck(now, seg)
	}
	var ev Event
	duplicate := seg.Ack == s.una && seg.Len() == 0
	if c.windowUpdate(seg) {
		ev, duplicate = WindowMoved, false
	}
	acked := seg.Ack.Sub(s.una)
	if acked > 0 {
		c.advanceUna(now, seg.Ack)
		ev |= Acked
	}
	fresh := c.takeSACK(seg)
	if seg.Flags&wire.ECE != 0 {
		c.sawECE(now)
	}
	if acked == 0 && fresh == 0 && !duplicate && c.loss.quiet() {
		return ev
	}
	c.judge(now, acked, fresh, duplicate && s.flight() > 0)
	return ev
}

// oldAck is an acknowledgment of what was acknowledged before. Too old a one is
// an attempt to inject (RFC 5961, section 5.2).
func (c *Conn) oldAck(now mono.Time, seg *wire.Segment) Event {
	if c.snd.una.Sub(seg.Ack) > max(c.snd.maxWnd, 1<<16) {
		c.challenge(now)
		return Dropped
	}
	return 0
}

// advanceUna takes in a new acknowledgment.
func (c *Conn) advanceUna(now mono.Time, ack seqnum.Value) {
	c.snd.acknowledge(ack)
	c.loss.sacked.cutBefore(ack)
	c.rtt.acknowledged(now, ack)
	// RFC 6298, rules 5.2 and 5.3.
	c.timer.backoff = 0
	c.timer.rto = 0
	if c.snd.flight() > 0 {
		c.timer.rto = now.Add(c.rtt.rto)
	}
	if c.snd.finAcked {
		c.finAcknowledged(now)
	}
}

// windowUpdate takes SEG.WND unless the segment is older than the one that set
// it last, and reports whether the right edge moved. A new acknowledgment
// always sets it, as in Linux (tcp_may_update_window): the segment that brings
// it may have been overtaken by a later one that brought none.
func (c *Conn) windowUpdate(seg *wire.Segment) bool {
	s := &c.snd
	wnd := uint32(seg.Window) << s.wscale
	newer := s.una.Less(seg.Ack) || s.wl1.Less(seg.Seq) ||
		s.wl1 == seg.Seq && (wnd == 0 || s.edge.Less(seg.Ack.Add(wnd)))
	if !newer {
		return false
	}
	s.wl1, s.wl2 = seg.Seq, seg.Ack
	s.maxWnd = max(s.maxWnd, wnd)
	edge := seg.Ack.Add(wnd)
	if edge == s.edge {
		return false
	}
	s.edge = edge
	if c.snd.flight() == 0 {
		c.timer.rto, c.timer.backoff = 0, 0 // Output starts persisting again if need be
	}
	return true
}
