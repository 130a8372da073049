package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/wire"
)

// autotune grows the receive buffer to twice what the program takes in a round
// trip, so that it is never what limits the sender (dynamic right-sizing; as
// Linux, tcp_rcv_space_adjust). It never shrinks it.
type autotune struct {
	limit   uint32        // octets, the largest buffer
	space   uint32        // octets taken in the busiest round trip so far
	rtt     time.Duration // as the receiver sees it, 0: not measured
	taken   seqnum.Value  // what the program had taken when the round trip began
	began   mono.Time
	echo    uint32       // TSecr that was measured with last
	edge    seqnum.Value // without timestamps: a round trip is over when this is received
	edgeAt  mono.Time    // since then
	started bool
}

// tune begins to tune the buffer when it may grow.
func (r *recvState) tune(o Options, mss uint32, through bool) {
	if !through && o.RcvBufMax > r.buffer {
		r.auto = &autotune{limit: o.RcvBufMax, space: initialWindow * mss, taken: r.nxt}
	}
}

// measureRTT takes a round trip from a segment with payload.
func (c *Conn) measureRTT(now mono.Time, seg *wire.Segment) {
	a := c.rcv.auto
	switch {
	case a == nil:
	case c.ts.on && !c.told:
		if seg.TSOK && seg.TSEcr != a.echo && seg.Payload.Len >= uint32(c.rcv.delack.segment) {
			a.echo = seg.TSEcr
			a.smooth(c.ts.since(now, seg.TSEcr))
		}
	default:
		a.window(now, &c.rcv)
	}
}

// since is how long ago TSval ecr was sent, in steps of the clock, 1 ms at
// least; 0 when it never was.
func (t *stampState) since(now mono.Time, ecr uint32) time.Duration {
	ms := int32(t.clock(now) - ecr)
	if ms < 0 {
		return 0
	}
	return time.Duration(max(ms, 1)) * time.Millisecond
}

// smooth averages a sample that is a round trip plus what the sender waited
// (Linux tcp_rcv_rtt_update).
func (a *autotune) smooth(m time.Duration) {
	switch {
	case m == 0:
	case a.rtt == 0:
		a.rtt = m
	default:
		a.rtt += (m - a.rtt) / 8
	}
}

// window takes the time in which a window of octets came: a round trip or more,
// so the shortest counts (Linux tcp_rcv_rtt_measure).
func (a *autotune) window(now mono.Time, r *recvState) {
	switch {
	case !a.started:
	case r.nxt.Less(a.edge):
		return
	default:
		if m := max(now.Sub(a.edgeAt), time.Microsecond); a.rtt == 0 || m < a.rtt {
			a.rtt = m
		}
	}
	a.started, a.edge, a.edgeAt = true, seqnum.Max(r.edge, r.nxt+1), now
}

// taken takes in that the program has taken octets.
func (c *Conn) taken(now mono.Time) {
	r := &c.rcv
	if a := r.auto; a != nil && a.rtt > 0 && now.Sub(a.began) >= a.rtt {
		r.buffer = max(r.buffer, a.adjust(now, r.nxt-seqnum.Value(r.held), c.snd.mss))
	}
	r.windowNews()
}

// adjust ends a round trip and returns the buffer that what was taken in it
// asks for: twice that, so that the sender can double its window, and as it grew
// as much again, at most: the sender is ahead by a round trip. (In Linux this
// step has no bound, and a slow program's first round trip makes a large one.)
func (a *autotune) adjust(now mono.Time, taken seqnum.Value, mss uint32) uint32 {
	n := taken.Sub(a.taken)
	a.taken, a.began = taken, now
	if n <= a.space {
		return 0
	}
	want := 2*uint64(n) + 16*uint64(mss)
	want += want * uint64(min(n-a.space, a.space)) / uint64(max(a.space, 1))
	a.space = n
	return uint32(min(want, uint64(a.limit)))
}
