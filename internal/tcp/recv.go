package tcp

import (
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// recvState is the receive sequence space.
type recvState struct {
	in    queue        // received in order, not yet handed out
	gaps  *gapState    // what was received after a gap; nil: nothing, since the connection last rested
	dsack seqnum.Range // duplicate to report once (RFC 2883)

	nxt     seqnum.Value // rcv.nxt
	acked   seqnum.Value // acknowledged; with Through what may be
	edge    seqnum.Value // right edge of the window that is, or is to be, advertised
	maxEdge seqnum.Value // the greatest edge ever
	sentAck seqnum.Value // as in the last segment sent
	finSeq  seqnum.Value // the peer's FIN, when finSeen

	delack  delackState
	auto    *autotune // nil: buffer stays as it is
	held    uint32    // octets in in
	inMem   uint32    // memory that the buffers of in hold, octets
	maxOOO  uint32    // bound of gapState.memory
	buffer  uint32    // octets, not Through
	sentWnd uint16    // window field of the last segment sent
	wscale  uint8

	finSeen bool // finSeq is known
	finDone bool // and is before nxt
	ackDue  bool
	sack    bool // negotiated
	update  bool // the window may have opened by what Next took
}

// gapState is what was received after a gap. Most connections have nothing.
type gapState struct {
	ooo    queue           // the payload
	runs   ranges          // what is in ooo, and a FIN after a gap
	recent [4]seqnum.Value // an octet of each run that a SACK block reports, latest first
	held   uint32          // octets in ooo
	memory uint32          // that the buffers of ooo hold, octets
	n      uint8           // of recent
}

// noGaps is what a connection has that received nothing after a gap. Nobody
// writes to it.
var noGaps gapState

// after is what was received after a gap, to be looked at.
func (r *recvState) after() *gapState {
	if r.gaps == nil {
		return &noGaps
	}
	return r.gaps
}

// gap is the same, to be changed.
func (r *recvState) gap() *gapState {
	if r.gaps == nil {
		r.gaps = new(gapState)
	}
	return r.gaps
}

func (r *recvState) restore(s *tcb.Snapshot, o Options) {
	*r = recvState{
		nxt: s.RcvNxt, acked: s.RcvAcked, edge: s.RcvEdge, maxEdge: seqnum.Max(s.RcvEdge, s.RcvNxt),
		sentAck: s.RcvAcked, wscale: s.RcvWscale, sack: s.SACK,
		finSeen: s.PeerFIN, finDone: s.PeerFIN, finSeq: s.RcvNxt - 1,
		buffer: o.RcvBuf, maxOOO: o.MaxOOO,
	}
	r.sentWnd = r.field()
	r.delack.restore(s.MSS)
	if r.buffer == 0 {
		r.buffer = defaultRcvBuf
	}
	if r.maxOOO == 0 {
		r.maxOOO = defaultMaxOOO
	}
	for _, p := range s.OutOfOrder {
		r.store(p.Seq, p.Span)
		r.touch(p.Seq)
		r.shed()
	}
}

func (r *recvState) snapshot(s *tcb.Snapshot) {
	s.RcvNxt, s.RcvAcked, s.RcvEdge = r.nxt, r.acked, seqnum.Max(r.edge, r.acked)
	s.RcvWscale, s.SACK, s.PeerFIN = r.wscale, r.sack, r.finDone
}

func (r *recvState) spans(list []tcb.OOOSpan) []tcb.OOOSpan {
	q := &r.after().ooo
	for i := q.head; i != q.tail; i++ {
		e := q.at(i)
		list = append(list, tcb.OOOSpan{Seq: e.seq, Span: e.span()})
	}
	return list
}

// Receive takes in a segment and says what it brought about. It retains what
// it keeps of the payload; nothing in seg is trusted.
func (c *Conn) Receive(now mono.Time, seg *wire.Segment) Event {
	c.stats.SegsIn += count(seg.Payload.Len, uint32(seg.Size))
	if !c.live || !sound(seg) {
		return Dropped
	}
	c.touch(now)
	ev, ok := c.accept(now, seg)
	if !ok {
		return ev
	}
	if ev = c.acknowledgment(now, seg); ev&(OutOfStep|Dropped) != 0 {
		return ev
	}
	c.ts.observe(now, seg, c.rcv.echoBefore(c.through))
	ev |= c.payload(now, seg)
	c.heard(now, ev)
	return ev
}

// count is the number of segments that n octets in segments of size stand for.
func count(n, size uint32) uint64 {
	if size == 0 || n <= size {
		return 1
	}
	return uint64((n + size - 1) / size)
}

// sound guards against a caller's payload that is not there.
func sound(seg *wire.Segment) bool {
	p := seg.Payload
	if p.Len == 0 {
		return true
	}
	return p.Buf != nil && uint64(p.Off)+uint64(p.Len) <= uint64(len(p.Buf.B)) && p.Len <= 1<<16
}

// payload takes in the segment's octets and FIN (RFC 9293, section 3.10.7.4,
// seventh and eighth).
func (c *Conn) payload(now mono.Time, seg *wire.Segment) Event {
	r := &c.rcv
	p, seq, fin := seg.Payload, seg.Seq, seg.Flags&wire.FIN != 0
	if p.Len == 0 && !fin {
		return 0
	}
	if over := distance(r.maxEdge, seq.Add(p.Len)); over > 0 {
		p.Len -= min(over, p.Len)
		fin, r.ackDue = false, true
		if p.Len == 0 {
			return c.beyond(seq)
		}
	}
	end := seq.Add(p.Len)
	if fin {
		fin = c.noteFIN(end)
	}
	switch {
	case end.LessEq(r.nxt) && !(fin && end == r.nxt):
		return c.duplicate(now, seg, p.Len)
	case r.nxt.Less(seq):
		ev, _ := c.marked(seg)
		return ev | c.outOfOrder(now, seg, seq, p, fin)
	}
	ev, atOnce := c.marked(seg)
	c.rcv.delack.arrived(now, seg, c.rtt.rto)
	c.measureRTT(now, seg)
	return ev | c.inOrder(now, seq, p, atOnce)
}

// beyond is for payload of which nothing is in the window. What comes next
// after all that the closed window allowed probes it, in the way of 4.4BSD
// (tcp_output with t_force; RFC 9293, section 3.8.6.1).
func (c *Conn) beyond(seq seqnum.Value) Event {
	if c.through && seq == c.rcv.nxt {
		return Probed
	}
	return 0
}

// noteFIN remembers where the peer's FIN is and reports whether seq is the
// place.
func (c *Conn) noteFIN(seq seqnum.Value) bool {
	r := &c.rcv
	if !r.finSeen && r.nxt.LessEq(seq) && r.highest().LessEq(seq) {
		r.finSeen, r.finSeq = true, seq
	}
	return r.finSeen && r.finSeq == seq
}

// highest is the end of all payload received.
func (r *recvState) highest() seqnum.Value {
	q := &r.after().ooo
	if q.empty() {
		return r.nxt
	}
	return q.last().end()
}

// duplicate answers what was received before. The sender may have lost our
// acknowledgment, so it gets one at once (RFC 5681, section 4.2), with what
// was doubled (RFC 2883).
func (c *Conn) duplicate(now mono.Time, seg *wire.Segment, n uint32) Event {
	r := &c.rcv
	c.stats.DupIn += uint32(count(n, uint32(seg.Size)))
	r.ackDue = true
	if c.timer.wait != 0 {
		c.enterTimeWait(now) // the last acknowledgment was lost: another 2 MSL
	}
	if n > 0 {
		r.report(seqnum.Range{Lo: seg.Seq, Hi: seg.Seq.Add(n)})
	}
	return DupData
}

// inOrder takes in payload that starts at rcv.nxt or before it, and what it
// makes contiguous.
func (c *Conn) inOrder(now mono.Time, seq seqnum.Value, p frame.Span, atOnce bool) Event {
	r := &c.rcv
	var ev Event
	if skip := r.nxt.Sub(seq); skip > 0 {
		if p.Len > 0 && skip <= p.Len {
			r.report(seqnum.Range{Lo: seq, Hi: r.nxt})
		}
		p = p.Slice(skip, p.Len-skip)
	}
	if r.finSeen {
		p.Len = min(p.Len, distance(r.nxt, r.finSeq))
	}
	before := r.nxt
	if p.Len > 0 {
		if r.crowded(p) {
			r.ackDue = true
			return Dropped
		}
		p.Buf.Retain()
		r.take(p)
		ev = Readable
	}
	filled := r.join()
	c.stats.BytesIn += uint64(r.nxt.Sub(before))
	if r.finSeen && !r.finDone && r.nxt == r.finSeq {
		ev |= c.peerClose(now)
	}
	c.scheduleAck(now, atOnce || filled || ev&PeerFIN != 0)
	return ev
}

// crowded reports whether p would hold too much memory beside what waits to be
// taken, more than RcvBuf and MaxOOO together: the window bounds the octets, but
// each may come in a buffer of its own. Who takes everything at once, as the
// device does, never sees it.
func (r *recvState) crowded(p frame.Span) bool {
	return uint64(r.inMem)+uint64(p.Buf.Cap()) > uint64(r.buffer)+uint64(r.maxOOO)+frame.Large
}

// take appends to what is in order.
func (r *recvState) take(p frame.Span) {
	r.in.push(p, r.nxt)
	r.nxt = r.nxt.Add(p.Len)
	r.held += p.Len
	r.inMem += uint32(p.Buf.Cap())
}

// Waiting fills into with the spans that Next would hand out, as many as fit, and
// returns how many. They are borrowed.
func (c *Conn) Waiting(into []frame.Span) int {
	q, n := &c.rcv.in, 0
	for i := q.head; i != q.tail && n < len(into); i++ {
		into[n] = q.at(i).span()
		n++
	}
	return n
}

// Next hands out the next span received in order, and its reference. It
// returns false when there is none.
func (c *Conn) Next(s *frame.Span) bool {
	r := &c.rcv
	if r.in.empty() {
		return false
	}
	e := r.in.at(r.in.head)
	*s = e.span()
	e.buf = nil
	r.in.head++
	r.held -= s.Len
	r.inMem -= uint32(s.Buf.Cap())
	r.update = true
	return true
}
