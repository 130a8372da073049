package device

import (
	"toehold/internal/abi"
	"toehold/internal/tcp"
)

// publishPath writes what the program's TCP_INFO tells of the path and of what
// is on it.
func (c *conn) publishPath(h *abi.HardwarePart, m *tcp.Metrics) {
	h.MinRTT, h.MSS, h.PacingRate = m.MinRTT, m.MSS, m.PacingRate
	h.Unacked, h.Sacked, h.Lost, h.Resent = m.Unacked, m.Sacked, m.Lost, m.Resent
	if m.DeliveryRate != 0 { // else what the engine before has found
		c.rate = m.DeliveryRate
	}
	h.DeliveryRate = c.rate
}
