package device

import (
	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/wire"
)

// passFromWire notes what a frame of the peer tells and passes it on as it is.
func (d *Device) passFromWire(now mono.Time, c *conn, p *wire.Packet, raw rawFrame) {
	// What S will refuse must not become a copy that it is sent again.
	if wire.VerifyChecksum(raw.buf, raw.n, p) {
		c.stampPeer.note(&p.Seg)
		c.note(&c.in, &c.out, &p.Seg)
	}
	d.forward(d.host, p, raw)
	d.passed(now, c)
}

// passFromHost notes what a frame of S tells and passes it on as it is.
func (d *Device) passFromHost(now mono.Time, c *conn, p *wire.Packet, raw rawFrame) {
	c.stampHost.note(&p.Seg)
	c.note(&c.out, &c.in, &p.Seg)
	d.forward(d.uplink, p, raw)
	if p.Seg.Flags&wire.RST != 0 {
		d.leave(c)
		d.notice(c, abi.ResetByProgram)
	}
	d.passed(now, c)
}

func (d *Device) passed(now mono.Time, c *conn) {
	d.tryOwn(now, c)
	d.touch(c)
}

func (c *conn) note(sender, receiver *track, s *wire.Segment) {
	if s.Flags&wire.RST != 0 {
		return
	}
	sender.sent(s.Seq, s.Payload, s.Flags&wire.FIN != 0)
	if s.Flags&wire.ACK != 0 {
		receiver.acked(s.Ack, s.Window)
	}
}

// tryOwn owns c if it is ready, and answers the driver.
func (d *Device) tryOwn(now mono.Time, c *conn) {
	if !c.ready() {
		d.sayClosed(c)
		return
	}
	start := d.clock()
	err := d.own(now, c)
	answer := abi.Answer{HWID: c.id, Bytes: c.held()}
	if err != nil {
		d.log.Warn("a connection could not be owned", "flow", c.key.ID().String(), "err", err)
		c.wanted = false
		answer.Reason = abi.InternalError
		d.answer(abi.Owned, c.batch, answer)
		return
	}
	c.pump()
	d.emit(now, c)
	if c.reowned == 0 {
		answer.StallNS = d.stall(start)
		d.answer(abi.Owned, c.batch, answer)
	}
	d.touch(c)
}

// stall is how long neither stack could send, when the device stopped passing
// at start: until now.
func (d *Device) stall(start mono.Time) uint32 {
	return uint32(min(d.clock().Sub(start), 1<<32-1))
}

// sayClosed tells the driver once that both sides of a passed connection have
// closed.
func (d *Device) sayClosed(c *conn) {
	if !c.closedSaid && c.out.fin && c.in.fin && c.out.una == c.out.nxt && c.in.una == c.in.nxt {
		c.closedSaid = true
		d.notice(c, abi.Closed)
	}
}

// held is how many octets of both directions the device has copies of.
func (c *conn) held() uint64 {
	if c.place != abi.PlaceOwned {
		return uint64(c.out.octets) + uint64(c.in.octets)
	}
	m := c.metrics()
	return uint64(m.HeldOut) + uint64(m.HeldIn)
}
