package device

import (
	"toehold/internal/abi"
	"toehold/internal/seqnum"
	"toehold/internal/shm"
	"toehold/internal/tcp"
)

func seqOf(v uint32) seqnum.Value { return seqnum.Value(v) }

// publish writes the hardware-level part of c's block.
func (d *Device) publish(c *conn) {
	h := &d.blocks[c.id.Index()].Hardware
	if c.place == abi.PlaceFree && d.slots[c.id.Index()].generation != c.id.Generation() {
		return // the slot has a new owner
	}
	shm.Begin(&h.Sequence)
	h.HWID, h.Place = c.id, c.place
	h.CongestionControl = [16]byte{}
	copy(h.CongestionControl[:], c.control)
	if c.place == abi.PlaceOwned {
		c.publishOwned(h)
	} else {
		h.SndUna, h.SndNxt = uint32(c.out.una), uint32(c.out.nxt)
		h.RcvNxt, h.RcvAcked = uint32(c.in.nxt), uint32(c.in.una)
		h.HeldOut, h.HeldIn = c.out.octets, c.in.octets
		h.Cwnd, h.Ssthresh = c.left.cwnd, c.left.ssthresh
		h.Recovery = 0
	}
	shm.End(&h.Sequence)
}

func (c *conn) publishOwned(h *abi.HardwarePart) {
	m := c.metrics()
	h.State, h.Recovery = uint8(m.State), uint8(m.Recovery)
	h.SndUna, h.SndNxt = uint32(c.wire.SndUna()), uint32(c.wire.SndNxt())
	h.RcvNxt, h.RcvAcked = uint32(c.wire.RcvNxt()), uint32(c.wire.RcvAcked())
	h.SndWnd = c.wire.SndEdge().Sub(c.wire.SndUna())
	h.RcvWnd = c.host.SndEdge().Sub(c.host.SndUna())
	h.SRTT, h.RTTVar, h.RTO = m.SRTT, m.RTTVar, m.RTO
	h.Cwnd, h.Ssthresh = m.Cwnd, m.Ssthresh
	h.HeldOut, h.HeldIn = m.HeldOut, m.HeldIn
	s, b := c.wire.Stats(), &c.base
	h.BytesSent, h.BytesReceived = b.bytesOut+s.BytesOut, b.bytesIn+s.BytesIn
	h.SegsSent, h.SegsReceived = b.sent+s.SegsOut, b.received+s.SegsIn
	h.Retransmits, h.OutOfOrder = b.retransmits+s.Retransmits, b.outOfOrder+s.OutOfOrder
}

func (c *conn) metrics() tcp.Metrics {
	var m tcp.Metrics
	c.wire.Metrics(&m)
	return m
}

// keepCounters adds the engine's counts to those of the engines before it.
func (c *conn) keepCounters() {
	s, b := c.wire.Stats(), &c.base
	b.sent += s.SegsOut
	b.received += s.SegsIn
	b.bytesOut += s.BytesOut
	b.bytesIn += s.BytesIn
	b.retransmits += s.Retransmits
	b.outOfOrder += s.OutOfOrder
}
