package device

import (
	"time"

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
	h.HWID, h.Place, h.Attachment = c.id, c.place, abi.AttachShadow
	h.CongestionControl = [16]byte{}
	copy(h.CongestionControl[:], c.control)
	ssthresh, recovery := h.Ssthresh, h.Recovery
	if c.place == abi.PlaceOwned {
		d.count(c)
		c.publishOwned(h)
	} else {
		h.SndUna, h.SndNxt = uint32(c.out.una), uint32(c.out.nxt)
		h.RcvNxt, h.RcvAcked = uint32(c.in.nxt), uint32(c.in.una)
		h.HeldOut, h.HeldIn = c.out.octets, c.in.octets
		h.Cwnd, h.Ssthresh = c.left.cwnd, c.left.ssthresh
		h.Recovery = 0
		publishTraffic(h, c.base)
	}
	d.publishPrivate(now, c, h, h.Ssthresh != ssthresh || h.Recovery != recovery)
	shm.End(&h.Sequence)
}

func (c *conn) publishOwned(h *abi.HardwarePart) {
	m := c.metrics()
	h.State, h.Recovery = uint8(m.State), uint8(m.Recovery)
	h.SndUna, h.SndNxt = uint32(c.wire.SndUna()), uint32(c.wire.SndNxt())
	h.RcvNxt, h.RcvAcked = uint32(c.wire.RcvNxt()), uint32(c.wire.RcvAcked())
	h.SndWnd = c.wire.SndEdge().Sub(c.wire.SndUna())
	h.RcvWnd, h.Attachment = c.host.SndEdge().Sub(c.host.SndUna()), c.attachment()
	if c.bypassed() {
		h.RcvWnd = m.RcvWnd
	}
	h.SRTT, h.RTTVar, h.RTO = m.SRTT, m.RTTVar, m.RTO
	h.Cwnd, h.Ssthresh = m.Cwnd, m.Ssthresh
	h.HeldOut, h.HeldIn = m.HeldOut, m.HeldIn
	c.publishPath(h, &m)
	publishTraffic(h, c.traffic())
}

// privateEvery is how old the private state may get that is published of a
// connection at work: what is made with every acknowledgment is for the case
// that the device dies. What comes home brings the latest.
const privateEvery = 100 * time.Millisecond

// publishPrivate writes the private state of the congestion control: of an
// engine at work now and then, and when it has reduced its window; of the one
// that was there last once.
func (d *Device) publishPrivate(now mono.Time, c *conn, h *abi.HardwarePart, reduced bool) {
	at, state := c.left.at, &c.private
	switch {
	case c.place == abi.PlaceOwned && !reduced && c.published != 0 && now.Sub(c.published) < privateEvery:
		return
	case c.place == abi.PlaceOwned:
		c.wire.Congestion(now, &d.rest)
		at, state = now, &d.rest.CCState
	case at == 0: // what the block has is of the connection before
		h.PrivateAt = 0
		return
	case at == c.published:
		return
	}
	c.published, h.PrivateAt = at, uint64(at)
	h.BBR, h.Cubic = bbrOf(&state.BBR), cubicOf(&state.Cubic)
}

func (c *conn) metrics() tcp.Metrics {
	var m tcp.Metrics
	c.wire.Metrics(&m)
	if c.by != nil {
		m.HeldIn -= c.by.given
	}
	return m
}

// traffic is what the engine towards the peer, and those before it, have done.
func (c *conn) traffic() abi.Traffic {
	s := c.wire.Stats()
	return c.base.Plus(abi.Traffic{
		BytesSent: s.BytesOut, BytesReceived: s.BytesIn, SegsSent: s.SegsOut,
		SegsReceived: s.SegsIn, Retransmits: s.Retransmits, BytesResent: s.BytesResent, OutOfOrder: s.OutOfOrder,
	})
}

// count adds to the device's sum what an owned c has done since the last time.
func (d *Device) count(c *conn) {
	now := c.traffic()
	d.traffic = d.traffic.Plus(now.Minus(c.counted))
	c.counted = now
}

// keepCounters is for an engine that ends.
func (d *Device) keepCounters(c *conn) {
	d.count(c)
	c.base = c.counted
}

func publishTraffic(h *abi.HardwarePart, t abi.Traffic) {
	h.BytesSent, h.BytesReceived = t.BytesSent, t.BytesReceived
	h.SegsSent, h.SegsReceived = t.SegsSent, t.SegsReceived
	h.Retransmits, h.BytesResent, h.OutOfOrder = t.Retransmits, t.BytesResent, t.OutOfOrder
}
