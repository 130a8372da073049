package device

import (
	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/shm"
	"toehold/internal/tcp"
)

func seqOf(v uint32) seqnum.Value { return seqnum.Value(v) }

// publish writes the hardware-level part of c's block.
func (d *Device) publish(now mono.Time, c *conn) {
	h := &d.blocks[c.id.Index()].Hardware
	if c.place == abi.PlaceFree && d.slots[c.id.Index()].generation != c.id.Generation() {
		return // the slot has a new owner
	}
	shm.Begin(&h.Sequence)
	h.HWID, h.Place = c.id, c.place
	h.CongestionControl = [16]byte{}
	copy(h.CongestionControl[:], c.control)
	if c.place == abi.PlaceOwned {
		c.publishOwned(now, h)
	} else {
		h.SndUna, h.SndNxt = uint32(c.out.una), uint32(c.out.nxt)
		h.RcvNxt, h.RcvAcked = uint32(c.in.nxt), uint32(c.in.una)
		h.HeldOut, h.HeldIn = c.out.octets, c.in.octets
		h.Cwnd, h.Ssthresh = c.left.cwnd, c.left.ssthresh
		h.Recovery = 0
		c.base.publish(h)
	}
	shm.End(&h.Sequence)
}

func (c *conn) publishOwned(now mono.Time, h *abi.HardwarePart) {
	m := c.metrics()
	h.State, h.Recovery = uint8(m.State), uint8(m.Recovery)
	h.SndUna, h.SndNxt = uint32(c.wire.SndUna()), uint32(c.wire.SndNxt())
	h.RcvNxt, h.RcvAcked = uint32(c.wire.RcvNxt()), uint32(c.wire.RcvAcked())
	h.SndWnd = c.wire.SndEdge().Sub(c.wire.SndUna())
	h.RcvWnd = c.host.SndEdge().Sub(c.host.SndUna())
	h.SRTT, h.RTTVar, h.RTO = m.SRTT, m.RTTVar, m.RTO
	h.Cwnd, h.Ssthresh = m.Cwnd, m.Ssthresh
	h.HeldOut, h.HeldIn = m.HeldOut, m.HeldIn
	c.publishPath(now, h, &m)
	sum := c.base
	sum.add(c.wire.Stats())
	sum.publish(h)
}

func (c *conn) metrics() tcp.Metrics {
	var m tcp.Metrics
	c.wire.Metrics(&m)
	return m
}

// keepCounters adds the engine's counts to those of the engines before it.
func (c *conn) keepCounters() { c.base.add(c.wire.Stats()) }

func (b *counters) add(s *tcp.Stats) {
	b.sent += s.SegsOut
	b.received += s.SegsIn
	b.bytesOut += s.BytesOut
	b.bytesIn += s.BytesIn
	b.retransmits += s.Retransmits
	b.bytesResent += s.BytesResent
	b.outOfOrder += s.OutOfOrder
}

func (b *counters) publish(h *abi.HardwarePart) {
	h.BytesSent, h.BytesReceived = b.bytesOut, b.bytesIn
	h.SegsSent, h.SegsReceived = b.sent, b.received
	h.Retransmits, h.BytesResent, h.OutOfOrder = b.retransmits, b.bytesResent, b.outOfOrder
}
