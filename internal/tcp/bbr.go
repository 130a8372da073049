package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// bbr is BBR version 1 as in Linux (net/ipv4/tcp_bbr.c): it estimates the
// bottleneck's bandwidth and the path's round-trip time, and paces by them.
//
// It departs in three things. Windows and rates are in octets, not packets.
// ssthresh stays unset, which Linux sets on leaving Startup and does not use.
// The phase that ProbeBW begins in comes from snd.una, not from chance.
type bbr struct {
	longTerm
	aggregation
	rates rateFilter // of the last bwRounds rounds

	minRTT   time.Duration // the least of the last minRTTLife; 0: not measured
	minRTTAt mono.Time     // when it was
	at       mono.Time     // when the phase of ProbeBW began; in ProbeRTT when it has lasted long enough, 0: there is too much in flight yet
	roundEnd uint64        // the round ends when octets sent after so many were delivered are
	quiet    uint64        // until so many are delivered the rate is ProbeRTT's, which says nothing
	fullRate uint64        // the last that counted as growth in Startup
	round    uint32
	prior    uint32 // octets, cwnd before recovery or ProbeRTT

	mode      tcb.BBRMode
	phase     uint8 // of ProbeBW, 0 to 7
	stalled   uint8 // rounds of Startup without growth of the bandwidth
	filled    bool  // the pipe is estimated to be full
	newRound  bool  // with this acknowledgment
	dipped    bool  // a round has passed in ProbeRTT
	restarted bool  // from idleness, and nothing is acknowledged yet
	timed     bool  // a round-trip time was known to g.pacing
	conserve  bool  // as much is sent as is delivered: the first round of recovery
	now       repair
	last      repair // with the acknowledgment before
}

// repair is what loss recovery means to bbr.
type repair uint8

const (
	whole repair = iota
	repairing
	starting // after a timeout
)

const (
	bwRounds     = 10 // a cycle of ProbeBW and two
	minRTTLife   = 10 * time.Second
	dip          = 200 * time.Millisecond // of ProbeRTT
	startupGain  = 2.885                  // 2/ln(2): the rate doubles each round
	cruiseGain   = 2.0                    // of cwnd, for delayed and stretched acknowledgments
	growth       = 1.25                   // a larger bandwidth than so much more is growth
	stallRounds  = 3
	leastSegs    = 4    // in flight
	pacingMargin = 0.99 // keeps the queue from growing
	slowPacing   = 1200000 / 8
	nominalRTT   = time.Millisecond // for pacing before any is measured
	longestAge   = time.Minute      // that load believes
	highestRate  = 1 << 50          // octets a second
)

var probeGains = [8]float64{1.25, 0.75, 1, 1, 1, 1, 1, 1}

func (b *bbr) observe(*congestion, sample) {}
func (b *bbr) grow(*congestion, sample)    {}

// control is bbr_main.
func (b *bbr) control(g *congestion, s sample) {
	s.appLimited = s.appLimited || s.prior < b.quiet
	b.measure(g, s)
	b.cycle(g, s)
	b.checkFull(s)
	b.checkDrained(g, s)
	b.updateMinRTT(g, s)
	b.setPacing(g, s.srtt)
	b.setCwnd(g, s)
}

// bandwidth is the estimate in octets a second.
func (b *bbr) bandwidth() uint64 {
	if b.policed {
		return b.policer
	}
	return b.rates.max()
}

// measure takes in the delivery rate (bbr_update_bw).
func (b *bbr) measure(g *congestion, s sample) {
	b.newRound = false
	if s.interval <= 0 {
		return
	}
	if s.prior >= b.roundEnd {
		b.roundEnd, b.newRound, b.conserve = s.total, true, false
		b.round++
	}
	if b.sampleLongTerm(s, b.newRound, b.mode == tcb.BBRProbeBW) {
		b.enterProbeBW(s)
	}
	r := uint64(min(float64(s.rated)/s.interval.Seconds(), highestRate))
	if !s.appLimited || r >= b.rates.max() {
		b.rates.add(b.round, r)
	}
	b.aggregate(s, b.newRound, b.bandwidth(), g.cwnd)
}

// bdp is gain times the octets that the path holds, the initial window while
// there is no round-trip time.
func (b *bbr) bdp(g *congestion, bw uint64, gain float64) float64 {
	if b.minRTT == 0 {
		return float64(initialWindow * g.mss)
	}
	return float64(bw) * b.minRTT.Seconds() * gain
}

// budget rounds octets up to what hosts at both ends work with (bbr_quantization_budget).
func (b *bbr) budget(g *congestion, octets float64) uint32 {
	mss := max(g.mss, 1)
	segs := uint64(min(octets, unlimited)/float64(mss)) + 1 + 3*uint64(b.burst(g))
	segs = (segs + 1) &^ 1
	if b.mode == tcb.BBRProbeBW && b.phase == 0 {
		segs += 2
	}
	return uint32(min(segs*uint64(mss), unlimited-1))
}

// burst is how many segments leave at once (bbr_tso_segs_goal).
func (b *bbr) burst(g *congestion) uint32 {
	least := uint32(2)
	if g.pacing < slowPacing {
		least = 1
	}
	octets := uint32(min(g.pacing>>10, 65535))
	return min(max(octets/max(g.mss, 1), least), 127)
}

// inflight is what is to be in flight at gain.
func (b *bbr) inflight(g *congestion, gain float64) uint32 {
	bw := b.rates.max()
	return b.budget(g, b.bdp(g, bw, gain))
}

// gains are those of pacing and cwnd (bbr_update_gains).
func (b *bbr) gains() (pacing, cwnd float64) {
	switch b.mode {
	case tcb.BBRStartup:
		return startupGain, startupGain
	case tcb.BBRDrain:
		return 1 / startupGain, startupGain
	case tcb.BBRProbeRTT:
		return 1, 1
	}
	if b.policed {
		return 1, cruiseGain
	}
	return probeGains[b.phase], cruiseGain
}

// cycle ends a phase of ProbeBW when it has lasted a round-trip time and
// reached the octets in flight that it is for (bbr_is_next_cycle_phase).
func (b *bbr) cycle(g *congestion, s sample) {
	if b.mode != tcb.BBRProbeBW {
		return
	}
	gain, _ := b.gains()
	full := s.now.Sub(b.at) > b.minRTT
	switch {
	case gain > 1:
		full = full && (s.lost > 0 || s.before+b.burst(g)*g.mss >= b.inflight(g, gain))
	case gain < 1:
		full = full || s.before <= b.inflight(g, 1)
	}
	if full {
		b.phase, b.at = (b.phase+1)%uint8(len(probeGains)), s.now
	}
}

// enterProbeBW begins with any phase but the one that drains, lest flows that
// share a bottleneck probe together.
func (b *bbr) enterProbeBW(s sample) {
	spread := uint32(s.una) * 2654435769 >> 16
	b.mode, b.at = tcb.BBRProbeBW, s.now
	b.phase = uint8((8 - spread%7) % 8)
}

// checkFull ends Startup's growth when the bandwidth does not grow any more
// (bbr_check_full_bw_reached).
func (b *bbr) checkFull(s sample) {
	if b.filled || !b.newRound || s.appLimited {
		return
	}
	if bw := b.rates.max(); float64(bw) >= float64(b.fullRate)*growth {
		b.fullRate, b.stalled = bw, 0
		return
	}
	b.stalled++
	b.filled = b.stalled >= stallRounds
}

func (b *bbr) checkDrained(g *congestion, s sample) {
	if b.mode == tcb.BBRStartup && b.filled {
		b.mode = tcb.BBRDrain
	}
	if b.mode == tcb.BBRDrain && s.inFlight <= b.inflight(g, 1) {
		b.enterProbeBW(s)
	}
}

// updateMinRTT keeps the least round-trip time, and dips into ProbeRTT when
// none so low was seen for minRTTLife (bbr_update_min_rtt).
func (b *bbr) updateMinRTT(g *congestion, s sample) {
	expired := s.now.Sub(b.minRTTAt) > minRTTLife
	if s.rtt > 0 && (b.minRTT == 0 || s.rtt <= b.minRTT || expired) {
		b.minRTT, b.minRTTAt = min(s.rtt, longestRTT), s.now
	}
	if expired && !b.restarted && b.mode != tcb.BBRProbeRTT {
		b.keep(g)
		b.mode, b.at = tcb.BBRProbeRTT, 0
	}
	if b.mode == tcb.BBRProbeRTT {
		b.dipInto(g, s)
	}
	if s.delivered > 0 {
		b.restarted = false
	}
}

// dipInto keeps the least in flight for a while and a round.
func (b *bbr) dipInto(g *congestion, s sample) {
	b.quiet = s.total + uint64(s.inFlight)
	switch {
	case b.at == 0 && s.inFlight <= leastSegs*g.mss:
		b.at, b.dipped, b.roundEnd = s.now.Add(dip), false, s.total
	case b.at != 0:
		b.dipped = b.dipped || b.newRound
		if b.dipped {
			b.surface(g, s)
		}
	}
}

// surface ends ProbeRTT when it is time.
func (b *bbr) surface(g *congestion, s sample) {
	if b.at == 0 || s.now <= b.at {
		return
	}
	b.minRTTAt = s.now
	g.cwnd = max(g.cwnd, b.prior)
	if b.filled {
		b.enterProbeBW(s)
	} else {
		b.mode = tcb.BBRStartup
	}
}

// setPacing sets the rate; before the pipe is full it never falls.
func (b *bbr) setPacing(g *congestion, srtt time.Duration) {
	if !b.timed && srtt > 0 {
		b.initPacing(g, srtt)
	}
	gain, _ := b.gains()
	if r := paced(float64(b.bandwidth()) * gain); b.filled || r > g.pacing {
		g.pacing = r
	}
}

// initPacing is for a path of which only the window is known.
func (b *bbr) initPacing(g *congestion, srtt time.Duration) {
	b.timed = srtt > 0
	if srtt <= 0 {
		srtt = nominalRTT
	}
	g.pacing = paced(startupGain * float64(rate(g.cwnd, max(srtt, time.Microsecond))))
}

func paced(r float64) uint64 { return max(uint64(min(r, highestRate)*pacingMargin), 1) }

// setCwnd is bbr_set_cwnd.
func (b *bbr) setCwnd(g *congestion, s sample) {
	if s.delivered > 0 && !b.recover(g, s) {
		_, gain := b.gains()
		target := b.budget(g, b.bdp(g, b.bandwidth(), gain)+b.extra(b.bandwidth(), b.filled))
		switch {
		case b.filled:
			g.raise(s.delivered)
			g.cwnd = min(g.cwnd, target)
		case g.cwnd < target || s.total < uint64(initialWindow*g.mss):
			g.raise(s.delivered)
		}
		g.cwnd = max(g.cwnd, leastSegs*g.mss)
	}
	if b.mode == tcb.BBRProbeRTT {
		g.cwnd = min(g.cwnd, leastSegs*g.mss)
	}
}

// recover takes losses from the window, conserves packets in the first round
// of recovery and restores the window after it. It reports whether
// packets are conserved (bbr_set_cwnd_to_recover_or_restore).
func (b *bbr) recover(g *congestion, s sample) bool {
	g.cwnd = max(g.cwnd-min(s.lost, g.cwnd), g.mss)
	inUse := min(s.inFlight, unlimited/2) + min(s.delivered, unlimited/2)
	switch {
	case b.now == repairing && b.last != repairing:
		b.conserve, b.roundEnd = true, s.total
		g.cwnd = max(inUse, g.mss)
	case b.now == whole && b.last != whole:
		g.cwnd, b.conserve = max(g.cwnd, b.prior), false
	}
	b.last = b.now
	if b.conserve {
		g.cwnd = max(g.cwnd, inUse)
	}
	return b.conserve
}

// keep notes the window for when recovery or ProbeRTT is over (bbr_save_cwnd).
func (b *bbr) keep(g *congestion) {
	if b.last != whole || b.mode == tcb.BBRProbeRTT {
		b.prior = max(b.prior, g.cwnd)
		return
	}
	b.prior = g.cwnd
}

// threshold leaves everything to control.
func (b *bbr) threshold(g *congestion, _ uint32, e happening) uint32 {
	if e != beganCWR {
		b.keep(g)
	}
	return g.ssthresh
}

func (b *bbr) event(g *congestion, now mono.Time, e happening) {
	switch e {
	case beganRecovery:
		b.now = repairing
	case beganLoss:
		b.now, b.last = starting, starting
		b.fullRate = 0
		b.longTerm.rounds++ // a timeout is the end of a round (bbr_set_state)
	case ended:
		b.now = whole
	case undone: // bbr_undo_cwnd
		b.now, b.fullRate, b.stalled = whole, 0, 0
		b.longTerm = longTerm{}
	case restarted:
		b.restart(g, now)
	}
}

// restart paces at the estimate after idleness (bbr_cwnd_event).
func (b *bbr) restart(g *congestion, now mono.Time) {
	b.restarted = true
	b.aggregation.begin(now)
	switch b.mode {
	case tcb.BBRProbeBW:
		g.pacing = paced(float64(b.bandwidth()))
	case tcb.BBRProbeRTT:
		b.surface(g, sample{now: now})
	}
}
