package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// accept makes the checks before a segment's acknowledgment and payload are
// looked at (RFC 9293, section 3.10.7.4; RFC 7323, section 5.3; RFC 5961). It
// reports whether the segment passed.
func (c *Conn) accept(now mono.Time, seg *wire.Segment) (Event, bool) {
	switch {
	case seg.Flags&wire.RST != 0:
		return c.reset(now, seg), false
	case c.ts.old(now, seg):
		c.stats.PAWSDrops++
		c.reply(now, seg)
		return Dropped, false
	case !c.rcv.inWindow(seg):
		return c.outside(now, seg), false
	case seg.Flags&wire.SYN != 0:
		// RFC 5961, section 4.2: whatever its sequence number.
		c.challenge(now)
		return Dropped, false
	case seg.Flags&wire.ACK == 0:
		return Dropped, false
	case seg.Flags&wire.URG != 0:
		return Urgent, false
	}
	return 0, true
}

// inWindow is the acceptability test, as generous as Linux's (tcp_sequence):
// anything that ends at or after what is acknowledged and starts at or before
// the greatest edge ever advertised. What is outside of the window within such
// a segment is trimmed later.
func (r *recvState) inWindow(seg *wire.Segment) bool {
	return r.acked.LessEq(seg.Seq.Add(seg.Len())) && seg.Seq.LessEq(seqnum.Max(r.maxEdge, r.nxt))
}

// outside answers a segment that is not acceptable: "send an acknowledgment"
// (RFC 9293, section 3.10.7.4, first).
func (c *Conn) outside(now mono.Time, seg *wire.Segment) Event {
	before := seg.Seq.Add(seg.Len()).Less(c.rcv.acked)
	switch {
	case seg.Flags&wire.SYN != 0:
		c.challenge(now)
		return Dropped
	case before && seg.Len() == 0:
		// Keepalives are no attack, but two ends that answered each other's
		// without a limit would never stop, and half of what a blind attacker
		// sends looks like one (Linux tcp_oow_rate_limited).
		if !c.mayChallenge(now) {
			return Dropped
		}
		c.rcv.ackDue = c.rcv.ackDue || !c.through
		return Probed
	case before:
		return c.duplicate(now, seg, seg.Payload.Len)
	}
	c.reply(now, seg)
	return Dropped
}

// reply acknowledges an unacceptable segment: at once when it has payload, as
// such are not part of a loop of acknowledgments, within the limit otherwise
// (as Linux, tcp_oow_rate_limited).
func (c *Conn) reply(now mono.Time, seg *wire.Segment) {
	if seg.Payload.Len > 0 {
		c.rcv.ackDue = true
		return
	}
	c.challenge(now)
}

// reset processes an RST (RFC 5961, section 3.2): only the exact sequence
// number resets. Acknowledging through, a peer without state answers with the
// number that it last saw acknowledged, which may be before rcv.nxt.
//
// In TIME-WAIT an RST may be an answer to an old duplicate, and would let the
// next ones into a new connection, so it is dropped (RFC 1337, section 3, fix
// F1, other than RFC 9293).
func (c *Conn) reset(now mono.Time, seg *wire.Segment) Event {
	switch {
	case c.state == tcb.TimeWait && !c.through:
		return Dropped
	case seg.Seq == c.rcv.nxt || c.through && seg.Seq == c.rcv.sentAck:
		c.forget()
		return Reset
	case c.rcv.inWindow(seg):
		c.challenge(now)
	}
	return Dropped
}

// challengeState limits challenge ACKs.
type challengeState struct {
	since uint32 // ms
	n     uint8
}

// The limit that RFC 5961, section 7, suggests, per connection.
const (
	challengeLimit  = 10
	challengePeriod = 5000 // ms
)

// challenge makes an acknowledgment due unless there were too many lately.
func (c *Conn) challenge(now mono.Time) {
	if c.mayChallenge(now) {
		c.rcv.ackDue = true
	}
}

// mayChallenge counts an answer, and reports false when there were too many
// lately.
func (c *Conn) mayChallenge(now mono.Time) bool {
	ch, ms := &c.chal, uint32(now.Milliseconds())
	if ch.n == 0 || ms-ch.since >= challengePeriod {
		*ch = challengeState{since: ms}
	}
	if ch.n == challengeLimit {
		c.stats.ChallengesLimited++
		return false
	}
	ch.n++
	c.stats.Challenges++
	return true
}
