package device

import (
	"slices"
	"time"

	"toehold/internal/abi"
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/port"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// own turns a passed connection into an owned one: two engines in one
// sequence space, one in S's place towards the peer, one in the peer's place
// towards S.
func (d *Device) own(now mono.Time, c *conn) error {
	peerEdge, programEdge := c.windows()
	towardsPeer := c.snapshot(&c.out, &c.in, peerEdge, programEdge)
	towardsHost := c.snapshot(&c.in, &c.out, programEdge, peerEdge)
	c.recall(now, &towardsPeer)
	k := &c.kernel
	towardsPeer.SndWscale, towardsPeer.RcvWscale = k.SndWscale, k.RcvWscale
	towardsHost.SndWscale, towardsHost.RcvWscale = k.RcvWscale, k.SndWscale
	c.setStamps(now, &towardsPeer, &towardsHost)
	c.setECN(&towardsPeer, &towardsHost)
	if k.Flags&abi.FlagPeerFIN != 0 {
		towardsPeer.State, towardsPeer.PeerFIN = tcb.CloseWait, true
		towardsHost.State, towardsHost.FINSent = tcb.FinWait2, true
		c.finIn = true
	}
	o := tcp.Options{Through: true, CC: c.control, MaxOOO: maxOutOfOrder, MTUProbing: d.mtuProbing, SndBuf: d.sndBuf(c)}
	if err := c.wire.Restore(now, &towardsPeer, o); err != nil {
		return err
	}
	if err := c.host.Restore(now, &towardsHost, tcp.Options{Through: true, CC: "none", TSTold: true}); err != nil {
		c.out.surrender() // the engine had taken the references over
		c.out.restart(c.out.nxt)
		c.wire.Close()
		return err
	}
	c.out.surrender() // the engines have the references
	c.in.surrender()
	c.host.SetTimestamp(c.wire.TSRecent(), c.wire.TSEcrLast())
	c.granted = peerEdge
	c.place, c.gapsIn, c.gapsOut = abi.PlaceOwned, 0, 0
	return nil
}

// maxOutOfOrder is the most memory, in octets of buffers, that is kept of what
// the peer sent after a gap.
const maxOutOfOrder = 16 << 20

// snapshot is one direction's sender at rest: s is what it sends, r what it
// receives.
func (c *conn) snapshot(s, r *track, sndEdge, rcvEdge seqnum.Value) tcb.Snapshot {
	snap := tcb.Snapshot{
		State:  tcb.Established,
		SndUna: s.una, SndNxt: s.nxt, SndWnd: sndEdge.Sub(s.una),
		SndWL1: r.nxt, SndWL2: s.una,
		RcvNxt: r.nxt, RcvAcked: r.una, RcvEdge: rcvEdge,
		MSS:        c.kernel.MSS,
		SACK:       c.kernel.Flags&abi.FlagSACK != 0,
		Timestamps: c.kernel.Flags&abi.FlagTimestamps != 0,
		TSOffset:   c.kernel.TSOffset,
		Cwnd:       10, Ssthresh: 0x7fffffff,
		Unacked: s.held,
	}
	if snap.SACK {
		s.sacked.after(s.una)
		snap.Sacked = slices.Clone(s.sacked)
	}
	return snap
}

// setStamps tells each engine the latest timestamp of its correspondent, so
// that it knows an old segment when it sees one (RFC 7323, section 5).
func (c *conn) setStamps(now mono.Time, towardsPeer, towardsHost *tcb.Snapshot) {
	towardsPeer.TSRecent = c.kernel.TSRecent
	if c.stampPeer.seen {
		towardsPeer.TSRecent, towardsPeer.TSEcr = c.stampPeer.val, c.stampPeer.ecr
	}
	// S that has been silent since it was steered stamps by its clock.
	towardsHost.TSRecent = c.kernel.TSOffset + uint32(now.Milliseconds()-1000)
	if c.stampHost.seen {
		towardsHost.TSRecent = c.stampHost.val
	}
}

// pump moves what one engine has received to the other, and lets each
// acknowledge and grant what the other's correspondent has.
func (c *conn) pump() {
	var s frame.Span
	for c.wire.Next(&s) {
		c.host.Send(s)
	}
	if !c.finIn && c.wire.PeerFINReceived() {
		c.finIn = true
		c.host.CloseSend()
	}
	c.pumpOut()
}

// pumpOut is pump without what the peer has sent.
func (c *conn) pumpOut() {
	var s frame.Span
	for c.host.Next(&s) {
		c.wire.Send(s)
	}
	if !c.finOut && c.host.PeerFINReceived() {
		c.finOut = true
		c.wire.CloseSend()
	}
	c.host.SetTimestamp(c.wire.TSRecent(), c.wire.TSEcrLast())
	c.wire.Permit(c.host.SndUna(), c.host.SndEdge())
	c.host.Permit(c.wire.SndUna(), c.grant())
}

// minGrant is the least that S may be ahead of what was sent, in octets: some
// super-segments.
const minGrant = 256 << 10

// grant is how far S may send: as far as the peer's window, but no more ahead
// of what was sent than the congestion window lets out at once, as of a send
// buffer that is tuned (Linux tcp_sndbuf_expand). More would only wait here,
// would lengthen S's round trip, and would all leave at once on the way home.
// It never moves back but with the peer's window.
func (c *conn) grant() seqnum.Value {
	ahead := max(c.wire.Cwnd(), minGrant)
	c.granted = seqnum.Max(c.granted, c.wire.SndNxt().Add(ahead))
	return seqnum.Min(c.granted, c.wire.SndEdge())
}

// fromPeer handles a frame of the peer of an owned connection.
func (d *Device) fromPeer(now mono.Time, c *conn, p *wire.Packet, raw rawFrame) {
	ev := c.wire.Receive(now, &p.Seg)
	switch {
	case ev&tcp.Urgent != 0:
		d.giveBack(now, c, abi.UrgentData)
		d.passFromWire(now, c, p, raw)
		return
	case ev&tcp.OutOfStep != 0:
		d.outOfStep(now, c)
		d.passFromWire(now, c, p, raw)
		return
	case p.Seg.Size != 0 && ev&tcp.Dropped == 0:
		c.host.SetMSS(uint32(p.Seg.Size))
	}
	if ev&tcp.Reset != 0 {
		c.host.Abort()
		c.reset = abi.ResetByPeer
	}
	c.host.MarkNext(ev)
	if ev&tcp.Probed != 0 {
		// Answered with what is known; S is asked too, in case its last
		// window update was lost on the way here.
		c.wire.AckNow()
		c.host.Probe()
	}
	if c.probing && p.Seg.Flags&wire.ACK != 0 {
		c.probing = false
		c.host.AckNow()
	}
	c.doubt(now, &c.wire, &c.host, &c.gapsIn)
	d.pump(now, c)
	d.touch(c)
}

// fromHost handles a frame of S of an owned connection.
func (d *Device) fromHost(now mono.Time, c *conn, p *wire.Packet, raw rawFrame) {
	switch {
	case p.Seg.Flags&wire.URG != 0:
		d.giveBack(now, c, abi.UrgentData)
		d.passFromHost(now, c, p, raw)
		return
	case p.Seg.Flags&wire.RST != 0:
		// The kernel itself aborts. Its RST is right as it stands; the
		// engine's is for when it cannot be sent now.
		c.reset = abi.ResetByProgram
		if !d.forward(d.uplink, p, raw) {
			c.wire.Abort()
		}
		d.touch(c)
		return
	case p.Seg.Flags&wire.SYN != 0: // a new connection of the same name
		d.giveBack(now, c, abi.Closed)
		d.passFromHost(now, c, p, raw)
		return
	}
	if p.Seg.Size != 0 {
		c.wire.SetMSS(uint32(p.Seg.Size))
	}
	ev := c.host.Receive(now, &p.Seg)
	if ev&tcp.OutOfStep != 0 {
		d.outOfStep(now, c)
		d.passFromHost(now, c, p, raw)
		return
	}
	if ev&tcp.Probed != 0 { // a keepalive or window probe is for the peer to answer
		c.probing = true
		c.wire.Probe()
	}
	c.doubt(now, &c.host, &c.wire, &c.gapsOut)
	d.pump(now, c)
	d.touch(c)
}

// doubtEvery bounds how often an end is asked about a gap.
const doubtEvery = 100 * time.Millisecond

// doubt asks the other end about a gap in what this one sends. Octets that
// passed by while the flow was being steered may be missing here alone, and
// then nobody would fill the gap: the answer acknowledges what the device
// never sent, and it falls into step by that.
func (c *conn) doubt(now mono.Time, sender, receiver *tcp.Conn, seen *uint64) {
	gaps := sender.Stats().OutOfOrder
	if gaps != *seen && now.Sub(c.doubted) > doubtEvery {
		c.doubted = now
		receiver.Probe()
	}
	*seen = gaps
}

// emit sends what both engines of c have to send, and says of each whether it
// has: a port may take no more for now.
func (d *Device) emit(now mono.Time, c *conn) (toPeer, toHost bool) {
	toPeer = d.stopped(c) || d.drain(now, &c.wire, &c.toPeer, d.uplink)
	if c.by != nil && c.by.phase == parted {
		return toPeer, true // S is being rebuilt
	}
	return toPeer, d.drain(now, &c.host, &c.toHost, d.host)
}

// finish looks whether an owned connection has come to its end. toPeer and
// toHost say to whom all that is due has been sent.
func (d *Device) finish(now mono.Time, c *conn, toPeer, toHost bool) {
	switch {
	case c.place != abi.PlaceOwned || c.closedSaid:
	case c.reset == abi.ResetByPeer && toHost, c.reset == abi.ResetByProgram && toPeer:
		d.leave(c)
		d.notice(c, c.reset)
	case c.finOut && c.finIn && c.wire.FINAcked() && c.toldHost():
		if !c.lingers(now) {
			d.sayClosed(c)
		}
	}
}

// outOfStep answers the sight of a segment that the device's state cannot
// explain, such as the acknowledgement of octets that S sent while its flow
// was being steered: the device passes again, and owns again once it has
// copies of everything. When that does not last, the connection goes home.
func (d *Device) outOfStep(now mono.Time, c *conn) {
	d.passAgain(now, c)
	c.place = abi.PlacePassing
	if now.Sub(c.reownedAt) > time.Minute {
		c.reowned, c.fragmented = 0, false
	}
	c.reowned, c.reownedAt = c.reowned+1, now
	why := d.whyOutOfStep(c)
	if c.reowned > maxReowned {
		c.place = abi.PlaceLeaving
		d.notice(c, why)
	}
}

// whyOutOfStep blames fragments if some have come before this time or another
// in the row: S has got segments from the kernel then that the device has never
// seen, and may acknowledge them one by one.
func (d *Device) whyOutOfStep(c *conn) abi.Reason {
	n := d.fragments(c)
	c.fragmented = c.fragmented || n != c.fragments
	c.fragments = n
	if c.fragmented {
		return abi.Fragments
	}
	return abi.OutOfStep
}

// maxReowned bounds how often in a row a connection is passed and owned again
// by itself before the driver is asked to take it home.
const maxReowned = 8

// giveBack passes c again and asks the driver to take it home. A bypassed connection
// stays as it is until the driver has parted it.
func (d *Device) giveBack(now mono.Time, c *conn, why abi.Reason) {
	if c.bypassed() {
		d.ask(now, c, why)
		return
	}
	d.passAgain(now, c)
	d.notice(c, why)
}

// passAgain ends the ownership of c: all that the device holds and may send
// goes out now, to S even what is out of order, so that its own
// acknowledgements tell the peer; then frames go by untouched.
func (d *Device) passAgain(now mono.Time, c *conn) {
	if c.place != abi.PlaceOwned {
		return
	}
	if c.bypassed() { // and has ended
		d.leave(c)
		return
	}
	d.unjoin(c, abi.OutOfStep)
	c.pump()
	c.wire.FlushAll()
	c.host.FlushAll()
	d.emit(now, c)
	sacked := d.tellSacked(now, c)
	toHost := d.flushOutOfOrder(now, &c.wire, &c.host, &c.toHost, d.host)
	toPeer := d.flushOutOfOrder(now, &c.host, &c.wire, &c.toPeer, d.uplink)
	c.out = passedUpTo(&c.wire, toPeer, c.finOut)
	c.in = passedUpTo(&c.host, toHost, c.finIn && c.kernel.Flags&abi.FlagPeerFIN == 0)
	c.out.sacked = sacked
	d.keepState(now, c)
	c.stampPeer = stamp{c.wire.TSRecent(), c.wire.TSEcrLast(), true}
	c.stampHost = stamp{c.host.TSRecent(), c.host.TSEcrLast(), true}
	d.leave(c)
}

// passedUpTo is the track of a direction in which everything up to nxt has
// been passed and no copy is kept.
func passedUpTo(e *tcp.Conn, nxt seqnum.Value, fin bool) track {
	return track{seen: true, told: true, una: e.SndUna(), lo: nxt, nxt: nxt, fin: fin, edge: e.SndEdge(), edged: true}
}

// flushOutOfOrder sends what the engine from received after a gap on through
// the engine to, as it is: its sender may have been told that it is there
// (RFC 2018), and would not soon send it again. It returns the end of all that
// from has received.
func (d *Device) flushOutOfOrder(now mono.Time, from, to *tcp.Conn, s *side, p port.Port) seqnum.Value {
	end := from.RcvNxt()
	from.OOO(func(seq seqnum.Value, piece frame.Span) {
		end = seqnum.Max(end, seq.Add(piece.Len))
		for piece.Len > 0 { // a frame may bring more than one may take out
			n := min(piece.Len, wire.MaxSuper)
			to.Stray(now, &d.out, seq, piece.Slice(0, n))
			d.transmit(&d.out, s, p)
			seq, piece = seq.Add(n), piece.Slice(n, piece.Len-n)
		}
	})
	return end
}

// leave takes the engines off c.
func (d *Device) leave(c *conn) {
	if !c.bypassed() {
		d.unjoin(c, abi.Closed)
	}
	if c.place == abi.PlaceOwned {
		d.keepCounters(c)
		c.wire.Close()
		c.host.Close()
		d.wheel.clear(&c.timer)
	}
	c.place = abi.PlaceLeaving
}
