package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// validation is what congestion window validation (RFC 7661) knows of the use
// that was made of the window.
//
// A window that is not in use is kept for nonvalidatedPeriod, where RFC 5681,
// section 4.1, takes it away after a timeout without sending and Linux
// (tcp_slow_start_after_idle) with each such timeout the half of it. What is
// sent after such a silence is paced over a round trip instead.
//
// One departure: in the nonvalidated phase too the window grows when it
// limited what was sent, as in Linux. By then a round of a full window is on
// its way, which ends the phase.
type validation struct {
	since  ticks        // when the nonvalidated phase began, 0: validated
	turned ticks        // when newer began
	paced  ticks        // until when a restart is paced, 0: it is not
	srtt   uint32       // microseconds, 0: not known
	low    seqnum.Value // snd.una before the acknowledgment that the round under way began with
	high   seqnum.Value // snd.nxt then; low: none is under way, as nothing was left in flight
	newer  uint32       // octets acknowledged in a round, the most of them in this half of the sampling period
	older  uint32       // and in the half before
	lossy  uint32       // octets in use when a loss came in the nonvalidated phase, less those lost since, until that is repaired; 0: it did not
	known  bool         // pipeACK is not undefined
}

// ticks are milliseconds of a clock, modulo 2^32.
type ticks uint32

func ticksAt(t mono.Time) ticks { return ticks(t.Milliseconds()) }

// after is how long after u t is, 0 when it is before it.
func (t ticks) after(u ticks) time.Duration {
	return time.Duration(max(int32(t-u), 0)) * time.Millisecond
}

const (
	nonvalidatedPeriod = 5 * time.Minute // NVP, RFC 7661, section 4.4
	longestRTT         = time.Minute     // that is believed
	longestSilence     = 24 * time.Hour  // that counts
)

// sampling is the pipeACK Sampling Period (section 4.2).
func (v *validation) sampling() time.Duration {
	return max(3*v.rtt(), time.Second)
}

// rtt is the smoothed round-trip time.
func (v *validation) rtt() time.Duration {
	return min(time.Duration(v.srtt)*time.Microsecond, longestRTT)
}

// pipeACK is the volume of data acknowledged in a round trip, the most of late
// (section 4.2).
func (v *validation) pipeACK() uint32 { return max(v.newer, v.older) }

// most is how much was in flight at most in this round.
func (v *validation) most(before uint32) uint32 { return max(before, uint32(v.high-v.low)) }

// validate takes in an acknowledgment.
func (g *congestion) validate(s sample) {
	v := &g.use
	v.srtt = micros(s.srtt)
	if v.paced != 0 && int32(ticksAt(s.now)-v.paced) >= 0 {
		g.pacing, v.paced = 0, 0
	}
	if s.recovering { // section 4.2: no samples of a time of loss
		v.low, v.high = s.una, s.nxt
		return
	}
	v.turn(s.now)
	if s.una.Less(v.high) {
		return
	}
	if n := s.una.Sub(v.low); n <= unlimited && v.low != v.high {
		v.newer, v.known = max(v.newer, n), true
	}
	v.low, v.high = s.una-seqnum.Value(s.acked), s.nxt
	if s.una == s.nxt {
		v.low = v.high
	}
	g.look(s.now)
}

// lose notes what is lost in a recovery, which is sent again in it: R of
// section 4.4.1.
func (v *validation) lose(s sample) {
	if v.lossy > 0 {
		v.lossy = max(v.lossy-min(s.lost, v.lossy), 1)
	}
}

// turn forgets samples that are older than the sampling period; those between
// that and the half of it may be forgotten.
func (v *validation) turn(now mono.Time) {
	switch gap := ticksAt(now).after(v.turned); {
	case gap >= v.sampling():
		v.newer, v.older, v.turned = 0, 0, ticksAt(now)
	case gap >= v.sampling()/2:
		v.newer, v.older, v.turned = 0, v.newer, ticksAt(now)
	}
}

// look decides the phase (section 4.3), and adjusts a window that was not
// validated for long (section 4.4.2).
func (g *congestion) look(now mono.Time) {
	v := &g.use
	if !v.known || g.inUse(v.pipeACK()) {
		v.since = 0
		return
	}
	if v.since == 0 {
		v.since = max(ticksAt(now), 1)
	}
	initial := initialWindow * g.mss
	for ticksAt(now).after(v.since) >= nonvalidatedPeriod && g.cwnd > initial && !g.controlled() {
		if g.ssthresh < unlimited {
			g.ssthresh = max(g.ssthresh, g.cwnd/4*3)
		}
		g.cwnd = max(g.cwnd/2, initial)
		v.since += ticks(nonvalidatedPeriod.Milliseconds())
	}
}

// inUse reports whether octets in a round trip validate the window (section 4.3).
func (g *congestion) inUse(octets uint32) bool { return 2*uint64(octets) >= uint64(g.cwnd) }

// idle is called when data is to be sent with nothing in flight, since the
// last was sent.
func (g *congestion) idle(now mono.Time, since, rto time.Duration) {
	if g.algorithm == nil {
		return
	}
	if since > rto && !g.controlled() {
		g.resume(now, since)
	}
	g.tell(now, restarted)
}

// resume is sending after a silence. Nothing was acknowledged in it, so
// pipeACK is 0 once the sampling period is over.
func (g *congestion) resume(now mono.Time, since time.Duration) {
	v := &g.use
	if since >= v.sampling() {
		v.newer, v.older, v.known, v.turned = 0, 0, true, ticksAt(now)
		if v.since == 0 {
			v.since = max(ticksAt(now.Add(-min(since, longestSilence))), 1)
		}
	}
	g.look(now)
	if v.srtt == 0 { // no way to pace
		g.cwnd = min(g.cwnd, initialWindow*g.mss)
		return
	}
	if g.cwnd > initialWindow*g.mss {
		g.pacing, v.paced = max(rate(g.cwnd, v.rtt()), 1), max(ticksAt(now.Add(v.rtt())), 1)
	}
}

// invalidated prepares a reduction: it begins at what was in use, when that is
// less than half of the window (section 4.4.1). The RFC then halves it; here
// the algorithm does what it does to a window.
func (g *congestion) invalidated(flight uint32, e happening) {
	v := &g.use
	used := max(v.pipeACK(), flight, g.mss)
	v.lossy = 0
	if g.controlled() || !v.known || g.inUse(used) {
		return
	}
	g.cwnd = used
	if e == beganRecovery {
		v.lossy = used
	}
}

// revalidate is the end of a reduction. After a loss in the nonvalidated phase
// the window gives up what had to be sent again (section 4.4.1). pipeACK is undefined
// then, so that the window counts as validated until it is measured again.
func (g *congestion) revalidate(e happening) {
	v := &g.use
	if e == ended && v.lossy > 0 {
		g.cwnd = min(g.cwnd, max(v.lossy/2, 2*g.mss))
	}
	v.newer, v.older, v.known, v.since, v.lossy = 0, 0, false, 0, 0
}

// controlled reports whether the algorithm sets window and pacing by itself.
func (g *congestion) controlled() bool {
	_, ok := g.algorithm.(controller)
	return ok
}

// rate is octets in d as octets a second.
func rate(octets uint32, d time.Duration) uint64 {
	return uint64(octets) * uint64(time.Second) / uint64(max(d, 1))
}
