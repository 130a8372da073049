package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// localClose is the CLOSE call (RFC 9293, section 3.10.4): the state changes
// though the FIN may wait for what is queued before it.
func (c *Conn) localClose() {
	switch c.state {
	case tcb.Established:
		c.state = tcb.FinWait1
	case tcb.CloseWait:
		c.state = tcb.LastAck
	}
}

// peerClose takes in the peer's FIN (RFC 9293, section 3.10.7.4, eighth).
func (c *Conn) peerClose(now mono.Time) Event {
	r := &c.rcv
	r.finDone = true
	r.nxt++
	r.dropOOO()
	switch c.state {
	case tcb.Established:
		c.state = tcb.CloseWait
	case tcb.FinWait1:
		c.state = tcb.Closing
	case tcb.FinWait2:
		c.enterTimeWait(now)
	}
	return PeerFIN
}

// finAcknowledged is the acknowledgment of our FIN.
func (c *Conn) finAcknowledged(now mono.Time) {
	switch c.state {
	case tcb.FinWait1:
		c.state = tcb.FinWait2
	case tcb.Closing:
		c.enterTimeWait(now)
	case tcb.LastAck:
		// Nothing is left to do, but acknowledging through, the peer's FIN
		// may still wait for its acknowledgment.
		c.state = tcb.Closed
	}
}

func (c *Conn) enterTimeWait(now mono.Time) {
	c.state = tcb.TimeWait
	c.timer.wait = now.Add(timeWait)
}
