package tcp

import (
	"toehold/internal/seqnum"
	"toehold/internal/wire"
)

// touch remembers that seq arrived after a gap, so that the next SACK option
// reports its run first (RFC 2018, section 4).
func (r *recvState) touch(seq seqnum.Value) {
	g := r.gaps
	if g == nil {
		return
	}
	run, ok := g.runs.covering(seq)
	if !ok {
		return
	}
	kept := [len(g.recent)]seqnum.Value{seq}
	n := 1
	for _, v := range g.recent[:g.n] {
		if n < len(kept) && !run.Contains(v) {
			kept[n] = v
			n++
		}
	}
	g.recent, g.n = kept, uint8(n)
}

// report remembers a duplicate for the next SACK option (RFC 2883).
func (r *recvState) report(d seqnum.Range) {
	if r.sack && !d.Empty() {
		r.dsack = d
	}
}

// blocks is how many SACK blocks fit: 40 octets of options, less 12 for
// timestamps, less 4 (RFC 2018, section 3).
func blocks(stamps bool) int {
	if stamps {
		return 3
	}
	return 4
}

// sackDue reports whether a pure acknowledgment would carry SACK blocks.
func (r *recvState) sackDue() bool {
	return r.sack && (r.after().n > 0 || !r.dsack.Empty())
}

// fillSACK writes the SACK option of an acknowledgment.
func (r *recvState) fillSACK(seg *wire.Segment, room int) {
	if !r.sackDue() {
		return
	}
	if !r.dsack.Empty() {
		r.fillDSACK(seg)
		r.dsack = seqnum.Range{}
	}
	g := r.after()
	for _, v := range g.recent[:g.n] {
		if run, ok := g.runs.covering(v); ok && seg.NSACK < room {
			r.addBlock(seg, run)
		}
	}
}

// addBlock appends run unless it is there as the block after a DSACK already.
func (r *recvState) addBlock(seg *wire.Segment, run seqnum.Range) {
	for _, b := range seg.SACK[:seg.NSACK] {
		if b == run {
			return
		}
	}
	seg.SACK[seg.NSACK] = run
	seg.NSACK++
}

// fillDSACK puts the duplicate first. What is neither before the
// acknowledgment nor in a run that follows as the second block would be read
// as an ordinary block: it is left out (RFC 2883, section 4).
func (r *recvState) fillDSACK(seg *wire.Segment) {
	d := r.dsack
	if run, ok := r.after().runs.covering(d.Lo); ok && d.Hi.LessEq(run.Hi) {
		seg.SACK[0], seg.SACK[1], seg.NSACK = d, run, 2
		return
	}
	d.Hi = seqnum.Min(d.Hi, r.sentAck)
	if !d.Empty() {
		seg.SACK[0], seg.NSACK = d, 1
	}
}

// takeSACK records the SACK blocks of an acceptable acknowledgment (RFC 2018,
// section 5). Blocks that are not about octets in flight are passed over.
func (c *Conn) takeSACK(seg *wire.Segment, d *delivery) {
	if !c.rcv.sack || seg.NSACK <= 0 {
		return
	}
	blocks := seg.SACK[:min(seg.NSACK, len(seg.SACK))]
	if dsack(seg.Ack, blocks) {
		c.noteDSACK(d, blocks[0])
		blocks = blocks[1:]
	}
	for _, b := range blocks {
		if b.Lo.Less(b.Hi) && c.snd.una.Less(b.Lo) && b.Hi.LessEq(c.snd.nxt) {
			c.pick(d, b)
		}
	}
	if d.picked != 0 && !c.loss.empty() && d.picked < c.loss.first().at {
		// What was sent before the first in flight was sent again arrives: the
		// timeout is of that. What was sent later would put it off for ever.
		d.rearm = true
	}
}

// dsack reports that the first block is of octets received twice: they are
// acknowledged, or within the block that follows (RFC 2883, section 4).
func dsack(ack seqnum.Value, b []seqnum.Range) bool {
	if !b[0].Lo.Less(b[0].Hi) {
		return false
	}
	return b[0].Lo.Less(ack) || len(b) > 1 && b[1].Lo.LessEq(b[0].Lo) && b[0].Hi.LessEq(b[1].Hi)
}

// pick marks [b.Lo, b.Hi) as with the peer.
func (c *Conn) pick(d *delivery, b seqnum.Range) {
	l := &c.loss
	for i := l.find(b.Lo); i != l.tail && l.at(i).lo.Less(b.Hi); i++ {
		x := l.at(i)
		switch {
		case x.is(sacked):
			continue
		case l.full() && (x.lo.Less(b.Lo) || b.Hi.Less(x.hi)):
			c.stats.SACKIgnored++
			continue
		case x.lo.Less(b.Lo):
			l.split(i, b.Lo)
			continue
		case b.Hi.Less(x.hi):
			l.split(i, b.Hi)
		}
		x = l.at(i)
		c.take(d, x, x.len(), true)
		d.fresh += x.len()
		l.fack = seqnum.Max(l.fack, x.hi)
		l.set(x, x.marks&^(lost|resent)|sacked)
		i = l.join(i)
	}
}
