package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/wire"
)

// late is how much of what could not be sent in time, as timers have ticks, is
// made good.
const late = 2 * time.Millisecond

// mayLeave reports whether the pace lets something leave now; else Deadline is
// when it does.
func (c *Conn) mayLeave(now mono.Time) bool {
	t := &c.timer
	t.pacing = c.cc.pacing > 0 && now < t.paced && !c.snd.flushing
	return !t.pacing
}

// paceOut notes that n octets left.
func (c *Conn) paceOut(now mono.Time, n uint32) {
	if c.cc.pacing > 0 {
		took := time.Duration(uint64(n) * uint64(time.Second) / c.cc.pacing)
		c.timer.paced = max(c.timer.paced, now.Add(-late)).Add(min(took, time.Second))
	}
}

// super is the most octets of a super-segment: what leaves in about a
// millisecond at the pace, or at the one that the window allows when there is
// none, lest a queue at the bottleneck take it all at once (Linux
// tcp_tso_autosize). Over short distances it may be more.
func (c *Conn) super() uint32 {
	g := &c.cc
	pace, near := g.pacing, uint64(0)
	if pace == 0 {
		pace = g.pace(c.rtt.srtt)
		near = wire.MaxSuper >> min(c.rtt.min.Microseconds()>>9, 32)
	}
	if pace == 0 || c.snd.flushing {
		return wire.MaxSuper
	}
	return uint32(min(max(min(pace, highestRate)>>10+near, 2*uint64(c.snd.mss)), wire.MaxSuper))
}
