package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// A phase of loss recovery.
type phase uint8

const (
	open     phase = iota
	recovery       // fast recovery, RFC 6675, section 5, or RFC 6582
	timedOut       // after a retransmission timeout, until all that was in flight is acknowledged
	reducing       // for an ECE, until all that was in flight is acknowledged (RFC 3168, section 6.1.2)
)

// dupThresh is DupThresh of RFC 6675, section 2.
const dupThresh = 3

// lossState tells what in flight is lost, and how far its repair is.
type lossState struct {
	flights
	rack rackState
	tlp  tlpState
	prr  prrState
	undo undoState

	recover   seqnum.Value // RecoveryPoint: snd.nxt when the phase began
	fack      seqnum.Value // after the forward-most octet SACKed, or snd.una
	hint      seqnum.Value // nothing before it is missing; valid with hinted
	newlyLost uint32       // octets, by this acknowledgment
	twice     uint32       // octets sent again, less those reported as received twice (RFC 2883)
	dupAcks   uint32       // without SACK, segments that left the network
	phase     phase
	force     bool // one segment may be sent again whatever cwnd says
	hinted    bool
	frto      bool // whether the timeout was for nothing is not known yet (RFC 5682)
	newFirst  bool // F-RTO asks for new data before anything is sent again
}

func (l *lossState) reset(una seqnum.Value) {
	l.flights.clear()
	*l = lossState{flights: l.flights, recover: una - 1, fack: una}
}

// restore takes up what is in flight at rest. When it was sent is not known: now
// is the latest that it can have been. No round trip is measured by it.
func (l *lossState) restore(now mono.Time, s *tcb.Snapshot) {
	l.reset(s.SndUna)
	l.rack.reordered, l.rack.mult, l.rack.persist = s.ReorderingSeen, s.ReoWndMult, reoPersist
	lo := s.SndUna
	for i := 0; lo != s.SndNxt; i++ {
		next := seqnum.Range{Lo: s.SndNxt, Hi: s.SndNxt}
		if i < len(s.Sacked) && i < maxFlights/4 {
			next = s.Sacked[i]
			l.fack = next.Hi
		}
		l.rest(now, lo, next.Lo, again)
		l.rest(now, next.Lo, next.Hi, again|sacked)
		lo = next.Hi
	}
}

func (l *lossState) rest(now mono.Time, lo, hi seqnum.Value, m mark) {
	if lo == hi {
		return
	}
	if m&sacked != 0 && !l.empty() && l.last().is(sacked) { // ranges that touch
		l.last().hi = hi
		l.count(l.last(), hi.Sub(lo))
		return
	}
	l.append(flight{lo: lo, hi: hi, at: now, priorAt: now, firstAt: now, marks: m})
	l.count(l.last(), hi.Sub(lo))
	if m&sacked != 0 {
		l.runs++
	}
}

func (l *lossState) snapshot(s *tcb.Snapshot, list []seqnum.Range) {
	l.each(func(r seqnum.Range) { list = append(list, r) })
	s.Sacked, s.ReorderingSeen, s.ReoWndMult = list, l.rack.reordered, l.rack.mult
}

// quiet reports whether nothing is known of losses.
func (l *lossState) quiet() bool {
	return l.phase == open && l.dupAcks == 0 && l.runs == 0 && l.lost == 0
}

// pipe is how many octets are thought to be in the network. Without SACK each
// duplicate acknowledgment stands for a segment that left it.
func (c *Conn) pipe() uint32 {
	n := c.loss.flights.pipe(c.snd.flight())
	if c.loss.dupAcks > 0 && !c.rcv.sack {
		n -= min(n, c.loss.dupAcks*c.snd.mss)
	}
	return n
}

// judge updates loss recovery and the congestion window by an acknowledgment.
func (c *Conn) judge(d *delivery) {
	l := &c.loss
	l.newlyLost = 0
	d.una, d.nxt, d.srtt, d.inFlight = c.snd.una, c.snd.nxt, c.rtt.srtt, c.pipe()
	d.recovering = l.phase != open
	c.cc.observe(d.sample)
	c.pathProbed()
	c.seeReordering(d)
	c.probeAnswered(d)
	c.widen(d)
	if d.ece {
		l.undo.armed = false // the network itself says so
	}
	if l.phase == recovery || l.phase == reducing {
		c.leave(d)
	}
	switch l.phase {
	case recovery:
		c.inRecovery(d)
	case timedOut:
		c.inLoss(d)
	default:
		c.inOpen(d)
	}
	d.lost = l.newlyLost
	c.regulate(d)
}

// seeReordering notes that something was delivered after what was sent later
// (RFC 8985, section 6.2, step 3).
func (c *Conn) seeReordering(d *delivery) {
	if d.reordered {
		c.loss.rack.reordered = true
	}
}

// leave ends fast recovery, and a reduction for ECN, when all that was in
// flight as it began is acknowledged; the latter one later, as the CWR must have
// arrived.
func (c *Conn) leave(d *delivery) {
	l := &c.loss
	switch una := c.snd.una; {
	case una.Less(l.recover), l.phase == reducing && una == l.recover:
		return
	case l.phase == recovery && c.mayUndo(d):
		c.undoReduction(d.now, false)
		c.calm()
		return
	}
	if l.phase == recovery {
		l.rack.narrow()
	}
	if l.phase == reducing || l.undo.due {
		c.cc.settle(d.now)
	}
	c.calm()
}

// calm is the end of any phase.
func (c *Conn) calm() {
	l := &c.loss
	l.phase, l.dupAcks, l.force, l.frto, l.newFirst = open, 0, false, false, false
	l.undo.stamped = false // but a late D-SACK may still undo
	c.timer.expired = 0
}

// inOpen looks for a loss while none is being repaired.
func (c *Conn) inOpen(d *delivery) {
	c.countDuplicate(d)
	c.undoByDSACK(d.now)
	c.find(d)
	switch {
	case c.lossSeen() && c.probeLost(d.now):
	case c.lossSeen():
		c.enterRecovery(d.now)
	case d.ece:
		c.sawECE(d.now)
	}
}

// inRecovery goes on with fast recovery.
func (c *Conn) inRecovery(d *delivery) {
	c.countDuplicate(d)
	switch {
	case d.acked > 0 && c.undoPartial(d):
		return
	case c.undoByDSACK(d.now):
		c.calm()
	}
	c.find(d)
	if c.loss.phase == open && c.lossSeen() {
		c.enterRecovery(d.now)
	}
}

// countDuplicate follows duplicate acknowledgments.
func (c *Conn) countDuplicate(d *delivery) {
	l := &c.loss
	if c.rcv.sack {
		return
	}
	if d.acked > 0 {
		c.forgetDuplicates(d)
	}
	if d.duplicate {
		l.dupAcks = min(l.dupAcks+1, 1<<16)
		d.delivered += min(c.snd.mss, c.snd.flight())
	}
}

// forgetDuplicates is what a new acknowledgment means to those counted. In
// recovery they stand for what left the network after the segment that it
// acknowledges.
func (c *Conn) forgetDuplicates(d *delivery) {
	l := &c.loss
	d.delivered -= min(d.delivered, l.dupAcks*c.snd.mss)
	if l.phase != recovery {
		l.dupAcks = 0
		return
	}
	l.dupAcks -= min(l.dupAcks, max(d.acked/c.snd.mss, 1)-1)
}

// find marks what is lost: by RACK, or without SACK the first segment at the
// third duplicate and with each partial acknowledgment (RFC 6582, section 3.2).
func (c *Conn) find(d *delivery) {
	l, una := &c.loss, c.snd.una
	if c.rcv.sack {
		if l.phase == open && l.runs == 0 && l.resent == 0 && l.lost == 0 {
			l.rack.advanced = false
			return
		}
		if wait := c.detectLoss(d.now); wait > 0 {
			c.armReordering(d.now, wait)
			d.rearm = false
		}
		return
	}
	began := l.phase != recovery && l.dupAcks >= dupThresh && l.recover.Less(una)
	if began || l.phase == recovery && d.acked > 0 {
		c.loseFirst()
		l.force = true
	}
}

// loseFirst holds the first segment in flight for lost.
func (c *Conn) loseFirst() {
	l, s := &c.loss, &c.snd
	if l.empty() || l.first().missing() {
		return
	}
	if l.first().len() > s.mss && !l.first().is(lost) && !l.split(l.head, s.una.Add(s.mss)) {
		return
	}
	c.lose(l.first())
}

// lossSeen reports that something is lost and not sent again yet.
func (c *Conn) lossSeen() bool { return c.loss.lost > c.loss.resent }

// enterRecovery begins fast recovery (RFC 6675, section 5, step 4).
func (c *Conn) enterRecovery(now mono.Time) {
	l := &c.loss
	c.stats.FastRecoveries++
	if l.phase == reducing { // the window was reduced for this round already
		l.phase, l.recover, l.force = recovery, c.snd.nxt, true
		return
	}
	c.beginReduction(now, recovery, beganRecovery)
	l.force = true
}

// beginReduction reduces for what happened in the flight up to snd.nxt.
func (c *Conn) beginReduction(now mono.Time, p phase, why happening) {
	l := &c.loss
	l.undo = undoState{marker: c.snd.una, octets: l.resent, armed: p != reducing, due: true}
	if l.tlp.sent {
		l.undo.octets += l.tlp.resent // its D-SACK may be on its way
	}
	l.undo.any = l.undo.octets > 0
	l.phase, l.recover, l.tlp.sent = p, c.snd.nxt, false
	c.cc.reduce(now, c.snd.flight(), why)
	l.prr = prrState{prior: c.cc.cwnd} // of what was in use, when that was less (RFC 7661)
	c.queueCWR()
}

// reduceOnce is a reduction that is over at once.
func (c *Conn) reduceOnce(now mono.Time) {
	c.beginReduction(now, reducing, beganRecovery)
	c.cc.settle(now)
	c.calm()
}

// regulate sets the window after an acknowledgment: an algorithm that controls
// everything does; in recovery PRR does; else the algorithm grows it.
func (c *Conn) regulate(d *delivery) {
	l := &c.loss
	d.inFlight = c.pipe()
	d.recovering = d.recovering || l.phase != open
	switch {
	case c.cc.algorithm == nil:
	case c.cc.control(d.sample):
	case l.phase == recovery || l.phase == reducing:
		c.reduceByPRR(d)
	case d.acked > 0:
		c.cc.onAck(d.sample)
	}
}

// nextMissing returns the next stretch to send again.
func (c *Conn) nextMissing() seqnum.Range {
	l := &c.loss
	if l.lost <= l.resent || !l.hinted {
		return seqnum.Range{}
	}
	for i := l.find(seqnum.Max(l.hint, c.snd.una)); i != l.tail; i++ {
		x := l.at(i)
		if !x.missing() {
			continue
		}
		l.hint = x.lo
		r := seqnum.Range{Lo: x.lo, Hi: x.hi}
		for i++; i != l.tail && l.at(i).missing(); i++ {
			r.Hi = l.at(i).hi
		}
		return r
	}
	l.hinted = false
	return seqnum.Range{}
}

// sentAgain notes that [lo, hi) of what is in flight was sent again.
func (c *Conn) sentAgain(now mono.Time, lo, hi seqnum.Value) {
	l := &c.loss
	idle := c.pipe() == 0
	c.probeInconclusive(now, lo, hi)
	i := l.find(lo)
	if i != l.tail && l.at(i).lo.Less(lo) && !l.at(i).is(sacked) && l.split(i, lo) {
		i++
	}
	for ; i != l.tail && l.at(i).lo.Less(hi); i++ {
		x := l.at(i)
		if x.is(sacked) { // a probe
			x.marks |= again
			continue
		}
		if hi.Less(x.hi) {
			l.split(i, hi)
		}
		c.again(now, l.at(i), idle)
	}
	l.undo.resent(hi.Sub(lo), c.stampAt(now))
	l.twice = min(l.twice+hi.Sub(lo), unlimited)
}

func (c *Conn) again(now mono.Time, x *flight, idle bool) {
	l := &c.loss
	m := x.marks&^starved | again
	if x.is(lost) {
		m |= resent
	}
	x.at = now
	l.set(x, m)
	c.rate.stamp(x, idle)
}
