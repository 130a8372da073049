package device

import (
	"errors"
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// Limits of what crosses by a channel.
const (
	maxUnread = 1 << 20   // octets that the program may have unread
	leastTake = 128 << 10 // what there is room for before more is taken, unless nothing is under way
)

// Ready takes in that the channel of a connection has octets.
func (d *Device) Ready(now mono.Time, id abi.HWID) {
	c := d.find(id)
	if c == nil || c.by == nil || c.place != abi.PlaceOwned {
		return
	}
	c.by.ready = true
	if c.by.phase == diverted {
		d.cross(now, c)
		d.touch(c)
	}
}

// pump moves what has come, in the way that c is attached.
func (d *Device) pump(now mono.Time, c *conn) {
	switch {
	case c.by == nil:
		c.pump()
	case c.by.phase == parted:
	case c.by.phase == diverted:
		d.cross(now, c)
	default:
		d.pumpJoined(now, c)
	}
}

// cross moves what has come between wire and channel.
func (d *Device) cross(now mono.Time, c *conn) {
	if c.reset == abi.None {
		d.outward(now, c)
	}
	if c.reset != abi.ResetByProgram { // what the peer sent before its RST is good
		d.inward(now, c)
	}
	d.attend(now, c)
	c.host.SetTimestamp(c.wire.TSRecent(), c.wire.TSEcrLast())
}

// outward takes what the program has sent: what is in C, then what S's TCP has.
func (d *Device) outward(now mono.Time, c *conn) {
	by := c.by
	if by.una != c.wire.SndUna() {
		d.publishLedger(c) // and then its room in the ring is free
	}
	closing := !c.finOut && c.host.PeerFINReceived()
	if closing && by.broken || (closing || c.finOut) && d.did(c, abi.ChannelLeftUnread) {
		d.abandon(c)
		return
	}
	by.closed = by.closed || by.waits != 0 && d.did(c, abi.ChannelClosed)
	spilled := c.host.Waiting(d.spans[:1]) > 0
	if d.takeAll(now, c, spilled || closing) && d.takeSpilled(c) && closing {
		c.finOut = true
		c.wire.CloseSend()
	}
	ack := by.hostNxt
	switch {
	case !by.past:
		ack = seqnum.Min(by.una, ack)
	case c.finOut && c.wire.FINAcked():
		ack = ack.Add(1)
	}
	c.host.Permit(ack, d.hostEdge(now, c, ack))
}

// did reports that the program has done something of abi.Channel... with S.
func (d *Device) did(c *conn, flags uint32) bool {
	return atomic.LoadUint32(&d.blocks[c.id.Index()].Channel.Flags)&flags != 0
}

// abandon resets the connection as the kernel does when the program has closed S and
// will not read what is there (RFC 2525, section 2.17).
func (d *Device) abandon(c *conn) {
	c.wire.Abort()
	c.host.Abort()
	c.reset = abi.ResetByProgram
}

// takeAll takes from C into the ring while there is room and something that the wire
// engine will want. It reports that C was seen to be empty; with sure it looks.
func (d *Device) takeAll(now mono.Time, c *conn, sure bool) bool {
	by := c.by
	by.ready = by.ready || sure
	for by.ready && !by.broken {
		room := c.ringRoom()
		if room == 0 {
			return false
		}
		n, err := by.channel.Take(c.ring.space(c.wire.SndEnd(), room))
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			by.ready = false
			return true
		case err != nil || n <= 0 || n > int(room):
			d.broke(now, c, err)
		default:
			seq := c.wire.SndEnd()
			by.taken += uint64(n)
			d.publishLedger(c)
			c.send(seq, uint32(n))
			by.ready = sure || n == int(room)
		}
	}
	return false
}

// ringRoom is how many octets more are to be in the ring: as many as are free, and as
// the wire engine sends soon. What is hardly worth a call waits for the acknowledgment
// that makes it more.
func (c *conn) ringRoom() uint32 {
	if c.wire.SndEnd().Less(c.wire.SndNxt()) {
		return 0 // a FIN is sent
	}
	held := c.wire.SndEnd().Sub(c.by.una)
	if c.by.closed { // S does not wait for ever
		return abi.RingSize - min(held, abi.RingSize)
	}
	ahead, unsent := max(c.wire.Cwnd(), minGrant), c.wire.SndEnd().Sub(c.wire.SndNxt())
	room := min(abi.RingSize-min(held, abi.RingSize), ahead-min(unsent, ahead))
	if room < leastTake && held > 0 {
		return 0
	}
	return room
}

// takeSpilled takes what S's TCP has sent into the ring, after C was seen to be empty.
// It reports that all is taken.
func (d *Device) takeSpilled(c *conn) bool {
	by := c.by
	for c.host.Waiting(d.spans[:1]) > 0 {
		s := d.spans[0]
		if c.ringRoom() < s.Len {
			return false
		}
		seq := c.wire.SndEnd()
		a, b := c.ring.space(seq, s.Len)
		copy(b, s.Bytes()[copy(a, s.Bytes()):])
		by.hostNxt = by.hostNxt.Add(s.Len)
		d.publishLedger(c)
		c.send(seq, s.Len)
		c.host.Next(&s)
		s.Buf.Release()
	}
	return true
}

// inward gives what the peer has sent to C, as far as the program reads.
func (d *Device) inward(now mono.Time, c *conn) {
	by := c.by
	limit, moved, blocked := by.limit, d.lookRead(c), false
	for !blocked && !by.broken {
		n := c.offer(d.spans[:], limit-min(limit, by.unread()))
		if n == 0 {
			break
		}
		blocked = !d.give(now, c, d.spans[:n])
	}
	waits := c.wire.Waiting(d.spans[:1]) > 0
	if !c.finIn && !waits && c.wire.PeerFINReceived() {
		c.finIn = true
		c.host.CloseSend()
	}
	ack := by.received()
	if c.finIn && c.toldHost() {
		ack = ack.Add(1)
	}
	if edge := by.rcvStart.Add(uint32(by.read) + limit); by.edge.Add(min(limit/2, c.kernel.MSS)).LessEq(edge) {
		by.edge = edge
	}
	c.wire.Deliver(now, ack, by.edge)
	// S has no more to say when a program that has shut it down closes it.
	abandoned := c.finOut && by.unread() > 0
	by.lookAgain(now, !by.broken && !c.finIn && (waits || abandoned || by.unread() > limit/2), moved)
}

// unread is how much the program has not read of what C was given.
func (by *bypass) unread() uint32 { return uint32(by.delivered - by.read) }

// lookRead sees how much the program has read, and reports whether that is more. What
// cannot be is not believed.
func (d *Device) lookRead(c *conn) bool {
	read := atomic.LoadUint64(&d.blocks[c.id.Index()].Channel.Read)
	if read <= c.by.read || read > c.by.delivered {
		return false
	}
	c.by.read = read
	return true
}

// lookAgain sets when to look whether the program has read more: as long as that is
// of interest, soon after it was seen to read, and less and less often.
func (by *bypass) lookAgain(now mono.Time, want, moved bool) {
	switch {
	case !want:
		by.look, by.wait = 0, 0
	case moved || by.look == 0:
		by.wait = leastLook
		by.look = now.Add(by.wait)
	case by.look <= now:
		by.wait = min(2*by.wait, mostLook)
		by.look = now.Add(by.wait)
	}
}

// offer fills into with what waits for C, up to most octets, and returns how many
// spans.
func (c *conn) offer(into []frame.Span, most uint32) int {
	n := c.wire.Waiting(into)
	for i := range into[:n] {
		s := &into[i]
		if i == 0 {
			*s = s.Slice(c.by.given, s.Len-c.by.given)
		}
		s.Len = min(s.Len, most)
		if most -= s.Len; s.Len == 0 {
			return i
		}
	}
	return n
}

// give gives pieces to C and reports whether it took all of them.
func (d *Device) give(now mono.Time, c *conn, pieces []frame.Span) bool {
	total := 0
	for _, p := range pieces {
		total += int(p.Len)
	}
	n, err := c.by.channel.Give(pieces)
	switch {
	case err == unix.EINTR:
		return true
	case err == unix.EAGAIN:
		return false
	case err != nil || n <= 0 || n > total:
		d.broke(now, c, err)
		return false
	}
	c.by.delivered += uint64(n)
	d.publishLedger(c)
	c.taken(uint32(n))
	return n == total
}

// taken lets go n octets that C has taken.
func (c *conn) taken(n uint32) {
	var s [1]frame.Span
	for n > 0 && c.wire.Waiting(s[:]) > 0 {
		left := s[0].Len - c.by.given
		if n < left {
			c.by.given += n
			return
		}
		n, c.by.given = n-left, 0
		c.wire.Next(&s[0])
		s[0].Buf.Release()
	}
}

// broke notes that the channel fails: that is for the driver to repair, or the program
// has closed S, which has its FIN come.
func (d *Device) broke(now mono.Time, c *conn, err error) {
	c.by.broken = true
	if c.finOut {
		d.abandon(c)
		return
	}
	if err == nil {
		err = errors.New("its socket is shut down")
	}
	d.log.Warn("a channel fails", "flow", c.key.ID().String(), "err", err)
	d.ask(now, c, abi.ChannelFailed)
}

// fromPeerBypassed handles a frame of the peer of a bypassed connection. The device
// alone knows what was sent, so what it cannot explain is nobody's.
func (d *Device) fromPeerBypassed(now mono.Time, c *conn, p *wire.Packet) {
	ev := c.wire.Receive(now, &p.Seg)
	switch {
	case ev&tcp.Urgent != 0: // not taken: its sender sends it again until S gets it
		d.ask(now, c, abi.UrgentData)
	case ev&tcp.Reset != 0:
		c.reset = abi.ResetByPeer
		if c.by.phase != parted {
			c.host.Abort()
		}
	case ev&tcp.Probed != 0:
		c.wire.AckNow()
	}
	d.pump(now, c)
	d.touch(c)
}

// fromHostBypassed handles a frame of S of a bypassed connection: what was sent past
// the channel, a FIN, an RST. None goes to the peer as it is.
func (d *Device) fromHostBypassed(now mono.Time, c *conn, p *wire.Packet) {
	switch f := p.Seg.Flags; {
	case f&(wire.RST|wire.ACK) == wire.RST && c.by.phase == parted: // nobody is there while S is rebuilt
		return
	case f&wire.RST != 0 && d.vanished(c, f):
		d.outlive(now, c)
		d.pump(now, c)
		d.touch(c)
		return
	case f&wire.RST != 0:
		c.wire.Abort()
		c.reset = abi.ResetByProgram
		d.touch(c)
		return
	case c.by.phase == parted: // S is being rebuilt, and sends it again
		return
	case f&wire.URG != 0:
		d.ask(now, c, abi.UrgentData)
		return
	case f&wire.SYN != 0 && c.by.orphan.gone: // it comes again, when this one is over
		return
	case f&wire.SYN != 0: // a new connection of the same name
		d.sayClosed(c)
		d.touch(c)
		return
	}
	if p.Seg.Size != 0 {
		c.wire.SetMSS(uint32(p.Seg.Size))
	}
	ev := c.host.Receive(now, &p.Seg)
	switch {
	case ev&tcp.OutOfStep != 0: // S has got something without the device
		d.ask(now, c, d.whyOutOfStep(c))
	case ev&tcp.Probed != 0:
		c.host.AckNow()
	}
	d.pump(now, c)
	d.touch(c)
}

// lingers reports that a bypassed connection is to stay for a while though both sides
// have closed it.
func (c *conn) lingers(now mono.Time) bool {
	if c.by == nil || c.wire.State() != tcb.TimeWait {
		return false
	}
	if c.by.closeAt == 0 {
		c.by.closeAt = now.Add(lastAck)
	}
	return now < c.by.closeAt
}

// patience is the earliest of what c waits for beside its engines.
func (c *conn) patience() mono.Time {
	at := mono.Time(0)
	if c.ring != nil {
		at = c.ring.at
	}
	if c.by == nil {
		return at
	}
	if !c.closedSaid {
		at = mono.Earliest(at, c.by.closeAt)
		at = mono.Earliest(at, c.careAt())
	}
	return mono.Earliest(at, c.by.look)
}

// followSocket takes over what the program has set of its socket and S's TCP does not
// do while it stands still.
func (d *Device) followSocket(now mono.Time, c *conn) {
	by := c.by
	written := atomic.LoadUint64(&d.blocks[c.id.Index()].Socket.Sequence)
	if by == nil || by.phase < diverted || by.limit != 0 && written == by.followed {
		return
	}
	by.followed = written
	part := d.socketPart(c)
	by.limit = maxUnread
	if part.State.Flags&abi.SocketRcvBuf != 0 {
		by.limit = min(by.limit, max(part.State.RcvBuf, tcb.MinMSS))
	}
	d.keepAsking(now, c, &part.State)
}

// keepAsking has the wire engine ask an idle peer whether it is there, as the program
// has set: S would ask in its own sequence numbers. It never gives up: that is S's, at
// home.
func (d *Device) keepAsking(now mono.Time, c *conn, s *abi.SocketState) {
	var k tcp.Keepalive
	c.by.probes = 0
	if kernel, ok := d.kernelPart(c); ok && s.Flags&abi.SocketKeepalive != 0 {
		k = tcp.Keepalive{Idle: millis(kernel.State.KeepTime), Interval: millis(kernel.State.KeepInterval), Count: math.MaxUint8}
		c.by.probes = kernel.State.KeepProbes
	}
	c.wire.AskIdle(now, k)
}

// unanswered reports that the peer has answered none of the questions whether it is
// there, as many as the program has set.
func (c *conn) unanswered() bool {
	return c.by != nil && c.by.probes > 0 && c.wire.SndUna() == c.wire.SndEnd() && c.wire.Probes() >= c.by.probes
}
