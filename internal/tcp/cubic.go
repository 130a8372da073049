package tcp

import (
	"math"
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// cubic is CUBIC (RFC 9438). Windows are in segments.
type cubic struct {
	wMax  float64   // W_max
	k     float64   // K, seconds
	wEst  float64   // W_est, what Reno would have
	prior float64   // cwnd_prior
	epoch mono.Time // when congestion avoidance began, 0: with the next acknowledgment
}

const (
	cubicC     = 0.4
	cubicBeta  = 0.7
	cubicAlpha = 3 * (1 - cubicBeta) / (1 + cubicBeta) // section 4.3
)

func (*cubic) observe(*congestion, sample) {}

func (q *cubic) grow(g *congestion, s sample) {
	if acked := g.slowStart(s.acked); acked > 0 {
		g.raise(q.increase(s.now, acked, g.cwnd, g.mss, s.srtt))
	}
}

func (q *cubic) threshold(g *congestion, _ uint32) uint32 { return q.reduce(g.cwnd, g.mss) }

func (q *cubic) event(_ *congestion, _ mono.Time, e happening) {
	if e == restarted {
		q.epoch = 0
	}
}

func (*cubic) save(mono.Time, *tcb.Snapshot) {}
func (*cubic) load(mono.Time, *tcb.Snapshot) {}

// increase returns by how many octets the window grows for acked octets.
func (q *cubic) increase(now mono.Time, acked, cwnd, mss uint32, srtt time.Duration) uint32 {
	w := float64(cwnd) / float64(mss)
	if q.epoch == 0 {
		q.begin(now, w)
	}
	target := q.target(now.Sub(q.epoch)+srtt, w)
	segs := float64(acked) / float64(mss)
	alpha := cubicAlpha
	if q.wEst >= q.prior {
		alpha = 1
	}
	q.wEst += alpha * segs / w
	next := w + (target-w)/w*segs
	if q.at(now.Sub(q.epoch)) < q.wEst {
		next = max(q.wEst, w) // the Reno-friendly region, section 4.3
	}
	return uint32(max(next-w, 0) * float64(mss))
}

// begin starts an epoch (section 4.2).
func (q *cubic) begin(now mono.Time, w float64) {
	q.epoch, q.wEst, q.k = max(now, 1), w, 0
	if w < q.wMax {
		q.k = math.Cbrt((q.wMax - w) / cubicC)
	} else {
		q.wMax = w
	}
}

// at is W_cubic(t), equation 1.
func (q *cubic) at(t time.Duration) float64 {
	d := t.Seconds() - q.k
	return q.wMax + cubicC*d*d*d
}

// target is W_cubic(t) within [w, 1.5 w] (section 4.2).
func (q *cubic) target(t time.Duration, w float64) float64 {
	return min(max(q.at(t), w), 1.5*w)
}

// reduce returns ssthresh in octets after a loss (sections 4.6 and 4.7).
func (q *cubic) reduce(cwnd, mss uint32) uint32 {
	w := float64(cwnd) / float64(mss)
	q.prior, q.epoch = w, 0
	if w < q.wMax {
		q.wMax = w * (1 + cubicBeta) / 2 // fast convergence
	} else {
		q.wMax = w
	}
	return uint32(max(w*cubicBeta, 2) * float64(mss))
}
