package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/wire"
)

// retransmissionTimeout holds what is in flight and not SACKed for lost and
// starts over (RFC 6298, rules 5.4 to 5.6; RFC 5681, section 3.1; Linux
// tcp_enter_loss).
func (c *Conn) retransmissionTimeout(now mono.Time) {
	l, s := &c.loss, &c.snd
	c.stats.RTOs++
	// RFC 5682, section 3.1, step 1: not amid another recovery, unless nothing
	// came of that since the last timeout.
	l.frto = l.phase == open || l.phase == reducing || c.timer.retries > 0
	c.timer.expired = now
	if l.phase == open || !s.una.Less(l.recover) || l.phase == timedOut && c.timer.retries == 0 {
		c.beginReduction(now, timedOut, beganLoss)
	}
	if !l.empty() && l.first().is(sacked) {
		c.renege()
	}
	l.phase, l.recover, l.dupAcks, l.force, l.tlp = timedOut, s.nxt, 0, true, tlpState{}
	if p := c.path.search; p != nil {
		p.size = 0
	}
	c.blackHole(now)
	c.loseAll(now)
	if c.cc.algorithm != nil {
		c.cc.cwnd = c.pipe() + s.mss
	}
}

// loseAll marks everything but what was sent lately (RFC 8985, section 6.3).
func (c *Conn) loseAll(now mono.Time) {
	l := &c.loss
	for i := l.head; i != l.tail; i++ {
		x := l.at(i)
		late := i == l.head || !c.rcv.sack || x.at.Add(l.rack.rtt+c.reoWnd()) <= now
		if !x.is(sacked) && !x.missing() && late {
			c.lose(x)
		}
	}
}

// renege forgets what was SACKed: the receiver has given it up (RFC 2018,
// section 8).
func (c *Conn) renege() {
	l := &c.loss
	for i := l.head; i != l.tail; i++ {
		if x := l.at(i); x.is(sacked) {
			l.set(x, x.marks&^sacked)
			c.lose(x)
		}
	}
	l.fack = c.snd.una
}

// spurious reports that the timeout was for nothing: what was sent before it
// arrives (RFC 5682, section 3.1, step 3b; without SACK that cannot be told when
// it may be acknowledged for what was sent again).
func (c *Conn) spurious(d *delivery) bool {
	return d.acked > 0 && c.mayUndo(d) || c.loss.frto && d.original && (c.rcv.sack || !d.karn)
}

// inLoss goes on after a timeout (Linux tcp_process_loss): it may show that
// the timeout was for nothing (F-RTO, RFC 5682, section 3.1).
func (c *Conn) inLoss(d *delivery) {
	l, s := &c.loss, &c.snd
	over := l.recover.LessEq(s.una)
	switch {
	case c.spurious(d):
		c.undoReduction(d.now, true)
		c.calm()
		return
	case l.frto && l.recover.Less(s.nxt):
		if d.acked == 0 {
			// Step 3a: the loss was real. An acknowledgment that moves the
			// window alone tells it too: the receiver may have had no room for
			// the new data. The segment to go on with has room, as the step's
			// window of three gives it.
			l.frto, l.force = false, true
		}
	case l.frto && d.acked > 0 && !over:
		// Step 2b: new data instead of more that may not be lost.
		l.recover = s.nxt
		l.frto = s.unsent() > 0 && s.nxt.Less(s.edge)
		l.newFirst = l.frto
	}
	if over {
		l.rack.narrow()
		c.cc.tell(d.now, ended)
		c.calm()
		return
	}
	if !l.recover.Less(s.nxt) {
		d.duplicate = false // it may come from what was sent twice
	}
	c.countDuplicate(d)
	if c.rcv.sack {
		c.find(d)
	}
}

// persist is the persist timer's end: the peer's window is closed, or too small
// for a segment, and nothing is in flight whose acknowledgment could open it
// (RFC 9293, sections 3.8.6.1 and 3.8.6.2.1).
func (c *Conn) persist() {
	s := &c.snd
	if s.nxt.Less(s.edge) && s.unsent() > 0 {
		s.override = true
		return
	}
	c.timer.probe = true
}

// Probe makes the next Output send a zero-length segment at snd.una-1, which
// any TCP answers with an acknowledgment (as Linux's tcp_xmit_probe_skb).
func (c *Conn) Probe() {
	if c.live {
		c.timer.probe = true
	}
}

// outputProbe sends a probe.
func (c *Conn) outputProbe(now mono.Time, out *wire.Out) {
	c.timer.probe = false
	c.stats.Probes++
	c.opt.probes += min(1, 255-c.opt.probes)
	c.header(now, out, c.snd.una-1, wire.ACK)
}

// blocked is called when nothing can be sent: it starts the persist timer when
// nothing but the peer's window can be the reason.
func (c *Conn) blocked(now mono.Time) {
	s := &c.snd
	if c.timer.rto == 0 && s.flight() == 0 && (s.unsent() > 0 || s.finDue()) {
		c.armRTO(now)
	}
}

// drained is called when nothing more goes out for now.
func (c *Conn) drained(now mono.Time) {
	if c.loss.tlp.want {
		c.scheduleProbe(now, false)
	}
	if c.snd.unsent() == 0 {
		c.starve()
	}
}
