package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// undoState is what tells that a reduction was for nothing (Linux undo_marker,
// undo_retrans, retrans_stamp).
type undoState struct {
	marker  seqnum.Value // snd.una when the reduction began
	octets  uint32       // sent again since, and not reported as received twice
	stamp   uint32       // timestamp of the first segment sent again; valid with stamped
	stamped bool
	any     bool // something was sent again
	armed   bool // the reduction can be taken back
	due     bool // the window comes down to the threshold as the phase ends
}

// resent notes n octets that were sent again with this timestamp.
func (u *undoState) resent(n, stamp uint32) {
	u.octets, u.any = u.octets+n, true
	if !u.stamped {
		u.stamp, u.stamped = stamp, true
	}
}

// dsackedAll reports that all that was sent again in this phase has been
// received twice: nothing was lost (RFC 3708).
func (l *lossState) dsackedAll() bool { return l.undo.any && l.undo.octets == 0 }

// noteDSACK takes in a report of octets received twice. When more were than were
// sent twice, the network doubles segments, and no report says anything of what
// was sent again (RFC 3708, section 3; Linux tcp_dsack_seen).
func (c *Conn) noteDSACK(d *delivery, r seqnum.Range) {
	l, u := &c.loss, &c.loss.undo
	c.stats.DSACKs++
	if l.twice < r.Len() {
		return
	}
	l.twice -= r.Len()
	d.dsack = r
	if u.armed && u.marker.Less(r.Hi) && l.sentTwice(r) {
		u.octets -= min(u.octets, r.Len())
	}
}

// sentTwice reports that r may have been sent more than once: of what is not in
// flight any more that is not known.
func (l *lossState) sentTwice(r seqnum.Range) bool {
	i := l.find(r.Lo)
	return i == l.tail || r.Lo.Less(l.at(i).lo) || l.at(i).is(again)
}

// mayUndo reports that what was held for lost had not been: by D-SACKs, or as
// the acknowledgment answers something sent before anything was sent again
// (Eifel, RFC 3522).
func (c *Conn) mayUndo(d *delivery) bool {
	u := &c.loss.undo
	return u.armed && (c.loss.dsackedAll() || d.eifel)
}

// undoReduction gives window and threshold back (RFC 4015, section 3.2), and
// with unmark also what is held for lost.
func (c *Conn) undoReduction(now mono.Time, unmark bool) {
	l := &c.loss
	if l.undo.armed { // else ECN has said that it was right
		c.stats.Undos++
		c.cc.undo(now)
	}
	l.undo.armed, l.undo.due = false, false
	l.recover = c.snd.una - 1 // duplicate acknowledgments count again
	if !unmark {
		return
	}
	for i := l.head; i != l.tail; i++ {
		if x := l.at(i); x.is(lost) {
			l.set(x, x.marks&^(lost|resent))
		}
	}
	l.rack.advanced = true // look again
}

// undoPartial is a partial acknowledgment in recovery of what was only late:
// the rest in flight is no more lost than that (Linux tcp_try_undo_partial).
func (c *Conn) undoPartial(d *delivery) bool {
	l := &c.loss
	if !l.undo.armed || !d.eifel {
		return false
	}
	l.rack.reordered = true
	if l.resent > 0 {
		return true // luck: wait for what was sent again
	}
	c.undoReduction(d.now, true)
	c.calm()
	return true
}

// undoByDSACK takes the reduction back when all that was sent again was
// received twice.
func (c *Conn) undoByDSACK(now mono.Time) bool {
	if !c.loss.undo.armed || !c.loss.dsackedAll() {
		return false
	}
	c.loss.rack.persist = min(c.loss.rack.persist+1, reoPersist)
	c.undoReduction(now, false)
	return true
}
