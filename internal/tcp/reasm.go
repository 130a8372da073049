package tcp

import (
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/wire"
)

// maxPending bounds the spans kept after a gap, and with them the work of
// putting one between them.
const maxPending = 4096

// outOfOrder keeps payload that a gap precedes and has it acknowledged at once
// (RFC 5681, section 4.2).
func (c *Conn) outOfOrder(now mono.Time, seg *wire.Segment, seq seqnum.Value, p frame.Span, fin bool) Event {
	r := &c.rcv
	r.ackDue = true
	r.delack.arrived(now, seg, c.rtt.rto)
	r.delack.hurry()
	c.stats.OutOfOrder += count(p.Len, uint32(seg.Size))
	whole := seqnum.Range{Lo: seq, Hi: seq.Add(p.Len)}
	if fin {
		whole.Hi++
	}
	if r.finSeen && !whole.Hi.LessEq(r.finSeq+1) {
		return Dropped
	}
	if whole.Empty() {
		return 0
	}
	if r.after().runs.has(whole) {
		c.stats.DupIn += uint32(count(p.Len, uint32(seg.Size)))
		r.report(whole)
		r.touch(seq)
		return DupData
	}
	if p.Len > 0 {
		p.Buf.Retain()
		r.store(seq, p)
	}
	if fin {
		r.gap().runs.add(seqnum.Range{Lo: r.finSeq, Hi: r.finSeq + 1})
	}
	r.touch(seq)
	c.stats.OOODropped += uint64(r.shed())
	return 0
}

// store puts p among the spans after a gap, in place of those that it covers,
// without what their neighbours have already. It takes over p's reference.
func (r *recvState) store(seq seqnum.Value, p frame.Span) {
	g := r.gap()
	q := &g.ooo
	i := q.find(seq)
	if i != q.tail && q.at(i).seq.Less(seq) {
		skip := q.at(i).end().Sub(seq)
		i++
		if skip >= p.Len {
			p.Buf.Release()
			return
		}
		p, seq = p.Slice(skip, p.Len-skip), seq.Add(skip)
	}
	j := i
	for ; j != q.tail && q.at(j).end().LessEq(seq.Add(p.Len)); j++ {
		g.uncount(q.at(j))
	}
	if j != q.tail {
		p.Len = min(p.Len, q.at(j).seq.Sub(seq))
	}
	if p.Len == 0 { // only when i == j
		p.Buf.Release()
		return
	}
	g.held += p.Len
	g.memory += uint32(p.Buf.Cap())
	q.put(i, j, p, seq)
	g.runs.add(seqnum.Range{Lo: seq, Hi: seq.Add(p.Len)})
}

// uncount takes e, which leaves ooo, out of the sums. A span counts for its
// whole buffer, however little of it it is.
func (g *gapState) uncount(e *entry) {
	g.held -= e.len
	g.memory -= uint32(e.buf.Cap())
}

// shed drops the furthest spans while there are too many, and returns the
// octets dropped. They are not acknowledged cumulatively, so the peer sends
// them again (RFC 2018, section 8).
func (r *recvState) shed() uint32 {
	g, n := r.after(), uint32(0)
	for !g.ooo.empty() && (g.memory > r.maxOOO || g.ooo.len() > maxPending || len(g.runs.list) > maxRanges-2) {
		last := g.ooo.last()
		n += last.len
		g.uncount(last)
		g.runs.cutFrom(last.seq)
		g.ooo.dropLast()
	}
	return n
}

// join moves what has become contiguous to what is in order and reports
// whether there is, or was, anything after a gap.
func (r *recvState) join() bool {
	g := r.gaps
	if g == nil || g.ooo.empty() && g.runs.empty() {
		return false
	}
	for q := &g.ooo; !q.empty() && q.at(q.head).seq.LessEq(r.nxt); q.head++ {
		r.joinFirst(g, q.at(q.head))
	}
	g.runs.cutBefore(r.nxt)
	if g.runs.empty() {
		g.n = 0
	}
	return true
}

// joinFirst moves e, which starts at rcv.nxt or before it.
func (r *recvState) joinFirst(g *gapState, e *entry) {
	g.uncount(e)
	skip := r.nxt.Sub(e.seq)
	if skip >= e.len {
		e.buf.Release()
	} else {
		e.cut(skip)
		r.take(e.span())
	}
	e.buf = nil
}

// dropOOO releases everything after a gap.
func (r *recvState) dropOOO() {
	if r.gaps != nil {
		r.gaps.ooo.clear()
		r.gaps = nil
	}
}
