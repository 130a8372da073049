package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// timerState is the timers, each 0 when it is not running, but for the
// delayed acknowledgment's, which is with the receiver.
type timerState struct {
	rto     mono.Time // as kind says
	wait    mono.Time // end of TIME-WAIT
	idle    mono.Time // give memory back if nothing happened since
	active  mono.Time // when something last happened
	sent    mono.Time // when new data was last sent
	paced   mono.Time // nothing leaves before, when the window's algorithm paces
	expired mono.Time // when the last retransmission timeout was that is not repaired yet, 0: none
	kind    timerKind // of rto
	backoff uint8     // doublings of the timeout
	retries uint8     // timeouts since anything was acknowledged
	probe   bool      // a probe is to be sent
	pacing  bool      // something waits for paced
}

// A timerKind is what the one timer of the sender stands for (Linux
// icsk_pending).
type timerKind uint8

const (
	retransmitting timerKind = iota // persist, while nothing is in flight
	probing                         // tail loss probe
	reordering                      // RACK: what is late enough is lost then
)

// arm sets the timer; it does not go off before the first moment there is.
func (t *timerState) arm(k timerKind, at mono.Time) { t.kind, t.rto = k, at }

const (
	timeWait   = 60 * time.Second // Linux TCP_TIMEWAIT_LEN, not the RFC's 2 x 2 min
	idleAfter  = time.Second
	maxBackoff = 16
)

// Deadline is when Advance is to be called next, 0 for never.
func (c *Conn) Deadline() mono.Time {
	t := &c.timer
	at := mono.Earliest(c.opt.deadline(), mono.Earliest(mono.Earliest(t.rto, c.rcv.delack.at), mono.Earliest(t.wait, t.idle)))
	if t.pacing {
		at = mono.Earliest(at, t.paced)
	}
	return at
}

// Advance runs the timers whose time has come. Early calls do nothing.
func (c *Conn) Advance(now mono.Time) Event {
	t := &c.timer
	if due(t.rto, now) {
		t.rto = 0
		c.timeout(now)
	}
	if t.pacing && due(t.paced, now) {
		t.pacing = false // Output may send again
	}
	if due(c.rcv.delack.at, now) {
		c.delayOver()
	}
	if due(t.wait, now) {
		t.wait, c.state = 0, tcb.Closed
	}
	if due(t.idle, now) {
		c.rest(now)
	}
	return c.limits(now)
}

func due(at, now mono.Time) bool { return at != 0 && at <= now }

// touch notes that something happened.
func (c *Conn) touch(now mono.Time) {
	c.timer.active = now
	if c.timer.idle == 0 {
		c.timer.idle = now.Add(idleAfter)
	}
}

// rest gives back what empty queues hold when nothing happened for a while, or
// looks again later.
func (c *Conn) rest(now mono.Time) {
	if since := c.timer.active.Add(idleAfter); now < since {
		c.timer.idle = since
		return
	}
	c.timer.idle = 0
	c.snd.q.giveBack()
	c.rcv.in.giveBack()
	if g := c.rcv.gaps; g != nil && g.ooo.empty() && g.runs.empty() {
		c.rcv.gaps = nil
	}
	c.loss.giveBack()
}

// timeout is the end of the sender's timer.
func (c *Conn) timeout(now mono.Time) {
	switch kind := c.timer.kind; {
	case c.snd.flight() == 0:
		c.persist()
	case kind == probing:
		c.probe(now)
		return
	case kind == reordering:
		c.reorderTimeout(now)
		return
	default:
		c.retransmissionTimeout(now)
	}
	c.timer.backoff = min(c.timer.backoff+1, maxBackoff)
	c.timer.retries = min(c.timer.retries, 254) + 1
	c.armRTO(now)
}

// armRTO starts the timer with its back-off (RFC 6298, rule 5.5).
func (c *Conn) armRTO(now mono.Time) { c.timer.arm(retransmitting, now.Add(c.backedOff())) }

// backedOff is the timeout with its back-off. The hop to the program's socket is
// inside the host: what it loses is no congestion, and nobody is served by
// waiting.
func (c *Conn) backedOff() time.Duration {
	if c.cc.algorithm == nil {
		return min(c.rtt.rto<<c.timer.backoff, hopRTO)
	}
	return min(c.rtt.rto<<c.timer.backoff, maxRTO)
}

// expiry is when the retransmission timer would have gone off had it run since
// the first octets in flight were sent (Linux tcp_rto_delta_us).
func (c *Conn) expiry(now mono.Time) mono.Time {
	if c.loss.empty() {
		return now.Add(c.backedOff())
	}
	return max(c.loss.first().at.Add(c.backedOff()), now+1)
}
