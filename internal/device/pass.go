package device

import (
	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/wire"
)

// passFromWire notes what a frame of the peer tells and passes it on as it is.
func (d *Device) passFromWire(now mono.Time, c *conn, p *wire.Packet, raw rawFrame) {
	if wire.VerifyChecksum(raw.buf, raw.n, p) && c.acceptable(&p.Seg) {
		c.notePeer(&p.Seg, d.keeps(c))
	}
	d.forward(d.host, p, raw)
	d.passed(now, c)
}

// notePeer notes an acceptable segment of the peer.
func (c *conn) notePeer(s *wire.Segment, keep bool) {
	if c.out.nxt.Less(s.Ack) {
		c.out.claims(s.Ack)
		return
	}
	c.stampPeer.note(s)
	if keep || s.Payload.Len == 0 {
		c.in.sent(s.Seq, s.Payload, s.Flags&wire.FIN != 0)
	}
	c.out.acked(s.Ack, s.Window)
	c.out.selected(s.SACK[:s.NSACK])
}

// passFromHost notes what a frame of S tells, which is true, and passes it on
// as it is.
func (d *Device) passFromHost(now mono.Time, c *conn, p *wire.Packet, raw rawFrame) {
	s := &p.Seg
	c.liftStamp(p, raw)
	if s.Flags&wire.RST == 0 {
		c.stampHost.note(s)
		c.noteECN(s)
		if d.keeps(c) || s.Payload.Len == 0 {
			c.out.sent(s.Seq, s.Payload, s.Flags&wire.FIN != 0)
		}
		if s.Flags&wire.ACK != 0 {
			c.in.acked(s.Ack, s.Window)
			c.in.selected(s.SACK[:s.NSACK])
		}
	}
	d.forward(d.uplink, p, raw)
	if s.Flags&wire.RST != 0 {
		d.leave(c)
		d.notice(c, abi.ResetByProgram)
	}
	d.passed(now, c)
}

// liftStamp raises the timestamp of a frame that S sent before the device sent
// a later one, so that the peer does not take it for an old duplicate.
func (c *conn) liftStamp(p *wire.Packet, raw rawFrame) {
	if !c.floored || !p.Seg.TSOK {
		return
	}
	if int32(p.Seg.TSVal-c.stampFloor) >= 0 {
		c.floored = false // S's clock has come past it
		return
	}
	p.SetTSVal(raw.buf, c.stampFloor)
}

// keeps reports whether copies of c's payload are worth their memory.
func (d *Device) keeps(c *conn) bool { return c.place == abi.PlacePassing && !d.pool.Scarce() }

func (d *Device) passed(now mono.Time, c *conn) {
	d.tryOwn(now, c)
	d.touch(c)
}

// tryOwn owns c if it is ready, and answers the driver.
func (d *Device) tryOwn(now mono.Time, c *conn) {
	if !c.ready() {
		d.sayClosing(c)
		return
	}
	start := d.clock()
	answer := abi.Answer{HWID: c.id, Bytes: c.held()}
	if err := d.own(now, c); err != nil {
		d.log.Warn("a connection could not be owned", "flow", c.key.ID().String(), "err", err)
		d.refuse(c, abi.InternalError)
		return
	}
	d.pump(now, c)
	d.emit(now, c)
	if c.awaited {
		c.awaited = false
		answer.StallNS = d.stall(start)
		d.answer(abi.Owned, c.batch, answer)
	}
	d.touch(c)
}

// refuse tells the driver that c will not be owned, or not again.
func (d *Device) refuse(c *conn, why abi.Reason) {
	c.wanted = false
	if !c.awaited {
		d.notice(c, why)
		return
	}
	c.awaited = false
	d.answer(abi.Owned, c.batch, abi.Answer{HWID: c.id, Reason: why})
}

// stall is how long neither stack could send, when the device stopped passing
// at start: until now.
func (d *Device) stall(start mono.Time) uint32 {
	return uint32(min(d.clock().Sub(start), 1<<32-1))
}

// sayClosing tells the driver of a passed connection that it cannot be owned
// any more since a side closes, and once that both have.
func (d *Device) sayClosing(c *conn) {
	if c.wanted && c.place == abi.PlacePassing && (c.out.fin || c.in.fin) {
		d.refuse(c, abi.NotEstablished)
	}
	if !c.closedSaid && c.out.finished() && c.in.finished() {
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
