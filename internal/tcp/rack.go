package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// rackState is RACK (RFC 8985, section 5.2): what is sent before something
// that was delivered is lost when it is not delivered soon.
type rackState struct {
	at        mono.Time     // RACK.xmit_ts
	end       seqnum.Value  // RACK.end_seq
	round     seqnum.Value  // RACK.dsack_round; valid with rounding
	rtt       time.Duration // RACK.rtt
	mult      uint8         // RACK.reo_wnd_mult, at least 1
	persist   uint8         // RACK.reo_wnd_persist
	reordered bool          // RACK.reordering_seen
	rounding  bool
	advanced  bool // something newer was delivered since losses were last looked for
}

// earlier reports that the acknowledgment answers a segment with an earlier
// timestamp.
func (d *delivery) earlier(stamp uint32) bool { return d.stamped && int32(d.ecr-stamp) < 0 }

const (
	reoPersist = 16  // recoveries that a widened window stands for (section 6.2, step 4)
	maxReoMult = 255 // as Linux's reo_wnd_steps
)

// rackTake is step 2 of RFC 8985, section 6.2, for octets delivered: those sent
// last are what others are measured by, unless the acknowledgment may be of what
// was sent before it was sent again.
func (c *Conn) rackTake(d *delivery, x *flight) {
	r := &c.loss.rack
	rtt := d.now.Sub(x.at)
	if x.is(again) && (rtt < c.rtt.min || d.earlier(c.stampAt(x.at))) {
		return
	}
	r.rtt, r.advanced = rtt, true
	if r.at < x.at || r.at == x.at && r.end.Less(x.hi) {
		r.at, r.end = x.at, x.hi
	}
}

// reoWnd is RACK.reo_wnd (section 6.2, step 4).
func (c *Conn) reoWnd() time.Duration {
	l := &c.loss
	if !l.rack.reordered && (l.phase == recovery || l.phase == timedOut || l.dupThreshold(c.snd.mss)) {
		return 0
	}
	if c.rtt.min == 0 {
		return c.rtt.srtt
	}
	return min(c.rtt.min/4*time.Duration(max(l.rack.mult, 1)), c.rtt.srtt)
}

// dupThreshold reports that more than two segments, or three stretches, are
// SACKed (RFC 6675, section 2: DupThresh).
func (l *lossState) dupThreshold(mss uint32) bool {
	return l.sacked > (dupThresh-1)*mss || l.runs >= dupThresh
}

// detectLoss is step 5: it marks what is lost, and returns how long until
// something else must be held for lost, 0 for nothing.
func (c *Conn) detectLoss(now mono.Time) (wait time.Duration) {
	l := &c.loss
	if !l.rack.advanced {
		return 0
	}
	l.rack.advanced = false
	patience := l.rack.rtt + c.reoWnd()
	for i := l.head; i != l.tail; i++ {
		x := l.at(i)
		if x.is(sacked) || x.missing() {
			continue
		}
		if !l.rack.after(x) {
			continue
		}
		left := x.at.Add(patience).Sub(now)
		if x.at == l.rack.at && x.is(again) {
			// What goes at one time need not go in order: new data may have
			// left before what was sent again.
			left = max(left, x.at.Add(l.rack.rtt+c.rtt.min/4).Sub(now))
		}
		if left > 0 {
			wait = max(wait, left)
			continue
		}
		c.lose(x)
	}
	return wait
}

// after reports that something was delivered that was sent after x
// (RACK_sent_after).
func (r *rackState) after(x *flight) bool {
	return x.at < r.at || x.at == r.at && x.hi.Less(r.end)
}

// lose holds x for lost.
func (c *Conn) lose(x *flight) {
	l := &c.loss
	l.newlyLost += x.len()
	l.set(x, x.marks&^resent|lost)
	if !l.hinted || x.lo.Less(l.hint) {
		l.hint, l.hinted = x.lo, true
	}
}

// widen adapts the reordering window to D-SACKs (section 6.2, step 4): wider
// with each round trip that reports one.
func (c *Conn) widen(d *delivery) {
	r := &c.loss.rack
	if r.rounding && r.round.LessEq(c.snd.una) {
		r.rounding = false
	}
	if !d.dsack.Empty() && !r.rounding {
		r.rounding, r.round = true, c.snd.nxt
		r.mult, r.persist = min(max(r.mult, 1), maxReoMult-1)+1, reoPersist
	}
}

// narrow is the end of a recovery: after sixteen without a D-SACK the window
// is as at first.
func (r *rackState) narrow() {
	if r.persist > 0 {
		r.persist--
	}
	if r.persist == 0 {
		r.mult = 1
	}
}

// reorderTimeout is the end of the reordering timer (section 6.2, step 5):
// what has not arrived by now is lost.
func (c *Conn) reorderTimeout(now mono.Time) {
	l := &c.loss
	l.newlyLost, l.rack.advanced = 0, true
	wait := c.detectLoss(now)
	if l.newlyLost > 0 && (l.phase == open || l.phase == reducing) {
		c.enterRecovery(now)
		if !c.cc.controlled() {
			c.regulate(&delivery{sample: sample{now: now, delivered: 1, lost: l.newlyLost}})
		}
	}
	if rto := c.expiry(now); wait == 0 || rto <= now.Add(wait) {
		c.timer.arm(retransmitting, rto)
		return
	}
	c.armReordering(now, wait)
}

// armReordering starts the reordering timer, for no longer than a
// retransmission timeout.
func (c *Conn) armReordering(now mono.Time, wait time.Duration) {
	c.timer.arm(reordering, now.Add(min(wait, c.backedOff())))
}
