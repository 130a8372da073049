package device

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"toehold/internal/abi"
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
)

// A bypass is what an owned connection has beside its engines while its octets cross
// by a channel. S's TCP stands still then, so that S's own sequence numbers, which
// the host engine speaks, lag behind the wire's. The host engine is left for what the
// program sends past the channel, and for FIN and RST.
//
// It keeps these promises:
//  1. What is in the ring and the ledger is acknowledged to S after that.
//  2. What C has taken is acknowledged to the peer after that.
//  3. Nothing that S has sent before the divert is acknowledged to it before the peer has.
//  4. Nothing is taken of S's TCP while there is something in C.
type bypass struct {
	phase   phase
	batch   uint32 // of the Join
	channel Channel
	ready   bool // there may be something to take
	broken  bool // the channel fails
	drained bool // nothing is under way from S as it was before it was rebuilt

	taken, delivered uint64       // as the ledger
	hostNxt          seqnum.Value // as the ledger
	una              seqnum.Value // as the ledger last said
	start            seqnum.Value // the ring has what is from here on
	past             bool         // the peer has all that is before start
	rcvStart         seqnum.Value
	given            uint32 // octets of the first span that waits, which C has

	read uint64        // octets that the program has read, as last seen
	edge seqnum.Value  // right edge of the window that the peer was given
	look mono.Time     // when to look again whether the program has read, 0: no need
	wait time.Duration // then until the next look

	closeAt  mono.Time // when the connection is over, 0: not yet to be said
	followed uint64    // the block's socket part was looked at when its sequence number was this
	limit    uint32    // octets that the program may have unread
	probes   uint8     // unanswered ones that end the connection, 0: none are sent

	asked   abi.Reason // the driver was asked to take it home for this,
	askedAt mono.Time  // then

	acked  seqnum.Value // what S was told that the device has
	waits  mono.Time    // since when S has waited to be told more, 0: it does not
	lookAt mono.Time    // when to look after it again, 0: no need
	closed bool         // nobody has S any more
	orphan orphan
}

// A phase is how far into bypass a connection is.
type phase uint8

const (
	joining  phase = iota // S gets no more; it is yet to acknowledge what it got
	joined                // and has
	diverted              // octets cross by the channel
	parted                // the channel is left alone, for the way home
)

// Times of bypass.
const (
	leastLook = 50 * time.Microsecond
	mostLook  = 5 * time.Millisecond
	// lastAck is for how long the last acknowledgement can be repeated to a peer that
	// missed it: three retransmissions of its FIN, from Linux's least timeout of 200 ms
	// on. S, in its own sequence numbers, could not.
	lastAck     = 2 * time.Second
	vacateAfter = time.Second
	askEvery    = time.Second
)

// bypassed reports that S's TCP is not what the peer's is talking with.
func (c *conn) bypassed() bool { return c.by != nil && c.by.phase != joining }

// attachment is what the block says of it.
func (c *conn) attachment() uint8 {
	if c.by != nil && c.by.phase >= diverted {
		return abi.AttachBypass
	}
	return abi.AttachShadow
}

// wantJoined begins the bypass of c, by a channel that is c's from now on.
func (d *Device) wantJoined(now mono.Time, batch uint32, c *conn, ch Channel) {
	if why := d.joinable(c, ch); why != abi.None {
		ch.Close()
		d.answer(abi.Joined, batch, abi.Answer{HWID: c.id, Reason: why})
		return
	}
	if c.ring == nil {
		c.ring = d.ringOf(c.id.Index())
	}
	c.by = &bypass{batch: batch, channel: ch}
	d.pump(now, c)
	d.touch(c)
}

func (d *Device) joinable(c *conn, ch Channel) abi.Reason {
	switch {
	case c.place != abi.PlaceOwned || c.by != nil:
		return abi.Moving
	case c.finIn || c.finOut || c.closedSaid || c.reset != abi.None || c.wire.PeerFINReceived():
		return abi.NotEstablished
	case c.ring == nil && d.ringOf(c.id.Index()) == nil:
		d.log.Warn("a connection has no ring to be bypassed with", "flow", c.key.ID().String())
		return abi.ChannelFailed
	}
	if err := ch.Watch(c.id); err != nil {
		d.log.Warn("a channel cannot be watched", "flow", c.key.ID().String(), "err", err)
		return abi.ChannelFailed
	}
	return abi.None
}

// pumpJoined is pump of a connection whose S gets nothing more.
func (d *Device) pumpJoined(now mono.Time, c *conn) {
	if c.by.phase == joined && d.opened(c) {
		d.divert(now, c)
		d.cross(now, c)
		return
	}
	c.pumpOut()
	if c.by.phase == joining && c.host.SndUna() == c.host.SndEnd() {
		c.by.phase = joined
		d.answer(abi.Joined, c.by.batch, abi.Answer{HWID: c.id, Bytes: uint64(c.host.SndEnd())})
	}
}

// opened reports that what the program sends may already go to C. What S's TCP has
// then is later, so it must wait for what is in C, also before the driver's word comes.
func (d *Device) opened(c *conn) bool {
	return atomic.LoadUint32(&d.blocks[c.id.Index()].Channel.Open) != 0
}

// join takes the channels of a Join, one for each entry.
func (d *Device) join(now mono.Time, h abi.Header, octets []byte, channels []Channel) error {
	commands, err := abi.Parse([]abi.Command(nil), h, octets)
	if err == nil && len(commands) != len(channels) {
		err = fmt.Errorf("a Join of %d connections comes with %d channels", len(commands), len(channels))
	}
	if err != nil {
		closeAll(channels)
		return err
	}
	for i, cmd := range commands {
		if c := d.find(cmd.HWID); c != nil {
			d.wantJoined(now, h.Batch, c, channels[i])
			continue
		}
		channels[i].Close()
		d.answer(abi.Joined, h.Batch, abi.Answer{HWID: cmd.HWID, Reason: abi.NoConnection})
	}
	return nil
}

func closeAll(channels []Channel) {
	for _, ch := range channels {
		ch.Close()
	}
}

// wantDiverted goes on by the channel, for the first time or in place of going home.
func (d *Device) wantDiverted(now mono.Time, batch uint32, c *conn) {
	a := abi.Answer{HWID: c.id}
	switch by := c.by; {
	case by == nil || by.phase == joining || c.place != abi.PlaceOwned:
		a.Reason = c.whyNot(abi.Moving)
	case by.phase == joined:
		d.divert(now, c)
	case by.phase == parted:
		by.phase, by.ready, by.asked = diverted, true, abi.None
	}
	if a.Reason == abi.None {
		d.pump(now, c)
		d.touch(c)
	}
	d.answer(abi.Diverted, batch, a)
}

// divert begins to use the channel. S's sequence numbers are the wire's still.
func (d *Device) divert(now mono.Time, c *conn) {
	by := c.by
	by.phase, by.ready = diverted, true
	by.start, by.hostNxt = c.wire.SndEnd(), c.wire.SndEnd()
	by.rcvStart, by.edge = c.host.SndEnd(), seqnum.Max(c.host.SndEdge(), c.host.SndEnd())
	d.followSocket(now, c)
	d.publishLedger(c)
}

// wantParted leaves the channel alone.
func (d *Device) wantParted(now mono.Time, batch uint32, c *conn) {
	a := abi.Answer{HWID: c.id}
	if by := c.by; by == nil || by.phase < diverted || c.place != abi.PlaceOwned {
		a.Reason = c.whyNot(abi.InternalError)
	} else {
		by.phase, by.look, by.wait = parted, 0, 0
		a.Bytes = c.held()
		d.publishLedger(c)
		d.publish(now, c)
		d.touch(c)
	}
	d.answer(abi.Parted, batch, a)
}

// sayClosed tells the driver that an owned connection has come to its end.
func (d *Device) sayClosed(c *conn) {
	if !c.closedSaid {
		c.closedSaid = true
		d.notice(c, abi.Closed)
	}
}

// ended reports that there is nothing more to cross.
func (c *conn) ended() bool { return c.closedSaid || c.place != abi.PlaceOwned }

// whyNot is why a step of c's bypass is not possible: it has ended, or for otherwise.
func (c *conn) whyNot(otherwise abi.Reason) abi.Reason {
	switch {
	case c.reset != abi.None:
		return c.reset
	case c.closedSaid:
		return abi.Closed
	}
	return otherwise
}

// wantResumed goes on with S's TCP: as it was when nothing has crossed by the channel,
// else with what the driver has made of it.
func (d *Device) wantResumed(now mono.Time, batch uint32, c *conn) {
	a := abi.Answer{HWID: c.id}
	switch by := c.by; {
	case by == nil || by.phase == diverted || c.place != abi.PlaceOwned:
		a.Reason = c.whyNot(abi.InternalError)
	case by.phase == parted && !by.drained:
		// What S sent before it was rebuilt is in its own sequence numbers, and
		// would be taken for something else afterwards.
		d.resuming = append(d.resuming, resumption{c.id, batch, now.Add(drainWithin)})
		return
	case by.phase == parted:
		if err := d.reattach(now, c); err != nil {
			d.log.Error("a connection cannot go on with its rebuilt socket", "flow", c.key.ID().String(), "err", err)
			a.Reason = abi.NotRebuilt
		}
	default:
		strayed := c.askedFor(abi.OutOfStep)
		d.unjoin(c, abi.Timeout)
		if strayed {
			d.outOfStep(now, c)
		}
	}
	if a.Reason == abi.None && c.place == abi.PlaceOwned {
		d.pump(now, c)
		d.touch(c)
	}
	d.answer(abi.Resumed, batch, a)
}

// A resumption is a connection that goes on with its rebuilt S once the frames that
// S sent before have been read.
type resumption struct {
	id    abi.HWID
	batch uint32
	by    mono.Time // given up then
}

// resume goes on with those: read says that the host port had nothing more.
func (d *Device) resume(now mono.Time, read bool) {
	keep := d.resuming[:0]
	for _, r := range d.resuming {
		c := d.find(r.id)
		switch {
		case c == nil || c.by == nil:
			d.answer(abi.Resumed, r.batch, abi.Answer{HWID: r.id, Reason: abi.NoConnection})
		case read:
			c.by.drained = true
			d.wantResumed(now, r.batch, c)
		case now >= r.by: // the kernel can go on with it
			d.answer(abi.Resumed, r.batch, abi.Answer{HWID: r.id, Reason: abi.Timeout})
		default:
			keep = append(keep, r)
		}
	}
	d.resuming = keep
}

// unjoin drops the channel of a connection that is not diverted. A Join that is not
// answered yet is refused.
func (d *Device) unjoin(c *conn, why abi.Reason) {
	if c.by == nil {
		return
	}
	if c.by.phase == joining {
		d.answer(abi.Joined, c.by.batch, abi.Answer{HWID: c.id, Reason: c.whyNot(why)})
	}
	d.dropChannel(c)
}

// dropChannel ends the bypass as such.
func (d *Device) dropChannel(c *conn) {
	if c.by == nil {
		return
	}
	c.by.channel.Close()
	if c.by.phase >= diverted {
		d.closeLedger(c)
	}
	c.by = nil
}

// dropParted leaves a parted connection to S, which has been rebuilt.
func (d *Device) dropParted(now mono.Time, c *conn) {
	c.out = passedUpTo(&c.wire, c.wire.SndNxt(), c.finOut)
	c.in = track{seen: true, told: true, una: c.wire.RcvAcked(), lo: c.wire.RcvNxt(), nxt: c.wire.RcvNxt(), fin: c.finIn}
	d.keepState(now, c)
	d.leave(c)
	d.dropChannel(c)
	c.mute = true
}

// ask asks the driver to take a bypassed connection home. It stays as it is until
// then, and the driver hears the same only now and then.
func (d *Device) ask(now mono.Time, c *conn, why abi.Reason) {
	by := c.by
	if by.asked == why && now.Sub(by.askedAt) < askEvery {
		return
	}
	by.asked, by.askedAt = why, now
	if !by.orphan.gone { // else it has no home
		d.notice(c, why)
	}
}

// askedFor reports that the driver has been asked to take c home for this.
func (c *conn) askedFor(why abi.Reason) bool { return c.by != nil && c.by.asked == why }

// reattach makes the host engine anew, for S as the driver has rebuilt it: in the
// wire's sequence numbers, with all that the device has in its care in S's own queues.
func (d *Device) reattach(now mono.Time, c *conn) error {
	part, ok := d.kernelPart(c)
	if !ok {
		return errNoState
	}
	if err := c.rebuilt(&part.State); err != nil {
		return err
	}
	k := &part.State
	s := c.towardsRebuilt(now, k)
	if err := s.Check(); err != nil {
		return err
	}
	c.host.Close()
	if err := c.host.Restore(now, &s, tcp.Options{Through: true, CC: "none", TSTold: true}); err != nil {
		return err
	}
	c.host.SetTimestamp(c.wire.TSRecent(), c.wire.TSEcrLast())
	c.granted = s.RcvEdge
	c.finIn = s.FINSent
	given := c.by.given
	d.dropChannel(c)
	c.takeUp(given)
	c.wire.AskIdle(now, tcp.Keepalive{})
	return nil
}

var errNoState = errors.New("the block has no sound kernel-level state of it")

// rebuilt checks that S begins where the device goes on: it has got what C was given,
// and its queue has, as sent, what the wire engine has.
func (c *conn) rebuilt(k *abi.KernelState) error {
	got, una, nxt := seqOf(k.RcvNxt), seqOf(k.SndUna), seqOf(k.SndNxt)
	switch want := c.by.received(); {
	case got != want && !(c.finIn && got == want.Add(1)):
		return fmt.Errorf("rcv_nxt is %d and has to be %d", got, want)
	case !una.LessEq(c.wire.SndUna()) || !una.LessEq(c.wire.SndEnd()) || c.wire.SndEnd().Sub(una) > tcb.MaxWindow:
		return fmt.Errorf("snd_una is %d and has to be %d at most", una, c.wire.SndUna())
	case nxt.Less(c.wire.SndEnd()):
		return fmt.Errorf("snd_nxt is %d and has to be %d at least", nxt, c.wire.SndEnd())
	}
	return nil
}

// towardsRebuilt is the peer of S as S now knows it.
func (c *conn) towardsRebuilt(now mono.Time, k *abi.KernelState) tcb.Snapshot {
	una, end := seqOf(k.RcvNxt), c.wire.SndEnd()
	edge := seqOf(k.RcvWup).Add(k.RcvWnd)
	if !una.LessEq(edge) {
		edge = una
	}
	s := tcb.Snapshot{
		State:  tcb.Established,
		SndUna: una, SndNxt: una, SndWnd: min(edge.Sub(una), tcb.MaxWindow), SndWL1: end, SndWL2: una,
		RcvNxt: end, RcvAcked: seqOf(k.SndUna), RcvEdge: seqnum.Max(seqOf(k.SndUna).Add(min(k.SndWnd, tcb.MaxWindow)), end),
		SndWscale: k.RcvWscale, RcvWscale: k.SndWscale, MSS: c.metrics().MSS, Cwnd: 10, Ssthresh: tcb.NoThreshold,
		SACK: c.kernel.Flags&abi.FlagSACK != 0, Timestamps: c.kernel.Flags&abi.FlagTimestamps != 0, TSOffset: k.TSOffset,
		TSRecent: k.TSOffset + uint32(now.Milliseconds()-1000),
		ECN:      c.kernel.Flags&abi.FlagECN != 0,
	}
	if c.finIn && una == c.by.received().Add(1) {
		s.State, s.FINSent = tcb.FinWait2, true
	}
	return s
}

// received is the end of what C has taken of the peer's octets.
func (by *bypass) received() seqnum.Value { return by.rcvStart.Add(uint32(by.delivered)) }

// takeUp queues the rest of a span for S of which C has had the first octets.
func (c *conn) takeUp(given uint32) {
	if given == 0 {
		return
	}
	var s frame.Span
	if c.wire.Next(&s) {
		c.host.Send(s.Slice(given, s.Len-given))
	}
}
