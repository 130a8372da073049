package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// rttState is the round-trip time and the retransmission timeout (RFC 6298).
// With more than one measurement in a round trip the variance would come down
// too fast; so, as in Linux (tcp_rtt_estimator), it goes up with the largest
// deviation at once, and down once a round trip.
type rttState struct {
	srtt, rttvar time.Duration // srtt 0: not measured; rttvar is the mean deviation
	spread       time.Duration // what the timeout adds, 4 * RTTVAR of RFC 6298
	widest       time.Duration // the most of this round trip
	rto          time.Duration // without back-off
	min          time.Duration // the least of late; 0: not measured
	minAt        mono.Time     // when
	round        seqnum.Value  // acknowledging it ends this round trip
}

const (
	minRTO     = 200 * time.Millisecond // Linux TCP_RTO_MIN, not the RFC's 1 s
	maxRTO     = 120 * time.Second      // Linux TCP_RTO_MAX
	initialRTO = time.Second            // RFC 6298, section 2.1
	hopRTO     = time.Second            // the longest without congestion control
)

func (r *rttState) restore(now mono.Time, s *tcb.Snapshot) {
	*r = rttState{srtt: min(s.SRTT, maxRTO), rttvar: min(s.RTTVar, maxRTO), min: min(s.MinRTT, maxRTO), minAt: now, round: s.SndNxt}
	r.spread = max(4*r.rttvar, minRTO)
	r.widest = minRTO
	r.setRTO()
	if s.RTO > 0 {
		r.rto = min(max(s.RTO, minRTO), maxRTO)
	}
}

func (r *rttState) snapshot(s *tcb.Snapshot) {
	s.SRTT, s.RTTVar, s.RTO = r.srtt, r.rttvar, r.rto
	s.MinRTT = r.min
}

// measure takes the round-trip time from an acknowledgment: of the first octets
// delivered that were sent once (Karn's algorithm), and the timestamp's (RFC
// 7323, section 4), in ticks of a millisecond, when that is less: octets may have
// waited at the peer for others that were lost.
func (c *Conn) measure(seg *wire.Segment, d *delivery) {
	r := &c.rtt
	if d.karn || d.stale {
		// The others acknowledged may have waited for what was sent again, or
		// the report of them was lost before the timeout.
		d.oldest, d.latest, d.picked = 0, 0, 0
	}
	if d.latest != 0 {
		d.rtt = max(d.now.Sub(d.latest), time.Microsecond)
		r.least(d.now, d.rtt)
	}
	m := time.Duration(-1)
	switch {
	case d.oldest != 0:
		m = d.now.Sub(d.oldest)
	case d.picked != 0:
		m = d.now.Sub(d.picked)
	}
	before := c.timer.expired != 0 && d.earlier(c.stampAt(c.timer.expired))
	if ms := int32(c.stampAt(d.now) - d.ecr); d.acked > 0 && d.stamped && ms >= 0 && !before {
		echoed := max(time.Duration(ms), 1) * time.Millisecond
		if m < 0 || m > echoed+time.Millisecond {
			m = echoed
		}
	}
	if m >= 0 {
		c.timer.backoff = 0 // only a measurement ends it (RFC 6298, section 5; Karn)
		r.sample(m, c.snd.una, c.snd.nxt)
	}
}

// minLife is how long the least round-trip time stands (Linux
// tcp_min_rtt_wlen).
const minLife = 5 * time.Minute

func (r *rttState) least(now mono.Time, m time.Duration) {
	if r.min == 0 || m <= r.min || now.Sub(r.minAt) > minLife {
		r.min, r.minAt = m, now
	}
}

// sample takes in a measurement (RFC 6298, rules 2.2 and 2.3).
func (r *rttState) sample(m time.Duration, una, nxt seqnum.Value) {
	m = max(m, time.Microsecond)
	if r.srtt == 0 {
		r.srtt, r.rttvar = m, m/2
		r.spread = max(4*r.rttvar, minRTO)
		r.widest, r.round = r.spread, nxt
		r.setRTO()
		return
	}
	err := m - r.srtt
	r.srtt += err / 8
	gain := time.Duration(4)
	if err < 0 {
		err = -err
		if err > r.rttvar {
			// The RTT fell: Linux widens the variance by an eighth of the
			// usual, lest a better path lengthen the timeout.
			gain = 32
		}
	}
	r.rttvar += (err - r.rttvar) / gain
	r.widen(una, nxt)
	r.setRTO()
}

// widen follows the deviation with what the timeout adds.
func (r *rttState) widen(una, nxt seqnum.Value) {
	r.widest = max(r.widest, 4*r.rttvar)
	r.spread = max(r.spread, r.widest)
	if una.Less(r.round) {
		return
	}
	r.spread -= (r.spread - r.widest) / 4
	r.round, r.widest = nxt, minRTO
}

// setRTO computes the timeout as Linux does: the floor is under the variance,
// not under the sum.
func (r *rttState) setRTO() {
	r.rto = initialRTO
	if r.srtt > 0 {
		r.rto = min(r.srtt+r.spread, maxRTO)
	}
}

func micros(d time.Duration) uint32 { return uint32(min(d.Microseconds(), 1<<32-1)) }
