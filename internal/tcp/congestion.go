package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// A congestionKind is a congestion control algorithm.
type congestionKind uint8

const (
	cubicKind congestionKind = iota
	renoKind
	noKind
)

var congestionKinds = map[string]congestionKind{"": cubicKind, "cubic": cubicKind, "reno": renoKind, "none": noKind}

const (
	initialWindow = 10      // segments, RFC 6928
	unlimited     = 1 << 30 // octets
)

// congestion is the congestion window, in octets (RFC 5681).
type congestion struct {
	cwnd, ssthresh uint32 // ssthresh unlimited: never set
	mss            uint32
	credit         uint32 // octets acknowledged towards the next increase, Reno
	kind           congestionKind
	limited        bool // cwnd kept something from being sent since the last acknowledgment
	cubic          cubicState
}

func (g *congestion) restore(kind congestionKind, s *tcb.Snapshot) {
	*g = congestion{kind: kind, mss: s.MSS, cwnd: g.octets(s.Cwnd, s.MSS), ssthresh: g.octets(s.Ssthresh, s.MSS)}
	if s.Cwnd == 0 {
		g.cwnd = initialWindow * s.MSS
	}
	if s.Ssthresh == 0 || s.Ssthresh >= tcb.NoThreshold {
		g.ssthresh = unlimited
	}
	if kind == noKind {
		g.cwnd = unlimited
	}
}

func (g *congestion) snapshot(s *tcb.Snapshot) {
	s.Cwnd, s.Ssthresh = g.segments(g.cwnd), g.segments(g.ssthresh)
}

func (g *congestion) octets(segments, mss uint32) uint32 {
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

// onAck grows the window by acked octets, outside of fast recovery. A window
// that did not limit anything says nothing about the path and does not grow
// (RFC 7661; as Linux, tcp_is_cwnd_limited).
func (g *congestion) onAck(now mono.Time, acked, mss uint32, srtt time.Duration) {
	if g.kind == noKind || !g.limited {
		return
	}
	g.limited = false
	if g.cwnd < g.ssthresh {
		n := min(acked, g.ssthresh-g.cwnd)
		g.grow(n)
		acked -= n
	}
	if acked == 0 {
		return
	}
	if g.kind == cubicKind {
		g.grow(g.cubic.increase(now, acked, g.cwnd, mss, srtt))
		return
	}
	g.grow(g.renoIncrease(acked, mss))
}

func (g *congestion) grow(n uint32) { g.cwnd = min(g.cwnd+n, unlimited-1) }

// onLoss reduces the window as fast recovery begins.
func (g *congestion) onLoss(flight, mss uint32) {
	if g.kind == noKind {
		return
	}
	g.reduce(flight, mss)
	g.cwnd = g.ssthresh
}

// onTimeout reduces the window to one segment (RFC 5681, section 3.1).
func (g *congestion) onTimeout(flight, mss uint32) {
	if g.kind == noKind {
		return
	}
	g.reduce(flight, mss)
	g.cwnd = mss
}

// restart is a further timeout: the threshold stays (RFC 5681, section 3.1).
func (g *congestion) restart(mss uint32) {
	if g.kind != noKind {
		g.cwnd = mss
	}
}

// reduce sets ssthresh.
func (g *congestion) reduce(flight, mss uint32) {
	g.credit = 0
	if g.kind == cubicKind {
		g.ssthresh = g.cubic.reduce(g.cwnd, mss)
		return
	}
	g.ssthresh = renoThreshold(flight, mss)
}

// settle is the end of fast recovery.
func (g *congestion) settle() {
	if g.kind != noKind {
		g.cwnd = min(g.cwnd, g.ssthresh)
	}
}

// idle halves the window for each timeout that nothing was sent for, down to
// the initial one (RFC 5681, section 4.1; RFC 2861 as in Linux).
func (g *congestion) idle(since, rto time.Duration, mss uint32) {
	if g.kind == noKind || since <= rto {
		return
	}
	if g.ssthresh < unlimited {
		g.ssthresh = max(g.ssthresh, g.cwnd/4*3)
	}
	floor := min(initialWindow*mss, g.cwnd)
	for ; since > rto && g.cwnd > floor; since -= rto {
		g.cwnd /= 2
	}
	g.cwnd = max(g.cwnd, floor)
	g.cubic.epoch = 0
}
