package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/wire"
)

// retransmissionTimeout holds everything in flight that is not SACKed for lost
// and starts over (RFC 6298, rules 5.4 to 5.6; RFC 5681, section 3.1).
func (c *Conn) retransmissionTimeout(now mono.Time) {
	l, s := &c.loss, &c.snd
	c.stats.RTOs++
	if c.timer.backoff == 0 || l.phase != timedOut {
		c.cc.reduce(now, s.flight(), beganLoss)
		c.queueCWR()
	}
	if c.cc.algorithm != nil {
		c.cc.cwnd = s.mss
	}
	if !l.sacked.empty() && l.sacked.list[0].Lo.LessEq(s.una) {
		l.sacked.clear() // the receiver gave up what it had SACKed (RFC 2018, section 8)
	}
	l.phase, l.recover, l.rexmit, l.lostTo = timedOut, s.nxt, s.una, s.nxt
	l.dupAcks, l.force, l.rescue = 0, true, rescueUsed
	c.rtt.timing = false
	l.pipe = c.countPipe()
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
