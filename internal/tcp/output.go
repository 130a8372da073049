package tcp

import (
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/wire"
)

// Output writes the next segment to send to out, which may be a super-segment
// of up to wire.MaxSuper octets, and returns false when there is none. Call it
// until then after every call that brings something in.
func (c *Conn) Output(now mono.Time, out *wire.Out) bool {
	if !c.live {
		return c.outputReset(now, out)
	}
	if c.rcv.update && !c.through {
		c.taken(now)
	}
	if !c.next(now, out) {
		c.settled(now)
		return false
	}
	c.stats.SegsOut += count(out.Length, uint32(out.Size))
	return true
}

// next chooses what to send. An acknowledgment with SACK blocks goes alone and
// first, so that data always has room for a whole segment.
func (c *Conn) next(now mono.Time, out *wire.Out) bool {
	switch {
	case c.rcv.ackDue && c.rcv.sackDue():
		c.outputAck(now, out)
	case c.outputFRTO(now, out):
	case c.outputLost(now, out):
	case c.outputPathProbe(now, out):
	case c.outputNew(now, out):
	case c.outputTailProbe(now, out):
	case c.timer.probe:
		c.outputProbe(now, out)
	case c.rcv.ackDue:
		c.outputAck(now, out)
	default:
		return false
	}
	return true
}

// header starts out anew, with everything but payload. What it says is what
// the peer then knows.
func (c *Conn) header(now mono.Time, out *wire.Out, seq seqnum.Value, flags uint8) {
	c.acknowledge()
	out.Segment = wire.Segment{Seq: seq, Ack: c.rcv.sentAck, Flags: flags | c.ecn.flags(flags), Window: c.rcv.sentWnd, ECN: c.ecn.codepoint()}
	out.NPieces, out.Length = 0, 0
	c.ts.fill(now, &out.Segment, c.told)
}

// Stray makes out a segment of payload at seq that never was in the send
// queue: octets that the caller has received after a gap and does not keep.
// The span is borrowed.
func (c *Conn) Stray(now mono.Time, out *wire.Out, seq seqnum.Value, payload frame.Span) {
	c.header(now, out, seq, wire.ACK)
	out.Pieces[0], out.NPieces, out.Length = payload, 1, payload.Len
	if payload.Len > c.snd.mss {
		out.Size = uint16(c.snd.mss)
	}
}

// outputAck sends a pure acknowledgment.
func (c *Conn) outputAck(now mono.Time, out *wire.Out) {
	c.header(now, out, c.snd.acceptable(), wire.ACK)
	c.rcv.fillSACK(&out.Segment, blocks(c.ts.on))
}

// acceptable is the sequence number of a segment without payload: snd.nxt, but
// the edge when the peer shrank its window to before it, as it would not
// accept snd.nxt (Linux tcp_acceptable_seq). What is less than a unit of the
// window field is rounding and no shrinking: with it at both ends each would
// hold all that the other says for old.
func (s *sendState) acceptable() seqnum.Value {
	if distance(s.edge, s.nxt) >= 1<<s.wscale {
		return seqnum.Max(s.edge, s.una)
	}
	return s.nxt
}

// outputReset sends the RST of Abort.
func (c *Conn) outputReset(now mono.Time, out *wire.Out) bool {
	if !c.rstDue {
		return false
	}
	c.rstDue = false
	c.header(now, out, c.snd.acceptable(), wire.RST|wire.ACK)
	c.stats.SegsOut++
	return true
}

// room is how much more may be in the network.
func (c *Conn) room() uint32 { return c.cc.cwnd - min(c.cc.cwnd, c.pipe()) }

// outputFRTO sends new data after a timeout, before more is sent again (RFC
// 5682, section 3.1, step 2b).
func (c *Conn) outputFRTO(now mono.Time, out *wire.Out) bool {
	l := &c.loss
	if !l.newFirst {
		return false
	}
	if c.outputNew(now, out) {
		return true
	}
	if c.timer.pacing {
		return false // later
	}
	l.newFirst = false
	l.frto = l.recover.Less(c.snd.nxt) // else there was nothing that could be sent
	return false
}

// outputLost sends what is lost again.
func (c *Conn) outputLost(now mono.Time, out *wire.Out) bool {
	l := &c.loss
	if l.frto && l.recover.Less(c.snd.nxt) {
		return false
	}
	missing := c.nextMissing()
	if missing.Empty() || !c.mayLeave(now) {
		return false
	}
	room := c.room()
	if l.force {
		room = max(room, c.snd.mss)
	}
	n := c.fit(missing, room)
	if n == 0 {
		return false
	}
	l.force = false
	c.resend(now, out, missing.Lo, n)
	return true
}

// fit returns how much of what is lost may go out in one segment. The peer's
// window counts here too, as it may have shrunk; the first segment in flight
// is sent all the same, or nothing would ever tell that it opened again.
func (c *Conn) fit(lost seqnum.Range, room uint32) uint32 {
	s := &c.snd
	window := distance(lost.Lo, s.edge)
	if lost.Lo == s.una {
		window = max(window, s.mss)
	}
	n := min(lost.Len(), c.super(), window)
	if n > room {
		c.cc.limited = true
		n = room - room%s.mss
	}
	return n
}

// resend sends n octets of sequence space from seq on again.
func (c *Conn) resend(now mono.Time, out *wire.Out, seq seqnum.Value, n uint32) {
	s := &c.snd
	c.header(now, out, seq, wire.ACK)
	data := min(n, distance(seq, s.end))
	got, _ := s.gather(out, s.q.find(seq), seq, data)
	c.dress(out, got == data && n > data)
	c.stats.Retransmits += count(got, s.mss)
	c.stats.BytesResent += uint64(got)
	if seq == s.una && c.timer.kind != reordering {
		c.armRTO(now)
	}
	n = length(out)
	c.sentAgain(now, seq, seq.Add(n))
	c.loss.prr.out += n
	c.paceOut(now, n)
}

// length is the sequence space that out takes.
func length(out *wire.Out) uint32 {
	if out.Flags&wire.FIN != 0 {
		return out.Length + 1
	}
	return out.Length
}

// dress sets what depends on the payload gathered.
func (c *Conn) dress(out *wire.Out, fin bool) {
	if out.Length > c.snd.mss {
		out.Size = uint16(c.snd.mss)
	}
	if fin {
		out.Flags |= wire.FIN
	}
	if out.Length > 0 && out.Seq.Add(out.Length) == c.snd.end {
		out.Flags |= wire.PSH
	}
}

// outputNew sends what was never sent, and the FIN after it.
func (c *Conn) outputNew(now mono.Time, out *wire.Out) bool {
	s := &c.snd
	if s.nxt == s.end && !s.finDue() {
		return false
	}
	if s.flight() == 0 {
		c.cc.idle(now, now.Sub(c.timer.sent), c.rtt.rto)
	}
	n := c.ecn.alone(c.allowed(), s.mss)
	fin := s.finDue() && n == s.unsent() && s.nxt.Add(n).Less(s.edge)
	if n == 0 && !fin || !c.mayLeave(now) {
		return false
	}
	c.emitNew(now, out, n, fin)
	return true
}

// emitNew sends n octets, and with fin the FIN, for the first time.
func (c *Conn) emitNew(now mono.Time, out *wire.Out, n uint32, fin bool) {
	s := &c.snd
	if s.flight() == 0 {
		c.armRTO(now)
	}
	c.header(now, out, s.nxt, wire.ACK)
	got, at := s.gather(out, s.at, s.nxt, n)
	c.dress(out, fin && got == n)
	c.ecn.dress(out)
	c.sentNew(now, out, at)
}

// sentNew accounts for a first transmission.
func (c *Conn) sentNew(now mono.Time, out *wire.Out, at uint32) {
	s := &c.snd
	n := length(out)
	c.sentData(now, out)
	x := flight{lo: s.nxt, hi: s.nxt.Add(n), at: now}
	c.rate.stamp(&x, s.flight() == 0)
	c.loss.push(x)
	s.at, s.nxt, s.override = at, s.nxt.Add(n), false
	s.finSent = out.Flags&wire.FIN != 0
	s.flushing = s.flushing && s.nxt.Less(s.flush)
	c.stats.BytesOut += uint64(out.Length)
	c.timer.sent = now
	c.loss.prr.out += n
	c.loss.tlp.want = true
	c.paceOut(now, n)
	c.touch(now)
}

// allowed returns how many octets of new data may be sent in one segment:
// within the peer's window and the congestion window, and not a part of a
// segment that would soon be a whole one (RFC 9293, section 3.8.6.2.1).
func (c *Conn) allowed() uint32 {
	s := &c.snd
	queued := s.unsent()
	n := min(queued, c.super(), distance(s.nxt, s.edge))
	if room := c.room(); n > room && !s.flushing {
		c.cc.limited = true
		n = room - room%s.mss
	}
	if n == queued {
		return c.whole(n)
	}
	if n >= s.mss {
		n -= n % s.mss
		if !s.flushing && c.worthWaiting(n) {
			return 0
		}
		return n
	}
	if s.override || s.flushing || n > 0 && n >= s.maxWnd/2 {
		return n
	}
	return 0
}

// worthWaiting reports whether n octets are so few beside what is in flight
// that the next acknowledgment soon allows a larger super-segment (as Linux,
// tcp_tso_should_defer). Paced, none is to get larger than the pace allows.
func (c *Conn) worthWaiting(n uint32) bool {
	return c.loss.quiet() && n < c.super()/2 && n < c.pipe()/3
}
