package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// A phase of loss recovery.
type phase uint8

const (
	open     phase = iota
	recovery       // fast recovery, RFC 6675, section 5, or RFC 6582
	timedOut       // after a retransmission timeout, until all that was in flight is acknowledged
)

// rescue is the rescue retransmission of RFC 6675, section 4, NextSeg rule 4:
// once in a recovery, and only when a partial acknowledgment has shown that
// more is missing than the SACK blocks say.
type rescue uint8

const (
	rescueOff rescue = iota
	rescueReady
	rescueUsed
)

// dupThresh is DupThresh of RFC 6675, section 2.
const dupThresh = 3

// lossState tells what in flight is lost. Octets before lostTo that are
// not SACKed are lost; of these the ones before rexmit have been sent
// again. Without SACK only the first segment is known to be lost (RFC 6582),
// or all after a timeout.
type lossState struct {
	sacked  ranges
	recover seqnum.Value // RecoveryPoint: snd.nxt when the phase began
	rexmit  seqnum.Value // HighRxt of RFC 6675
	lostTo  seqnum.Value
	pipe    uint32 // octets thought to be in the network
	dupAcks uint32 // without SACK, segments that left the network; else duplicates in a row
	phase   phase
	force   bool // one segment may be sent again whatever cwnd says
	rescue  rescue
}

func (l *lossState) reset(una seqnum.Value) {
	*l = lossState{sacked: l.sacked, recover: una - 1, rexmit: una, lostTo: una}
}

// quiet reports whether nothing is known of losses.
func (l *lossState) quiet() bool {
	return l.phase == open && l.dupAcks == 0 && l.sacked.empty()
}

// lossEdge returns the end of what RFC 6675's IsLost() holds for lost: above
// it more than two segments' octets, or three ranges, are SACKed.
func (l *lossState) lossEdge(una seqnum.Value, mss uint32) seqnum.Value {
	octets := uint32(0)
	for i := len(l.sacked.list) - 1; i >= 0; i-- {
		octets += l.sacked.list[i].Len()
		if octets > (dupThresh-1)*mss || len(l.sacked.list)-i >= dupThresh {
			return l.sacked.list[i].Lo
		}
	}
	return una
}

// countPipe is SetPipe() of RFC 6675. Without SACK each duplicate
// acknowledgment stands for a segment that left the network.
func (c *Conn) countPipe() uint32 {
	l, s := &c.loss, &c.snd
	if l.quiet() {
		return s.flight()
	}
	lost := seqnum.Max(l.lostTo, s.una)
	sackedAfter := l.sacked.from(lost)
	n := distance(lost, s.nxt) - sackedAfter
	if s.una.Less(l.rexmit) {
		to := seqnum.Min(l.rexmit, lost)
		n += to.Sub(s.una) - (l.sacked.octets - l.sacked.from(to))
	}
	if !c.rcv.sack {
		n -= min(n, l.dupAcks*s.mss)
	}
	return n
}

// judge updates loss recovery and the congestion window by an acknowledgment
// of acked new octets that SACKs fresh more.
func (c *Conn) judge(now mono.Time, acked, fresh uint32, duplicate bool) {
	l := &c.loss
	growing := l.phase != recovery
	if acked > 0 {
		c.ackedInPhase(now, acked)
	}
	if duplicate && (!c.rcv.sack || fresh > 0) {
		l.dupAcks = min(l.dupAcks+1, 1<<16)
	}
	if fresh > 0 || acked > 0 && !l.sacked.empty() {
		l.lostTo = seqnum.Max(l.lostTo, l.lossEdge(c.snd.una, c.snd.mss))
	}
	if l.phase == open && c.lossSeen() {
		c.enterRecovery(now)
	}
	if acked > 0 && growing && l.phase != recovery {
		c.cc.onAck(sample{now: now, acked: acked, srtt: c.rtt.srtt})
	}
	l.pipe = c.countPipe()
}

// ackedInPhase is what a new acknowledgment means to the phase.
func (c *Conn) ackedInPhase(now mono.Time, acked uint32) {
	l, una := &c.loss, c.snd.una
	l.rexmit, l.lostTo = seqnum.Max(l.rexmit, una), seqnum.Max(l.lostTo, una)
	if l.phase == open || !una.Less(l.recover) {
		if l.phase == recovery {
			c.settle(now)
		}
		l.phase, l.dupAcks, l.force = open, 0, false
		l.lostTo, l.rexmit = una, una
		return
	}
	if l.rescue == rescueOff {
		l.rescue = rescueReady
	}
	if l.phase == recovery && !c.rcv.sack {
		// A partial acknowledgment: the next segment is lost too (RFC 6582,
		// section 3.2, step 3). What of it was sent again before, in pieces
		// that are acknowledged one by one, is not sent a third time.
		l.dupAcks -= min(l.dupAcks, max(acked/c.snd.mss, 1)-1)
		l.lostTo, l.force = una.Add(min(c.snd.mss, c.snd.flight())), true
	}
}

// lossSeen reports whether the first octet in flight is lost: by what is
// SACKed, or by three duplicate acknowledgments (RFC 5681, section 3.2). Without
// SACK they may come from what was sent twice in the phase before: the
// acknowledgment must be of more than that (RFC 6582, section 3.2, step 2).
func (c *Conn) lossSeen() bool {
	l, una := &c.loss, c.snd.una
	switch {
	case c.snd.flight() == 0:
		return false
	case una.Less(l.lostTo):
		return true
	}
	return l.dupAcks >= dupThresh && (c.rcv.sack || l.recover.Less(una))
}

// enterRecovery begins fast recovery (RFC 6675, section 5, step 4).
func (c *Conn) enterRecovery(now mono.Time) {
	l, s := &c.loss, &c.snd
	c.stats.FastRecoveries++
	l.phase, l.recover, l.rexmit, l.force, l.rescue = recovery, s.nxt, s.una, true, rescueOff
	first := l.sacked.gap(s.una, s.una.Add(min(s.mss, s.flight())))
	l.lostTo = seqnum.Max(l.lostTo, first.Hi)
	c.rtt.timing = false
	if c.cc.algorithm != nil {
		c.cc.reduce(now, s.flight(), beganRecovery)
		c.cc.cwnd = c.cc.ssthresh
		c.queueCWR()
	}
}

// nextLost returns the next stretch to send again: lost, not SACKed and not
// yet sent again (rule 1 of RFC 6675's NextSeg).
func (c *Conn) nextLost() seqnum.Range {
	l := &c.loss
	if l.phase == open {
		return seqnum.Range{}
	}
	return l.sacked.gap(seqnum.Max(l.rexmit, c.snd.una), l.lostTo)
}

// rescueRange is the rescue retransmission: the last segment in flight, when
// it is not SACKed.
func (c *Conn) rescueRange() seqnum.Range {
	l, s := &c.loss, &c.snd
	if l.phase != recovery || !c.rcv.sack || l.rescue != rescueReady || !s.una.Less(l.recover) {
		return seqnum.Range{}
	}
	from := seqnum.Max(l.recover-seqnum.Value(min(s.mss, l.recover.Sub(s.una))), seqnum.Max(l.rexmit, s.una))
	return l.sacked.gap(from, l.recover)
}

// settle is the end of fast recovery.
func (c *Conn) settle(now mono.Time) {
	if g := &c.cc; g.algorithm != nil {
		g.cwnd = min(g.cwnd, g.ssthresh)
		g.tell(now, ended)
	}
}
