package tcp

import (
	"time"

	"toehold/internal/mono"
)

// rateFilter is the largest rate of the last bwRounds rounds. Rounds in which
// none is added, as all were limited by what there was to send, pass when the
// next is: a rate is remembered through a pause of any length (Linux
// minmax_running_max, here without approximation).
type rateFilter struct {
	top  uint64 // octets a second
	of   [bwRounds]float32
	last uint32 // round that a rate was added in
}

func (f *rateFilter) max() uint64 { return f.top }

func (f *rateFilter) add(round uint32, rate uint64) {
	for n := min(round-f.last, bwRounds); n > 0; n-- {
		f.of[(round-n+1)%bwRounds] = 0
	}
	f.last = round
	slot := &f.of[round%bwRounds]
	*slot = max(*slot, float32(rate))
	top := float32(0)
	for _, r := range f.of {
		top = max(top, r)
	}
	f.top = uint64(top)
}

// aggregation is how much more is acknowledged at times than the bandwidth
// allows, as acknowledgments come in heaps; so much more is to be in flight
// (bbr_update_ack_aggregation).
type aggregation struct {
	since mono.Time // when the heap began
	acked uint32    // octets since
	most  [2]uint32 // octets in excess, of these aggregationRounds and those before
	turns uint8     // rounds that most[slot] is old
	slot  uint8
}

const (
	aggregationRounds = 5
	aggregationMost   = 100 * time.Millisecond // of bandwidth
)

// begin starts a heap.
func (a *aggregation) begin(now mono.Time) { a.since, a.acked = now, 0 }

func (a *aggregation) aggregate(s sample, newRound bool, bw uint64, cwnd uint32) {
	if s.delivered == 0 {
		return
	}
	if newRound {
		a.turn()
	}
	expected := float64(bw) * s.now.Sub(a.since).Seconds()
	if float64(a.acked) <= expected || a.acked >= unlimited {
		a.begin(s.now)
		expected = 0
	}
	a.acked = min(a.acked+min(s.delivered, unlimited), unlimited)
	excess := min(max(float64(a.acked)-expected, 0), float64(cwnd))
	a.most[a.slot] = max(a.most[a.slot], uint32(excess))
}

func (a *aggregation) turn() {
	if a.turns++; a.turns >= aggregationRounds {
		a.turns, a.slot = 0, a.slot^1
		a.most[a.slot] = 0
	}
}

// extra is what the window is to hold beside.
func (a *aggregation) extra(bw uint64, filled bool) float64 {
	if !filled {
		return 0
	}
	return min(float64(max(a.most[0], a.most[1])), float64(bw)*aggregationMost.Seconds())
}

// longTerm finds token-bucket policers: two intervals in a row with many
// losses and the same rate (bbr_lt_bw_sampling). Its rate is then held to,
// for a while.
type longTerm struct {
	policer  uint64    // octets a second of the last interval, 0: none
	from     uint64    // octets delivered when this interval began
	at       mono.Time // when it began
	lost     uint32    // octets since
	rounds   uint8     // since; or since policed
	sampling bool
	policed  bool // policer is the rate
}

const (
	policerRounds  = 4         // an interval has at least
	policerLosses  = 50. / 256 // octets lost of one delivered
	policerSpan    = 8         // a part of the rate that two intervals differ by at most
	policerDiff    = 4000 / 8  // or in octets a second
	policerLasts   = 48        // rounds
	policerLongest = 4000 * time.Second
)

// sampleLongTerm takes in an acknowledgment and reports that a policer's rate has
// been held to for long enough. probing says that ProbeBW is on.
func (l *longTerm) sampleLongTerm(s sample, newRound, probing bool) (over bool) {
	if l.policed {
		return l.hold(newRound && probing)
	}
	if !l.sampling && s.lost == 0 {
		return false
	}
	if !l.sampling {
		l.interval(s)
	} else {
		l.lost += min(s.lost, unlimited-min(l.lost, unlimited))
	}
	if newRound {
		l.rounds++
	}
	switch {
	case s.appLimited || l.rounds > 4*policerRounds:
		*l = longTerm{}
	case l.rounds >= policerRounds && s.lost > 0:
		l.judge(s)
	}
	return false
}

func (l *longTerm) hold(round bool) (over bool) {
	if round {
		l.rounds++
	}
	if l.rounds >= policerLasts {
		*l = longTerm{}
		return true
	}
	return false
}

// interval begins one.
func (l *longTerm) interval(s sample) {
	l.from, l.at, l.lost, l.rounds, l.sampling = s.total, s.now, 0, 0, true
}

// judge ends an interval that has seen enough losses.
func (l *longTerm) judge(s sample) {
	delivered, t := s.total-l.from, s.now.Sub(l.at)
	if delivered == 0 || float64(l.lost) < policerLosses*float64(delivered) || t < time.Millisecond {
		return
	}
	if t > policerLongest {
		*l = longTerm{}
		return
	}
	bw := uint64(min(float64(delivered)/t.Seconds(), highestRate))
	if diff := max(bw, l.policer) - min(bw, l.policer); l.policer > 0 && (diff <= l.policer/policerSpan || diff <= policerDiff) {
		l.policer, l.policed, l.rounds = max((bw+l.policer)/2, 1), true, 0
		return
	}
	l.policer = bw
	l.interval(s)
}
