package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// timerState is the timers, each 0 when it is not running, but for the
// delayed acknowledgment's, which is with the receiver.
type timerState struct {
	rto     mono.Time // retransmission while something is in flight, persist otherwise
	wait    mono.Time // end of TIME-WAIT
	idle    mono.Time // give memory back if nothing happened since
	active  mono.Time // when something last happened
	sent    mono.Time // when new data was last sent
	backoff uint8     // doublings of the timeout
	probe   bool      // a probe is to be sent
}

const (
	timeWait   = 60 * time.Second // Linux TCP_TIMEWAIT_LEN, not the RFC's 2 x 2 min
	idleAfter  = time.Second
	maxBackoff = 16
)

// Deadline is when Advance is to be called next, 0 for never.
func (c *Conn) Deadline() mono.Time {
	t := &c.timer
	return mono.Earliest(c.opt.deadline(), mono.Earliest(mono.Earliest(t.rto, c.rcv.delack.at), mono.Earliest(t.wait, t.idle)))
}

// Advance runs the timers whose time has come. Early calls do nothing.
func (c *Conn) Advance(now mono.Time) Event {
	t := &c.timer
	if due(t.rto, now) {
		t.rto = 0
		c.timeout(now)
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
	for _, q := range [...]*queue{&c.snd.q, &c.rcv.in, &c.rcv.ooo} {
		q.giveBack()
	}
	c.rcv.runs.giveBack()
	c.loss.sacked.giveBack()
}

// timeout is the end of the retransmission or persist timer.
func (c *Conn) timeout(now mono.Time) {
	if c.snd.flight() > 0 {
		c.retransmissionTimeout(now)
	} else {
		c.persist()
	}
	c.timer.backoff = min(c.timer.backoff+1, maxBackoff)
	c.armRTO(now)
}

// armRTO starts the timer with its back-off (RFC 6298, rule 5.5).
func (c *Conn) armRTO(now mono.Time) {
	c.timer.rto = now.Add(min(c.rtt.rto<<c.timer.backoff, maxRTO))
}
