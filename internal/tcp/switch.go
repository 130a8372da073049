package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// SetCongestion makes c use the congestion control of this name, one that it
// Supports. The window stays, what the one before knew of the path is forgotten
// (Linux tcp_reinit_congestion_control). It reports false, and does nothing,
// while a loss is being repaired.
func (c *Conn) SetCongestion(now mono.Time, name string) bool {
	if !Supports(name) || !c.live || c.cc.algorithm == nil || c.loss.phase != open {
		return false
	}
	s := tcb.Snapshot{
		SndUna: c.snd.una, SndNxt: c.snd.nxt, MSS: c.cc.mss,
		SRTT: c.rtt.srtt, MinRTT: c.rtt.min,
	}
	g := &c.cc
	g.algorithm = algorithms[name]()
	g.priorCwnd, g.priorSsthresh, g.pacing = 0, 0, 0
	g.use = validation{srtt: micros(max(s.SRTT, 0)), low: s.SndUna, high: s.SndNxt}
	g.algorithm.load(g, now, &s)
	c.ecn.control(name)
	return true
}

// control follows a change of the congestion control: DCTCP's receiver tells of
// marks in its own way (RFC 8257, section 3.2).
func (e *ecnState) control(name string) {
	switch is := name == "dctcp" && e.on; {
	case is && e.dctcp == nil:
		e.dctcp = &changes{ce: e.echo}
	case !is:
		e.dctcp = nil
	}
}
