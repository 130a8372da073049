package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// rateState is the delivery rate's estimation
// (draft-cheng-iccrg-delivery-rate-estimation; Linux net/ipv4/tcp_rate.c).
type rateState struct {
	delivered   uint64    // octets acknowledged or SACKed in all
	deliveredAt mono.Time // when the last of them were
	firstAt     mono.Time // when the octets delivered last had been sent
	starved     uint32    // until so many are delivered, modulo 2^32, the rate says what there was to send; 0: it does not
	latest      float32   // octets/s that tools are told; 0: not known
}

// stamp notes in x, which is about to be sent, what is known of the rate.
// idle says that nothing else is in flight.
func (r *rateState) stamp(x *flight, idle bool) {
	if idle {
		r.firstAt, r.deliveredAt = x.at, x.at
	}
	x.prior, x.priorAt, x.firstAt = r.delivered, r.deliveredAt, r.firstAt
	if r.starved != 0 {
		x.marks |= starved
	}
}

// A delivery is what one acknowledgment brought, while it is made sense of.
type delivery struct {
	sample
	duplicate bool         // it may be one in the sense of RFC 5681
	pure      bool         // it has no payload, and acknowledges and offers nothing new
	fresh     uint32       // octets newly SACKed
	dsack     seqnum.Range // received twice (RFC 2883); empty: not told
	original  bool         // octets sent once, before the phase began, were delivered
	reordered bool         // octets sent once were, below the forward-most one SACKed before
	rearm     bool         // the timer is to be set anew
	eifel     bool         // it answers what was sent before anything was sent again (RFC 3522)
	karn      bool         // octets sent again were acknowledged
	stale     bool         // octets sent before the last timeout were delivered
	ecr       uint32       // timestamp echoed; valid with stamped
	stamped   bool
	fack      seqnum.Value // lossState.fack before it

	newest flight    // of those delivered the one sent last; hi 0 and at 0: none
	oldest mono.Time // when the first of those acknowledged, sent once, was sent; 0: none
	picked mono.Time // the same of those SACKed
	latest mono.Time // when the last sent once was sent
}

// later reports that x was sent after d.newest.
func (d *delivery) later(x *flight) bool {
	return d.newest.at < x.at || d.newest.at == x.at && d.newest.hi.Less(x.hi)
}

// take notes that n octets of x were delivered; by SACK, or cumulatively.
func (c *Conn) take(d *delivery, x *flight, n uint32, bySACK bool) {
	d.delivered += n
	c.rate.delivered += uint64(n)
	if d.newest.at == 0 || d.later(x) {
		d.newest = *x
		c.rate.firstAt = x.at
	}
	c.rackTake(d, x)
	if x.is(again) {
		d.karn = d.karn || !bySACK
		return
	}
	d.original = d.original || x.hi.LessEq(c.loss.recover)
	d.stale = d.stale || x.at < c.timer.expired
	d.reordered = d.reordered || x.lo.Less(d.fack)
	d.latest = max(d.latest, x.at)
	switch {
	case bySACK && d.picked == 0:
		d.picked = x.at
	case !bySACK && d.oldest == 0:
		d.oldest = x.at
	}
}

// rates fills in d what the delivery says of the rate (tcp_rate_gen).
func (c *Conn) rates(d *delivery) {
	r := &c.rate
	if r.starved != 0 && int32(uint32(r.delivered)-r.starved) > 0 {
		r.starved = 0
	}
	d.total = r.delivered
	if d.delivered == 0 {
		return
	}
	r.deliveredAt = d.now
	x := &d.newest
	d.prior, d.rated = x.prior, r.delivered-x.prior
	d.resent, d.appLimited = x.is(again), x.is(starved)
	d.interval = max(x.at.Sub(x.firstAt), d.now.Sub(x.priorAt))
	if d.interval < c.rtt.min {
		d.interval = 0 // the octets were not all sent in it
	}
	r.keep(d)
}

// keep takes a rate for what tools are told, unless it says no more than what
// there was to send: then only one that is not below the last.
func (r *rateState) keep(d *delivery) {
	if d.interval <= 0 {
		return
	}
	if rate := float32(float64(d.rated) / d.interval.Seconds()); !d.appLimited || rate >= r.latest {
		r.latest = rate
	}
}

// starve notes that there is nothing more to send though there could be
// (tcp_rate_check_app_limited). Who has half of the buffer in flight has more to
// send, and is limited by the buffer: a writer is woken when a third of it is free
// (sk_stream_is_writeable), and payload takes up to twice its size of it.
func (c *Conn) starve() {
	if l := &c.loss; l.lost <= l.resent && c.pipe() < c.cc.cwnd && c.snd.flight() < c.opt.sndBuf/2 {
		c.rate.starved = max(uint32(c.rate.delivered)+c.pipe(), 1)
	}
}
