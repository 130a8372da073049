package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// pathState is what is known of the largest segment that the path carries
// (RFC 1191, 8201 and 4821), in octets of payload.
type pathState struct {
	search  *pathSearch // nil: nothing is known to be less than told
	told    uint32      // by SetMSS: what routes and the peer allow
	probing bool        // Options.MTUProbing
}

// pathSearch is the search for what a path carries that carries less.
type pathSearch struct {
	next    mono.Time    // no probe before
	ceiling uint32       // what the path was seen to carry
	high    uint32       // the search for more ends before it
	size    uint32       // of the probe in flight, 0: none
	lo      seqnum.Value // its first octet
}

const (
	blackHoleAfter = 2                // timeouts in a row, the next one is taken for a black hole's (Linux tcp_retries1 less one)
	baseSegment    = 1024             // RFC 4821, section 7.2; Linux tcp_base_mss
	leastSegment   = 536              // RFC 9293, section 3.7.1: what every path carries
	probePause     = 5 * time.Second  // between a black hole and the first probe, as the path may be about to change
	pathLife       = 10 * time.Minute // RFC 1191, section 6.3; RFC 8201, section 4
	probeFine      = 16               // octets; a search does not go on below
)

// SetMSS changes the size of segments, in octets of payload, as routes and the
// peer allow; values outside of what a snapshot may have are brought to its
// limits. What the path was seen to carry bounds it.
func (c *Conn) SetMSS(mss uint32) {
	c.path.told = min(max(mss, tcb.MinMSS), tcb.MaxMSS)
	c.resize()
}

func (c *Conn) resize() {
	mss := c.path.told
	if s := c.path.search; s != nil {
		mss = min(mss, s.ceiling)
	}
	if mss != c.snd.mss {
		c.snd.mss = mss
		c.cc.floor(mss)
	}
}

// PacketTooBig tells that the path carries segments of mss octets at most, for
// ten minutes: who calls it has seen that a router said so of a segment that is
// in flight (RFC 5927, section 4.1). What is in flight and larger is lost,
// which is no sign of congestion (RFC 8201, section 5.4; Linux tcp_simple_retransmit).
func (c *Conn) PacketTooBig(now mono.Time, mss uint32) {
	if !c.live || mss >= c.snd.mss || mss < tcb.MinMSS {
		return
	}
	c.lower(mss, now.Add(pathLife))
	c.loseLarger(now)
}

// lower makes segments smaller until a time.
func (c *Conn) lower(mss uint32, until mono.Time) {
	c.path.search = &pathSearch{ceiling: mss, high: c.path.told + 1, next: until}
	c.resize()
}

// loseLarger holds what was sent in larger segments than go now for lost,
// without a reduction of the window.
func (c *Conn) loseLarger(now mono.Time) {
	l := &c.loss
	for i := l.head; i != l.tail; i++ {
		if x := l.at(i); x.len() > c.snd.mss && !x.is(sacked) && !x.missing() {
			c.lose(x)
		}
	}
	if l.lost <= l.resent || l.phase == timedOut {
		return
	}
	l.phase, l.recover, l.frto, l.undo.armed, l.undo.due = timedOut, c.snd.nxt, false, false, false
	c.armRTO(now)
}

// blackHole is called at a timeout: after some in a row the path may drop large
// segments without a word (RFC 4821, section 7.7).
func (c *Conn) blackHole(now mono.Time) {
	if !c.path.probing || c.timer.retries < blackHoleAfter {
		return
	}
	if c.snd.mss <= leastSegment || c.loss.first().len() < c.snd.mss {
		return // what does not arrive is not large
	}
	c.lower(max(min(c.snd.mss/2, baseSegment), leastSegment), now.Add(probePause))
	c.stats.BlackHoles++
}

// candidate is the size of the next probe, 0 for none: half way to what is not
// known to be too much; ten minutes after the search has ended it begins anew.
func (p *pathState) candidate(now mono.Time) uint32 {
	s := p.search
	if s.size != 0 || now < s.next {
		return 0
	}
	if s.ceiling >= p.told {
		p.search = nil
		return 0
	}
	s.high = min(s.high, p.told+1)
	if s.high-min(s.high, s.ceiling) <= probeFine {
		s.high, s.next = p.told+1, now.Add(pathLife)
		return 0
	}
	if s.high == p.told+1 {
		return p.told // what was there before, first
	}
	return (s.ceiling + s.high) / 2
}

// outputPathProbe sends new data in one segment that is larger than the path
// was seen to carry (RFC 4821, section 7.3), while nothing is known of losses
// and more follows that would show the loss of it.
func (c *Conn) outputPathProbe(now mono.Time, out *wire.Out) bool {
	if c.path.search == nil {
		return false
	}
	s, n := &c.snd, c.path.candidate(now)
	if n <= s.mss {
		c.resize() // the search may have ended at what routes allow
		return false
	}
	if !c.loss.quiet() || s.unsent() < n+4*s.mss || c.room() < n+4*s.mss || distance(s.nxt, s.edge) < n+4*s.mss {
		return false
	}
	mss := s.mss
	s.mss = n // one segment
	lo := s.nxt
	c.emitNew(now, out, n, false)
	s.mss = mss
	if out.Length > mss { // one of many small pieces may hold less
		c.path.search.size, c.path.search.lo = out.Length, lo
		c.stats.PathProbes++
	}
	return true
}

// pathProbed looks what has become of the probe in flight, before anything else
// is made of an acknowledgment.
func (c *Conn) pathProbed() {
	p := c.path.search
	if p == nil || p.size == 0 || c.snd.una.Less(p.lo.Add(p.size)) {
		return
	}
	p.ceiling, p.size = p.size, 0
	c.resize()
}

// probeInconclusive is called when [lo, hi) is sent again: what becomes of the
// octets of a probe then says nothing of its size. Another one follows later
// (RFC 4821, section 7.6).
func (c *Conn) probeInconclusive(now mono.Time, lo, hi seqnum.Value) {
	if p := c.path.search; p != nil && p.size != 0 && lo.Less(p.lo.Add(p.size)) && p.lo.Less(hi) {
		p.size, p.next = 0, now.Add(probePause)
	}
}

// probeLost reports that nothing but the probe is lost: it was too large, and
// that is no sign of congestion (RFC 4821, section 7.5). It is sent again in
// smaller segments.
func (c *Conn) probeLost(now mono.Time) bool {
	p, l := c.path.search, &c.loss
	if p == nil || p.size == 0 || l.lost > p.size {
		return false
	}
	if i := l.find(p.lo); i == l.tail || !l.at(i).missing() {
		return false
	}
	for i, end := l.find(p.lo), p.lo.Add(p.size); i != l.tail && l.at(i).lo.Less(end); i++ {
		if x := l.at(i); !x.is(sacked) && !x.missing() { // without SACK only its beginning is
			c.lose(x)
		}
	}
	p.high, p.size = p.size, 0
	l.phase, l.recover, l.frto, l.undo.armed, l.undo.due = timedOut, c.snd.nxt, false, false, false
	return true
}
