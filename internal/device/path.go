package device

import (
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/tcp"
)

// publishPath writes what the program's TCP_INFO tells of the path and of what
// is on it.
func (c *conn) publishPath(now mono.Time, h *abi.HardwarePart, m *tcp.Metrics) {
	h.MinRTT, h.MSS, h.PacingRate = m.MinRTT, m.MSS, m.PacingRate
	h.Unacked, h.Sacked, h.Lost, h.Resent = m.Unacked, m.Sacked, m.Lost, m.Resent
	h.DeliveryRate = c.rate.measure(now, m.Delivered, m.Unacked > 0, time.Duration(m.SRTT)*time.Microsecond)
}

// A deliveryRate measures how fast octets are delivered, over a round trip at
// least. When there is nothing to deliver it stays what it was.
type deliveryRate struct {
	octets uint64    // delivered
	since  mono.Time // when they were, or when there was last nothing to deliver
	last   uint64    // octets/s
}

// shortRound is the least time measured over: what leaves and is acknowledged
// in bursts says nothing over less.
const shortRound = time.Millisecond

func (r *deliveryRate) measure(now mono.Time, delivered uint64, more bool, round time.Duration) uint64 {
	took := now.Sub(r.since)
	switch {
	case r.since == 0 || delivered < r.octets: // an engine's first
		r.octets, r.since = delivered, now
	case delivered == r.octets && !more:
		r.since = now
	case delivered > r.octets && took >= max(round, shortRound):
		r.last = uint64(float64(delivered-r.octets) / took.Seconds())
		r.octets, r.since = delivered, now
	}
	return r.last
}
