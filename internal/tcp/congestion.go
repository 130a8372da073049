package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcb"
)

const (
	initialWindow = 10      // segments, RFC 6928
	unlimited     = 1 << 30 // octets
)

// An algorithm is a congestion control. It sets the window of the congestion
// that it is given, in octets, and keeps what it needs beside that in itself.
type algorithm interface {
	// observe sees every acknowledgment, in any phase, before anything is made of it.
	observe(g *congestion, s sample)
	// grow raises the window for s.acked octets. It is called outside of fast
	// recovery, and only when the window limited what was sent.
	grow(g *congestion, s sample)
	// threshold returns ssthresh in octets as a reduction begins, which e says
	// the reason of, with flight octets in flight.
	threshold(g *congestion, flight uint32, e happening) uint32
	// event tells what happened to the window beside acknowledgments.
	event(g *congestion, now mono.Time, e happening)
	// save and load cross to another stack with the connection. The state of
	// another algorithm is none of its own; a value out of range must do no
	// harm. load is called when everything else in g is set.
	save(now mono.Time, s *tcb.Snapshot)
	load(g *congestion, now mono.Time, s *tcb.Snapshot)
}

// A controller is an algorithm that sets window and pacing rate by itself with
// every acknowledgment, in recovery too (Linux tcp_congestion_ops.cong_control).
// Its grow is never called.
type controller interface {
	algorithm
	control(g *congestion, s sample)
}

// A happening is an event that an algorithm is told of.
type happening uint8

const (
	beganRecovery happening = iota // fast recovery, after threshold
	beganLoss                      // a retransmission timeout, after threshold
	beganCWR                       // a reduction for ECN, after threshold
	ended                          // of any of these, when all that was in flight is acknowledged
	undone                         // the reduction was for nothing: window and threshold are as before
	restarted                      // sending with nothing in flight (Linux CA_EVENT_TX_START)
)

// algorithms by name; nil is no congestion control, for the hop to the
// program's socket.
var algorithms = map[string]func() algorithm{
	"":      func() algorithm { return new(cubic) },
	"cubic": func() algorithm { return new(cubic) },
	"reno":  func() algorithm { return new(reno) },
	"dctcp": func() algorithm { return new(dctcp) },
	"bbr":   func() algorithm { return new(bbr) },
	"none":  func() algorithm { return nil },
}

// Supports reports whether name is a congestion control that a Conn can have
// (tcp_congestion_ops.name of the same in Linux).
func Supports(name string) bool {
	_, ok := algorithms[name]
	return ok && name != "" && name != "none"
}

// congestion is the congestion window, in octets (RFC 5681).
type congestion struct {
	cwnd, ssthresh uint32 // ssthresh unlimited: never set
	mss            uint32
	priorCwnd      uint32 // before the reduction that is under way
	priorSsthresh  uint32
	use            validation
	limited        bool   // cwnd kept something from being sent since the last acknowledgment
	pacing         uint64 // octets a second that may leave, 0: not paced
	algorithm      algorithm
}

func (g *congestion) restore(now mono.Time, a algorithm, s *tcb.Snapshot) {
	*g = congestion{algorithm: a, mss: s.MSS, cwnd: octetsOf(s.Cwnd, s.MSS), ssthresh: octetsOf(s.Ssthresh, s.MSS)}
	if s.Cwnd == 0 {
		g.cwnd = initialWindow * s.MSS
	}
	if s.Ssthresh == 0 || s.Ssthresh >= tcb.NoThreshold {
		g.ssthresh = unlimited
	}
	if a == nil {
		g.cwnd = unlimited
		return
	}
	g.use = validation{srtt: micros(max(s.SRTT, 0)), low: s.SndUna, high: s.SndNxt}
	a.load(g, now, s)
}

func (g *congestion) snapshot(now mono.Time, s *tcb.Snapshot) {
	s.Cwnd, s.Ssthresh = g.segments(g.cwnd), g.segments(g.ssthresh)
	if g.algorithm != nil {
		g.algorithm.save(now, s)
	}
}

func octetsOf(segments, mss uint32) uint32 {
	return uint32(min(uint64(segments)*uint64(mss), unlimited))
}

func (g *congestion) segments(octets uint32) uint32 {
	if octets >= unlimited {
		return tcb.NoThreshold
	}
	return max(octets/max(g.mss, 1), 1)
}

// floor follows a change of the segment size: the window holds one at least.
func (g *congestion) floor(mss uint32) {
	g.mss = mss
	g.cwnd, g.ssthresh = max(g.cwnd, mss), max(g.ssthresh, 2*mss)
}

func (g *congestion) tell(now mono.Time, e happening) {
	if g.algorithm == nil {
		return
	}
	if e == ended || e == undone {
		g.revalidate(e)
	}
	g.algorithm.event(g, now, e)
}

// observe is the first look at an acknowledgment.
func (g *congestion) observe(s sample) {
	if g.algorithm == nil {
		return
	}
	g.validate(s)
	g.algorithm.observe(g, s)
}

// control lets an algorithm that controls everything do so, and reports
// whether it is one.
func (g *congestion) control(s sample) bool {
	g.use.lose(s)
	c, ok := g.algorithm.(controller)
	if ok {
		c.control(g, s)
	}
	return ok
}

// onAck grows the window, outside of fast recovery. A window that did not
// limit anything says nothing about the path and does not grow; in slow start,
// where it runs ahead of what was sent, half of it in use will do (Linux
// tcp_is_cwnd_limited).
func (g *congestion) onAck(s sample) {
	half := g.cwnd < g.ssthresh && uint64(g.use.most(s.before))*2 > uint64(g.cwnd)
	if g.algorithm == nil || !g.limited && !half {
		return
	}
	g.limited = false
	g.algorithm.grow(g, s)
}

// pace is the rate that the window allows, in octets a second, with what it may
// grow by in a round trip; 0: not known (Linux tcp_update_pacing_rate).
func (g *congestion) pace(srtt time.Duration) uint64 {
	if g.algorithm == nil || srtt <= 0 {
		return 0
	}
	r := rate(g.cwnd, srtt)
	if g.cwnd < g.ssthresh/2 {
		return 2 * r
	}
	return r + r/5
}

// slowStart grows the window up to ssthresh and returns how many of the acked
// octets are left for congestion avoidance.
func (g *congestion) slowStart(acked uint32) uint32 {
	if g.cwnd >= g.ssthresh {
		return acked
	}
	n := min(acked, g.ssthresh-g.cwnd)
	g.raise(n)
	return acked - n
}

func (g *congestion) raise(n uint32) { g.cwnd = min(g.cwnd+min(n, unlimited), unlimited-1) }

// reduce begins a reduction: ssthresh is set, the window itself is for the
// caller to bring down.
func (g *congestion) reduce(now mono.Time, flight uint32, e happening) {
	if g.algorithm == nil {
		return
	}
	g.priorCwnd, g.priorSsthresh = g.cwnd, g.ssthresh
	g.invalidated(flight, e)
	g.ssthresh = g.algorithm.threshold(g, flight, e)
	g.tell(now, e)
}

// settle is the end of a reduction (Linux tcp_end_cwnd_reduction).
func (g *congestion) settle(now mono.Time) {
	if _, ok := g.algorithm.(controller); !ok && g.algorithm != nil && g.ssthresh < unlimited {
		g.cwnd = g.ssthresh
	}
	g.tell(now, ended)
}

// undo takes a reduction back (RFC 4015, section 3.2; Linux tcp_undo_cwnd_reduction).
func (g *congestion) undo(now mono.Time) {
	if g.algorithm == nil {
		return
	}
	g.cwnd, g.ssthresh = max(g.cwnd, g.priorCwnd), max(g.ssthresh, g.priorSsthresh)
	g.tell(now, undone)
}
