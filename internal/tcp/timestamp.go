package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// stampState is the timestamps option (RFC 7323, section 3).
type stampState struct {
	on     bool
	offset uint32    // ms between the clock and TSval
	recent uint32    // ts.recent
	echoed uint32    // the last TSecr received
	val    uint32    // told: TSval to send
	ecr    uint32    // told: TSecr to send
	at     mono.Time // when recent was set
}

// recentLife is how long ts.recent is good for PAWS: RFC 7323, section 5.5.
const recentLife = 24 * 24 * time.Hour

func (t *stampState) restore(now mono.Time, s *tcb.Snapshot) {
	*t = stampState{
		on: s.Timestamps, offset: s.TSOffset, recent: s.TSRecent, echoed: s.TSEcr, at: now.Add(-s.TSRecentAge),
		ecr: s.TSRecent,
	}
	t.val = t.clock(now)
}

func (t *stampState) snapshot(now mono.Time, s *tcb.Snapshot) {
	s.TSRecentAge = max(now.Sub(t.at), 0)
	s.Timestamps, s.TSOffset, s.TSRecent, s.TSEcr = t.on, t.offset, t.recent, t.echoed
}

// clock is TSval at now.
func (t *stampState) clock(now mono.Time) uint32 { return uint32(now.Milliseconds()) + t.offset }

// stampAt is TSval of what this end sent at a time.
func (c *Conn) stampAt(at mono.Time) uint32 { return c.ts.clock(at) }

// old is PAWS, rule R1 of RFC 7323, section 5.3. A segment without the option
// passes, as it does with Linux, and so does any while ts.recent is 0, as of a
// socket that has just been rebuilt (tcp_paws_check).
func (t *stampState) old(now mono.Time, seg *wire.Segment) bool {
	return t.on && seg.TSOK && t.recent != 0 && int32(seg.TSVal-t.recent) < 0 && now.Sub(t.at) < recentLife
}

// observe takes the option of an acceptable segment; ts.recent only from one
// that starts at limit or before it (RFC 7323, section 4.3, rule 2).
func (t *stampState) observe(now mono.Time, seg *wire.Segment, limit seqnum.Value) {
	if !t.on || !seg.TSOK {
		return
	}
	t.echoed = seg.TSEcr
	if seg.Seq.LessEq(limit) {
		t.recent, t.at = seg.TSVal, now
	}
}

// echoBefore is where a segment must start at the latest for its timestamp to
// be echoed: the last acknowledgment sent. Acknowledging through that lags by
// the time to the other end, and what is echoed is told by the other end
// anyhow, so any segment in order counts.
func (r *recvState) echoBefore(through bool) seqnum.Value {
	if through {
		return r.nxt
	}
	return r.sentAck
}

// SetTimestamp tells the timestamps to send from now on, when Options.TSTold.
func (c *Conn) SetTimestamp(val, ecr uint32) {
	if c.told {
		c.ts.val, c.ts.ecr = val, ecr
	}
}

// fill writes the option of a segment to send.
func (t *stampState) fill(now mono.Time, seg *wire.Segment, told bool) {
	seg.TSOK = t.on
	if !t.on {
		return
	}
	if !told {
		t.val, t.ecr = t.clock(now), t.recent
	}
	seg.TSVal, seg.TSEcr = t.val, t.ecr
}
