package tcp

import (
	"math"
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// cubic is CUBIC (RFC 9438).
//
// It departs from the RFC where Linux's does: without a loss so far the window
// grows by a twentieth each round trip at least, and never by more than half
// of what is acknowledged; the reduction begins at cwnd, which does not grow
// when it limits nothing, not at the octets in flight (section 4.6 lets it).
// It departs from Linux's where the RFC is newer: alpha is 1 above cwnd_prior,
// the curve is looked at a smoothed round trip ahead, not a least one, and
// time without use of the window is not part of the epoch.
type cubic struct {
	hystart
	delayMin uint32 // microseconds, the least round trip; 0: none. Linux keeps it
	curve
	before curve     // the curve before the reduction under way (section 4.9)
	seen   mono.Time // when the last acknowledgment came
	credit float32   // of an octet, towards the next increase
}

// A curve is where an epoch of congestion avoidance goes. Windows are in
// octets.
type curve struct {
	epoch  mono.Time // when it began, 0: with the next acknowledgment
	wEst   float64   // W_est, what Reno would have
	wMax   float32   // W_max as the last reduction left it, 0: there was none since the start or a timeout
	origin float32   // W_max of the epoch: W_max, or the window it began with
	prior  float32   // cwnd_prior
	k      float32   // K, seconds
}

const (
	cubicC     = 0.4
	cubicBeta  = 0.7
	cubicAlpha = 3 * (1 - cubicBeta) / (1 + cubicBeta) // section 4.3
	cubicFirst = 1. / 20                               // Linux bictcp_update without last_max_cwnd
	cubicMost  = 1. / 2                                // section 4.2: target is at most 1.5 cwnd
	longEpoch  = 24 * time.Hour                        // that load believes
)

// observe shifts the epoch by the time in which the window limited nothing
// (sections 4.2 and 5.8).
func (q *cubic) observe(g *congestion, s sample) {
	q.hystart.observe(g, s)
	if rtt := micros(s.rtt); rtt > 0 && (q.delayMin == 0 || rtt < q.delayMin) {
		q.delayMin = rtt
	}
	if !g.limited {
		q.pause(s.now)
	}
	q.seen = s.now
}

// pause takes the time since the last acknowledgment out of the epoch.
func (q *cubic) pause(now mono.Time) {
	if q.epoch != 0 && q.seen != 0 && q.seen < now {
		q.epoch += now - max(q.seen, q.epoch)
	}
	q.seen = now
}

func (q *cubic) grow(g *congestion, s sample) {
	if acked := q.slowStart(g, s.acked); acked > 0 {
		g.raise(q.increase(s.now, acked, g.cwnd, g.mss, s.srtt))
	}
}

// increase returns by how many octets the window grows for acked octets.
func (q *cubic) increase(now mono.Time, acked, cwnd, mss uint32, srtt time.Duration) uint32 {
	w, m, n := float64(max(cwnd, 1)), float64(mss), float64(acked)
	if q.epoch == 0 {
		q.begin(now, w, m)
	}
	t := now.Sub(q.epoch)
	alpha := cubicAlpha
	if q.wEst >= float64(q.prior) {
		alpha = 1
	}
	q.wEst = min(q.wEst+alpha*n*m/w, unlimited)
	step := (q.at(t+min(srtt, longestRTT), m) - w) / w * n
	if q.wMax == 0 {
		step = max(step, n*cubicFirst)
	}
	if q.at(t, m) < q.wEst {
		step = max(step, q.wEst-w) // the Reno-friendly region, section 4.3
	}
	step = min(max(step, 0), n*cubicMost) + float64(q.credit)
	whole := math.Floor(step)
	q.credit = float32(step - whole)
	return uint32(whole)
}

// begin starts an epoch (section 4.2). After a timeout, or without a loss so
// far, K is 0 and W_max the window (sections 4.8 and 4.10).
func (q *cubic) begin(now mono.Time, w, mss float64) {
	q.epoch, q.wEst, q.k, q.origin = max(now, 1), w, 0, float32(w)
	if top := float64(q.wMax); w < top && mss > 0 {
		q.k, q.origin = float32(math.Cbrt((top-w)/(cubicC*mss))), q.wMax
	}
	if q.prior == 0 {
		q.prior = float32(w)
	}
}

// at is W_cubic(t), equation 1.
func (q *cubic) at(t time.Duration, mss float64) float64 {
	d := t.Seconds() - float64(q.k)
	return float64(q.origin) + cubicC*mss*d*d*d
}

// threshold is sections 4.6 and 4.7.
func (q *cubic) threshold(g *congestion, _ uint32, _ happening) uint32 {
	q.before = q.curve
	w := float32(g.cwnd)
	q.prior, q.epoch, q.credit = w, 0, 0
	if w < q.wMax {
		w *= (1 + cubicBeta) / 2 // fast convergence
	}
	q.wMax = w
	return max(uint32(float64(g.cwnd)*cubicBeta), 2*g.mss)
}

func (q *cubic) event(_ *congestion, now mono.Time, e happening) {
	switch e {
	case beganLoss:
		q.wMax = 0 // section 4.8
	case undone:
		q.curve = q.before // section 4.9
	case restarted:
		q.pause(now)
	}
}

func (q *cubic) save(now mono.Time, s *tcb.Snapshot) {
	mss := float64(max(s.MSS, 1))
	s.CC = "cubic"
	s.CCState.Cubic = tcb.Cubic{
		WMax: float64(q.wMax) / mss, InEpoch: q.epoch != 0, DelayMin: time.Duration(q.delayMin) * time.Microsecond,
		Found: s.Ssthresh < tcb.NoThreshold,
	}
	if c := &s.CCState.Cubic; c.InEpoch {
		c.Epoch, c.Origin, c.WEst = max(now.Sub(q.epoch), 0), float64(q.origin)/mss, q.wEst/mss
		c.K = time.Duration(float64(q.k) * float64(time.Second))
	}
}

// load takes W_max for cwnd_prior, which Linux does not have.
func (q *cubic) load(_ *congestion, now mono.Time, s *tcb.Snapshot) {
	q.end = s.SndUna
	c := &s.CCState.Cubic
	if s.CC != "cubic" {
		return
	}
	mss := float64(s.MSS)
	q.wMax = float32(bounded(c.WMax*mss, unlimited))
	q.delayMin, q.prior = micros(max(c.DelayMin, 0)), q.wMax
	if !c.InEpoch {
		return
	}
	if q.epoch = now.Add(-min(max(c.Epoch, 0), longEpoch)); q.epoch == 0 {
		q.epoch = 1
	}
	q.origin, q.wEst = float32(bounded(c.Origin*mss, unlimited)), bounded(c.WEst*mss, unlimited)
	q.k = float32(min(max(c.K, 0), longEpoch).Seconds())
}

// bounded is x within 0 and limit; what is not a number is 0.
func bounded(x, limit float64) float64 {
	if !(x > 0) {
		return 0
	}
	return min(x, limit)
}
