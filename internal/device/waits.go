package device

import (
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/wire"
)

// S's TCP has timers of its own, and sees nothing of what the peer answers. It must not
// give up while the peer is there, and what it has sent must arrive if it does.

const (
	// shutAfter is when S, which waits to be told that the device has what it sent, is
	// shown a closed window. Its first retransmission comes later (TCP_RTO_MIN).
	shutAfter = 200 * time.Millisecond
	// lookEvery is how often it is looked then whether anybody has S.
	lookEvery = time.Second
	// attendEvery is how often S is asked whether it is there, while the end of the
	// connection waits for it.
	attendEvery = 30 * time.Second
	// orphanFor is for how long a peer may take nothing of what a program sent whose
	// socket is gone. Linux gives up between 2 and 4 minutes after the window closed
	// (tcp_probe_timer).
	orphanFor = 4 * time.Minute
)

// An orphan is a bypassed connection whose program has said FIN.
type orphan struct {
	gone bool         // S is no more
	at   mono.Time    // when to ask S whether it is there; when it is gone, when to give up; 0: neither
	una  seqnum.Value // what the peer had acknowledged when at was set, once S is gone
}

// hostEdge is how far S may send, which is told that the device has what is before ack.
// When it has waited for that in vain for a while, it is shown a closed window: it then
// goes on asking, however long, as what it hears is a sign of life
// (tcp_rtx_probe0_timed_out), unless its program has set TCP_USER_TIMEOUT. That is not so
// when nobody has S any more: then it may send all that it has.
func (d *Device) hostEdge(now mono.Time, c *conn, ack seqnum.Value) seqnum.Value {
	by, ahead := c.by, uint32(minGrant)
	switch {
	case ack == c.host.RcvNxt():
		by.waits, by.lookAt = 0, 0
	case by.waits == 0 || by.acked != ack:
		by.waits, by.lookAt = now, now.Add(shutAfter)
	case by.lookAt <= now:
		by.lookAt = now.Add(lookEvery)
	}
	by.acked = ack
	if by.closed {
		ahead = abi.RingSize
	}
	c.granted = seqnum.Max(c.granted, by.hostNxt.Add(ahead))
	if by.waits != 0 && now.Sub(by.waits) >= shutAfter && !by.closed {
		return ack
	}
	return c.granted
}

// vanished reports that an RST of S is no program's: nobody had the socket any more, and
// it was gone when the device spoke to it (tcp_v4_send_reset, without ACK). A program
// that resets says ACK as well (tcp_send_active_reset).
func (d *Device) vanished(c *conn, flags uint8) bool {
	return flags&wire.ACK == 0 && c.host.PeerFINReceived() && !d.did(c, abi.ChannelLeftUnread)
}

// outlive goes on without S. All that it has sent was received; what is in C and in the
// engine towards it is still taken from there.
func (d *Device) outlive(now mono.Time, c *conn) {
	c.host.Abort()
	c.by.orphan = orphan{gone: true, at: now.Add(orphanFor), una: c.by.una}
}

// attend asks S whether it is there, while it has said FIN and the connection is not
// over, and ends the connection when it is gone and the peer has done nothing for long.
func (d *Device) attend(now mono.Time, c *conn) {
	o := &c.by.orphan
	switch {
	case c.reset != abi.None || !c.host.PeerFINReceived():
	case o.gone && o.una != c.by.una:
		o.una, o.at = c.by.una, now.Add(orphanFor)
	case o.at == 0:
		o.at = now.Add(attendEvery)
	case now < o.at:
	case !o.gone:
		c.host.Probe()
		o.at = now.Add(attendEvery)
	case c.wire.FINAcked(): // as FIN-WAIT-2 ends
		d.sayClosed(c)
	default:
		d.abandon(c)
	}
}

// careAt is when to look after S, 0 for never.
func (c *conn) careAt() mono.Time {
	if c.by.phase != diverted || c.reset != abi.None {
		return 0
	}
	return mono.Earliest(c.by.lookAt, c.by.orphan.at)
}

// toldHost reports that S has the peer's FIN, or is not there to have it.
func (c *conn) toldHost() bool {
	return c.host.FINAcked() || c.by != nil && c.by.orphan.gone
}
