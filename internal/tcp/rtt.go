package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// rttState is the round-trip time and the retransmission timeout (RFC 6298).
// One segment at a time is timed; one sent again never is (Karn's algorithm).
type rttState struct {
	srtt, rttvar time.Duration // srtt 0: not measured
	rto          time.Duration // without back-off
	at           mono.Time     // when the segment being timed was sent
	seq          seqnum.Value  // what acknowledges it
	timing       bool
}

const (
	minRTO     = 200 * time.Millisecond // Linux TCP_RTO_MIN, not the RFC's 1 s
	maxRTO     = 120 * time.Second      // Linux TCP_RTO_MAX
	initialRTO = time.Second            // RFC 6298, section 2.1
)

func (r *rttState) restore(s *tcb.Snapshot) {
	*r = rttState{srtt: s.SRTT, rttvar: s.RTTVar}
	r.setRTO()
	if s.RTO > 0 {
		r.rto = min(max(s.RTO, minRTO), maxRTO)
	}
}

func (r *rttState) snapshot(s *tcb.Snapshot) {
	s.SRTT, s.RTTVar, s.RTO = r.srtt, r.rttvar, r.rto
}

// sent starts timing unless a segment is being timed.
func (r *rttState) sent(now mono.Time, end seqnum.Value) {
	if !r.timing {
		r.timing, r.seq, r.at = true, end, now
	}
}

// acknowledged ends timing when ack covers the segment.
func (r *rttState) acknowledged(now mono.Time, ack seqnum.Value) {
	if r.timing && r.seq.LessEq(ack) {
		r.timing = false
		r.sample(max(now.Sub(r.at), time.Microsecond))
	}
}

// sample takes in a measurement (RFC 6298, rules 2.2 and 2.3).
func (r *rttState) sample(m time.Duration) {
	if r.srtt == 0 {
		r.srtt, r.rttvar = m, m/2
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
			// usual, lest a better path lengthen the timeout (tcp_rtt_estimator).
			gain = 32
		}
	}
	r.rttvar += (err - r.rttvar) / gain
	r.setRTO()
}

// setRTO computes the timeout as Linux does: the floor is under the variance,
// not under the sum.
func (r *rttState) setRTO() {
	r.rto = initialRTO
	if r.srtt > 0 {
		r.rto = min(r.srtt+max(4*r.rttvar, minRTO), maxRTO)
	}
}

func micros(d time.Duration) uint32 { return uint32(min(d.Microseconds(), 1<<32-1)) }
