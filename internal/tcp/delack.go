package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/wire"
)

const (
	quickAcks   = 16                     // segments acknowledged at once at the start and after a gap, as Linux (TCP_MAX_QUICKACKS)
	minAckDelay = 40 * time.Millisecond  // Linux TCP_DELACK_MIN and TCP_ATO_MIN
	maxAckDelay = 200 * time.Millisecond // Linux TCP_DELACK_MAX; RFC 9293, section 3.8.6.3, allows 500 ms
)

// Linux TCP_MSS_DEFAULT and TCP_MIN_MSS.
const (
	defaultMSS = 536
	leastMSS   = 88
)

// delackState decides how long an acknowledgment may wait, as Linux does
// (tcp_event_data_recv, tcp_send_delayed_ack).
type delackState struct {
	at       mono.Time     // when the acknowledgment that waits is due
	last     mono.Time     // when payload last came, 0: not yet
	delay    time.Duration // Linux icsk_ack.ato: about the time between two arrivals
	segment  uint16        // size of the peer's full segments, in octets of payload (Linux icsk_ack.rcv_mss)
	size     uint16        // of the last one
	quick    uint8         // segments yet to acknowledge without delay
	pingPong bool          // we answer what comes: an answer carries the acknowledgment
}

func (d *delackState) restore(mss uint32) {
	*d = delackState{quick: quickAcks, delay: minAckDelay, segment: uint16(mss)}
}

// arrived takes in that payload came.
func (d *delackState) arrived(now mono.Time, seg *wire.Segment, rto time.Duration) {
	d.measure(seg)
	switch gap := now.Sub(d.last); {
	case d.last == 0:
	case gap <= minAckDelay/2:
		d.delay = d.delay/2 + minAckDelay/2
	case gap < d.delay:
		d.delay = min(d.delay/2+gap, rto)
	case gap > rto:
		d.quick = quickAcks // the sender may have begun slow start again
	}
	d.last = now
}

// measure estimates how long the peer's full segments are (Linux
// tcp_measure_rcv_mss): as the longest, or as shorter ones when two of a length
// follow each other that look like full ones.
func (d *delackState) measure(seg *wire.Segment) {
	size := uint16(min(seg.Payload.Len, 1<<16-1))
	if seg.Size != 0 {
		size = seg.Size
	}
	full := size >= defaultMSS || size >= leastMSS && seg.Flags&wire.PSH == 0
	if size >= d.segment || full && size == d.size {
		d.segment = size
	}
	d.size = size
}

// hurry acknowledges the next n segments at once, whoever answers whom (Linux
// tcp_enter_quickack_mode).
func (d *delackState) hurry() {
	d.quick, d.pingPong, d.delay = quickAcks, false, minAckDelay
}

// scheduleAck decides when to acknowledge what was received in order, unless
// that is told by Permit: at once for every second full segment, for what
// closes or is before a gap and for a FIN, else after a delay (RFC 5681, section 4.2).
func (c *Conn) scheduleAck(now mono.Time, atOnce bool) {
	r := &c.rcv
	d := &r.delack
	switch {
	case c.through:
		r.ackDue = r.ackDue || atOnce && !r.after().runs.empty()
	case atOnce || r.nxt.Sub(r.acked) > uint32(d.segment):
		r.ackDue = true
	case d.quick > 0 && !d.pingPong:
		d.quick--
		r.ackDue = true
	default:
		c.delayAck(now)
	}
}

// delayAck lets the acknowledgment wait, no longer than one that waits
// already, and not at all when that one is due soon.
func (c *Conn) delayAck(now mono.Time) {
	d := &c.rcv.delack
	wait := min(d.delay, c.longestDelay())
	switch {
	case d.at == 0:
		d.at = now.Add(wait)
	case d.at <= now.Add(d.delay/4):
		c.rcv.ackDue = true
	default:
		d.at = min(d.at, now.Add(wait))
	}
}

// longestDelay is a round trip, within limits: who waits for longer than that
// for the next segment waits for nothing.
func (c *Conn) longestDelay() time.Duration {
	if c.rtt.srtt == 0 {
		return maxAckDelay
	}
	return min(max(c.rtt.srtt, minAckDelay), maxAckDelay)
}

// delayOver is the end of the delay: there was no answer that the
// acknowledgment could have gone with, so the next one waits longer, or we are
// not the one who answers (Linux tcp_delack_timer_handler).
func (c *Conn) delayOver() {
	d := &c.rcv.delack
	d.at, c.rcv.ackDue = 0, true
	if d.pingPong {
		d.pingPong, d.delay = false, minAckDelay
		return
	}
	d.delay = min(2*d.delay, c.rtt.rto)
}

// answered takes in that data was sent: soon after some came, it is an answer.
func (d *delackState) answered(now mono.Time) {
	if d.last != 0 && now.Sub(d.last) < d.delay {
		d.pingPong = true
	}
}

// SetQuickAck is TCP_QUICKACK: on, acknowledgments do not wait for an answer to
// go with; off, they do. As in Linux it is the state of now, which goes on
// changing by what comes and goes.
func (c *Conn) SetQuickAck(on bool) {
	d := &c.rcv.delack
	if c.through || !c.live {
		return
	}
	d.pingPong = !on
	if on && d.at != 0 {
		c.rcv.ackDue = true
	}
}
