package tcp

import (
	"time"

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
	d := c.delivery(now, seg)
	var ev Event
	if c.windowUpdate(seg) {
		ev, d.duplicate, d.pure = WindowMoved, false, false
	}
	if d.acked > 0 {
		c.advanceUna(now, seg.Ack, &d)
		ev |= Acked
	}
	c.takeSACK(seg, &d)
	d.ece = c.ecn.on && seg.Flags&wire.ECE != 0
	if d.acked == 0 && d.fresh == 0 && !d.duplicate && !d.ece && d.dsack.Empty() && c.loss.quiet() && !c.loss.tlp.sent {
		return ev
	}
	c.measure(seg, &d)
	c.rates(&d)
	c.judge(&d)
	if d.rearm {
		c.rearm(now)
	}
	return ev
}

// delivery begins to make sense of an acknowledgment.
func (c *Conn) delivery(now mono.Time, seg *wire.Segment) (d delivery) {
	d.now, d.acked, d.before = now, seg.Ack.Sub(c.snd.una), c.pipe()
	d.fack = c.loss.fack
	d.pure = d.acked == 0 && seg.Len() == 0
	d.duplicate = d.pure && c.snd.flight() > 0
	d.eifel = !c.loss.undo.any && d.acked > 0 // nothing was sent again at all
	if c.ts.on && !c.told && seg.TSOK && seg.TSEcr != 0 {
		d.ecr, d.stamped = seg.TSEcr, true
		d.eifel = d.eifel || c.loss.undo.stamped && d.earlier(c.loss.undo.stamp)
	}
	return d
}

// oldAck is an acknowledgment of what was acknowledged before. Too old a one is
// an attempt to inject (RFC 5961, section 5.2).
func (c *Conn) oldAck(now mono.Time, seg *wire.Segment) Event {
	if c.snd.una.Sub(seg.Ack) > max(c.snd.maxWnd, 1<<16) {
		c.challenge(now)
		return Dropped
	}
	c.overtaken(now, seg)
	return 0
}

// overtaken takes in the SACK option of an acknowledgment that a later one
// overtook: a duplicate is reported only once (Linux tcp_ack, old_ack).
func (c *Conn) overtaken(now mono.Time, seg *wire.Segment) {
	d := delivery{fack: c.loss.fack}
	d.now, d.before = now, c.pipe()
	c.takeSACK(seg, &d)
	if d.fresh == 0 && d.dsack.Empty() {
		return
	}
	c.rates(&d)
	c.judge(&d)
	if d.rearm {
		c.rearm(now)
	}
}

// advanceUna takes in a new acknowledgment.
func (c *Conn) advanceUna(now mono.Time, ack seqnum.Value, d *delivery) {
	l := &c.loss
	for !l.empty() && l.first().lo.Less(ack) {
		x := *l.first()
		x.hi = seqnum.Min(x.hi, ack)
		if !x.is(sacked) {
			c.take(d, &x, x.len(), false)
		}
		l.cut(x.len())
	}
	c.snd.acknowledge(ack)
	l.fack = seqnum.Max(l.fack, ack)
	// What is long past must not become the future as numbers wrap.
	c.ecn.recover = seqnum.Max(c.ecn.recover, ack-1)
	if l.phase == open {
		l.recover = seqnum.Max(l.recover, ack-1)
	}
	c.timer.retries = 0
	d.rearm = true
	if c.snd.finAcked {
		c.finAcknowledged(now)
	}
}

// renegeWait is the least time until a receiver that says no more of what it
// had is believed to have dropped it.
const renegeWait = 10 * time.Millisecond

// rearm sets the timer anew after an acknowledgment (RFC 6298, rules 5.2 and
// 5.3; RFC 8985, section 7.2).
func (c *Conn) rearm(now mono.Time) {
	t := &c.timer
	was := t.kind
	t.rto, t.kind = 0, retransmitting
	switch {
	case c.snd.flight() == 0, c.scheduleProbe(now, true):
	case c.loss.first().is(sacked):
		// The receiver has given up what it had (Linux tcp_check_sack_reneging).
		t.arm(retransmitting, now.Add(max(c.rtt.srtt/2, renegeWait)))
	case was == probing || was == reordering:
		t.arm(retransmitting, c.expiry(now))
	default:
		c.armRTO(now)
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
