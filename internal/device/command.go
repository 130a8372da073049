package device

import (
	"slices"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// Greet sends the device's first word.
func (d *Device) Greet(pid int) {
	d.say(abi.Append(d.message[:0], abi.Hello, 0, []abi.Greeting{{
		Version: abi.Version, Capacity: uint32(len(d.slots)), PID: uint32(pid), Memory: uint64(d.pool.Limit()),
	}}))
}

// Handle carries out a message of the driver, and has the channels that came with
// it. It reports false when the device is to end. A message that makes no sense is dropped with a note: the
// driver's deadline undoes what it was for.
func (d *Device) Handle(now mono.Time, msg []byte, channels ...Channel) bool {
	h, octets, err := abi.ParseHeader(msg)
	if err != nil || h.Type != abi.Join {
		closeAll(channels)
	}
	if err == nil {
		switch h.Type {
		case abi.Admit:
			err = d.each(h, octets, nil, func(o abi.Offer) { d.admit(h.Batch, o) })
		case abi.Own:
			err = d.each(h, octets, func(c *conn) { d.wantOwned(now, h.Batch, c) }, nil)
		case abi.Pass:
			err = d.each(h, octets, func(c *conn) { d.wantPassed(now, h.Batch, c) }, nil)
		case abi.Release:
			err = d.each(h, octets, func(c *conn) { d.wantReleased(now, h.Batch, c) }, nil)
		case abi.Join:
			err = d.join(now, h, octets, channels)
		case abi.Divert:
			err = d.each(h, octets, func(c *conn) { d.wantDiverted(now, h.Batch, c) }, nil)
		case abi.Part:
			err = d.each(h, octets, func(c *conn) { d.wantParted(now, h.Batch, c) }, nil)
		case abi.Resume:
			err = d.each(h, octets, func(c *conn) { d.wantResumed(now, h.Batch, c) }, nil)
		case abi.Quit:
			return false
		}
	}
	if err != nil {
		d.log.Error("message from the driver dropped", "err", err)
	}
	return true
}

// each parses the entries of a message: offers, or commands, whose stale ids
// are answered here.
func (d *Device) each(h abi.Header, octets []byte, command func(*conn), offer func(abi.Offer)) error {
	if offer != nil {
		offers, err := abi.Parse([]abi.Offer(nil), h, octets)
		for _, o := range offers {
			offer(o)
		}
		return err
	}
	commands, err := abi.Parse([]abi.Command(nil), h, octets)
	for _, cmd := range commands {
		if c := d.find(cmd.HWID); c != nil {
			command(c)
		} else {
			d.answer(h.Type+1, h.Batch, abi.Answer{HWID: cmd.HWID, Reason: abi.NoConnection})
		}
	}
	return err
}

// find returns the connection that id names now, or nil.
func (d *Device) find(id abi.HWID) *conn {
	if int(id.Index()) >= len(d.slots) || d.slots[id.Index()].generation != id.Generation() {
		return nil
	}
	return d.slots[id.Index()].conn
}

// admit takes a connection into the table or says why not.
func (d *Device) admit(batch uint32, o abi.Offer) {
	reason := d.admissible(&o)
	if reason != abi.None {
		d.answer(abi.Admitted, batch, abi.Answer{Reason: reason})
		return
	}
	index := d.free[len(d.free)-1]
	d.free = d.free[:len(d.free)-1]
	s := &d.slots[index]
	s.generation += d.step
	c := &conn{id: abi.MakeHWID(index, s.generation), key: o.Key, place: abi.PlacePassing, control: nameOf(o.CongestionControl)}
	if c.control == "" {
		c.control = "cubic"
	}
	c.timer.conn = c
	c.fragments = d.fragments(c)
	s.conn = c
	d.flows[c.key] = c
	d.touch(c)
	d.answer(abi.Admitted, batch, abi.Answer{HWID: c.id})
}

// admissible is the device's decision: by what it can do, by how full it is,
// by the nature of the connection.
func (d *Device) admissible(o *abi.Offer) abi.Reason {
	switch {
	case o.Key.ID() == flow.ID{} || o.MSS == 0 || o.MSS > tcb.MaxMSS:
		return abi.InternalError
	case d.capability.Lacks(o):
		return abi.ProtocolFeature
	case o.CongestionControl != [16]byte{} && !tcp.Supports(nameOf(o.CongestionControl)):
		return abi.CongestionControl
	case d.flows[o.Key] != nil:
		return abi.AlreadyOnDevice
	case len(d.free) == 0:
		return abi.DeviceFull
	case d.pool.Used() > d.pool.Limit()/8*7:
		return abi.DeviceMemory
	}
	return d.hasTime()
}

// wantOwned begins to own c: at once, or when all that is unacknowledged has
// gone by.
func (d *Device) wantOwned(now mono.Time, batch uint32, c *conn) {
	part, ok := d.kernelPart(c)
	if !ok {
		d.answer(abi.Owned, batch, abi.Answer{HWID: c.id, Reason: abi.InternalError})
		return
	}
	if c.place == abi.PlaceOwned && c.by == nil && !c.finIn && c.host.SndEnd().Less(seqOf(part.State.RcvNxt)) {
		d.outOfStep(now, c)
	}
	switch {
	case c.place == abi.PlaceOwned && c.by == nil: // again, by itself
		d.answer(abi.Owned, batch, abi.Answer{HWID: c.id, Bytes: c.held()})
		return
	case c.place != abi.PlacePassing:
		d.answer(abi.Owned, batch, abi.Answer{HWID: c.id, Reason: abi.Moving})
		return
	}
	c.learn(now, &part.State)
	c.wanted, c.awaited, c.batch = true, true, batch
	d.settle(c, &part)
	d.tryOwn(now, c)
}

// valid checks what of the kernel-level state the engines would divide or
// shift by.
func valid(k *abi.KernelState) bool {
	return k.MSS >= tcb.MinMSS && k.MSS <= tcb.MaxMSS && k.SndWscale <= 14 && k.RcvWscale <= 14
}

// settle merges the kernel-level state, read after the flow was steered.
func (d *Device) settle(c *conn, part *abi.KernelPart) {
	k := &part.State
	c.settled = true
	if k.Flags&abi.FlagTimestamps != 0 {
		c.stampPeer = stamp{val: k.TSRecent, seen: k.TSRecent != 0}
	}
	c.out.settle(seqOf(k.SndUna), seqOf(k.SndNxt))
	c.in.settle(seqOf(k.RcvNxt), seqOf(k.RcvNxt))
	d.prime(c, part)
}

// prime fills in the headers of the directions in which no frame has gone by.
func (d *Device) prime(c *conn, part *abi.KernelPart) {
	c.hop = hop{part.NextHop, part.Source}
	set := d.socketPart(c).State
	p := wire.Packet{Key: c.key, TTL: set.TTL, TOS: set.TOS &^ 3, DF: true}
	if p.TTL == 0 {
		p.TTL = 64
	}
	ethertype := etherHeader(c.key.Family)[12:]
	if !c.toPeer.known {
		link := slices.Concat(part.NextHop[:], part.Source[:], ethertype)
		c.toPeer.learn(&p, link[:d.linkHeader])
	}
	if !c.toHost.known {
		p.Key = c.key.Reverse()
		c.toHost.learn(&p, slices.Concat(part.Source[:], part.NextHop[:], ethertype))
	}
}

// wantPassed begins the way home.
func (d *Device) wantPassed(now mono.Time, batch uint32, c *conn) {
	if c.bypassed() && !c.ended() {
		d.answer(abi.Passing, batch, abi.Answer{HWID: c.id, Reason: abi.InternalError})
		return
	}
	start := d.clock()
	held := c.held()
	d.passAgain(now, c)
	c.place, c.wanted = abi.PlaceLeaving, false
	d.touch(c)
	d.answer(abi.Passing, batch, abi.Answer{HWID: c.id, Bytes: held, StallNS: d.stall(start)})
}

// wantReleased lets c go once the frames that were turned to the device
// before its flow was un-steered have been passed on. A bypassed connection may go
// when it is parted: its S has been rebuilt then, and takes up what is on the wire.
func (d *Device) wantReleased(now mono.Time, batch uint32, c *conn) {
	if c.bypassed() && !c.ended() {
		if c.by.phase != parted {
			d.answer(abi.Released, batch, abi.Answer{HWID: c.id, Reason: abi.InternalError})
			return
		}
		d.dropParted(now, c)
	}
	d.passAgain(now, c)
	c.place, c.wanted = abi.PlaceLeaving, false
	d.releasing = append(d.releasing, release{conn: c, batch: batch, by: now.Add(drainWithin)})
}

// drainWithin bounds the wait for the frames that were turned to the device
// before a flow was un-steered. A device that cannot keep up may never see its
// ports empty; what it drops then is repaired as any loss.
const drainWithin = 50 * time.Millisecond

// release forgets the connections whose frames have all been passed: each
// port has been empty since they were to be released.
func (d *Device) release(now mono.Time, uplinkEmpty, hostEmpty bool) {
	keep := d.releasing[:0]
	for _, r := range d.releasing {
		r.uplinkEmpty = r.uplinkEmpty || uplinkEmpty
		r.hostEmpty = r.hostEmpty || hostEmpty
		if now < r.by && !(r.uplinkEmpty && r.hostEmpty) {
			keep = append(keep, r)
			continue
		}
		d.forget(now, r.conn)
		d.answer(abi.Released, r.batch, abi.Answer{HWID: r.conn.id})
	}
	clear(d.releasing[len(keep):])
	d.releasing = keep
}

// forget takes c out of the table; its slot is free for another one.
func (d *Device) forget(now mono.Time, c *conn) {
	if d.find(c.id) != c {
		return // released twice
	}
	d.leave(c)
	d.dropChannel(c)
	if c.ring != nil && !c.ring.buf.Shared() {
		c.ring.vacate()
	}
	c.out.release()
	c.in.release()
	delete(d.flows, c.key)
	d.slots[c.id.Index()].conn = nil
	d.free = append(d.free, c.id.Index())
	c.place = abi.PlaceFree
	d.publish(now, c)
}

// answer queues an answer; those to one message that are ready in one turn
// go out together.
func (d *Device) answer(kind abi.Type, batch uint32, a abi.Answer) {
	k := answerKey{kind, batch}
	d.answers[k] = append(d.answers[k], a)
	if len(d.answers[k]) == abi.MaxEntries {
		d.sayAnswers(k)
	}
}

// notice tells the driver of something that happened by itself.
func (d *Device) notice(c *conn, why abi.Reason) {
	d.answer(abi.Notice, 0, abi.Answer{HWID: c.id, Reason: why})
}

func (d *Device) answerAll() {
	for k := range d.answers {
		d.sayAnswers(k)
	}
}

func (d *Device) sayAnswers(k answerKey) {
	d.say(abi.Append(d.message[:0], k.kind, k.batch, d.answers[k]))
	delete(d.answers, k)
}

func (d *Device) say(msg []byte) {
	d.message = msg
	d.send(msg)
}
