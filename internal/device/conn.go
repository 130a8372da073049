package device

import (
	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// A conn is one connection on the device.
type conn struct {
	id    abi.HWID
	key   flow.Key // as the program's host sees it
	place uint8    // abi.Place...
	offer abi.Offer

	toPeer, toHost side

	// Passing.
	out, in              track  // S to peer, peer to S
	stampPeer, stampHost stamp  // of the last segments that went by
	wanted               bool   // the driver has asked to own it
	batch                uint32 // of that request
	reowned              int    // times it was passed and owned again by itself

	// Owned.
	wire, host      tcp.Conn // towards the peer, towards S
	kernel          abi.KernelState
	finOut, finIn   bool // the FIN has been handed on: to the peer, to S
	probing         bool // S probed; the peer's answer is owed to it
	resetIn         bool // an RST is on its way to S
	closedSaid      bool
	gapsIn, gapsOut uint64    // segments after a gap, seen so far, of the engines
	doubted         mono.Time // when an end was last asked about one
	base            counters

	timer timer
	dirty bool // in the device's list of those with something to send
}

// A side is what the device needs to build frames in one direction: the
// headers as they were in the last frame that went that way.
type side struct {
	template wire.Template
	link     [wire.MaxLink]byte
	linkLen  int
	ttl, tos uint8
	known    bool
}

// learn takes the headers of a frame that went in this direction, with the
// link header it is to have here; routes and neighbours change, and S's own
// frames follow them.
func (s *side) learn(p *wire.Packet, link []byte) {
	if s.known && s.ttl == p.TTL && s.tos == p.TOS && string(s.link[:s.linkLen]) == string(link) {
		return
	}
	s.linkLen = copy(s.link[:], link)
	s.ttl, s.tos, s.known = p.TTL, p.TOS, true
	q := *p
	q.Link = s.link[:s.linkLen]
	s.template.Set(&q)
}

// A stamp is the timestamps option of a segment.
type stamp struct {
	val, ecr uint32
	seen     bool
}

func (t *stamp) note(s *wire.Segment) {
	if s.TSOK {
		*t = stamp{s.TSVal, s.TSEcr, true}
	}
}

// counters are the segment counts of engines that a connection has had.
type counters struct {
	sent, received, retransmits, outOfOrder, bytesOut, bytesIn uint64
}

// ready reports that the device may own c: it was asked to, it has copies of
// all that is unacknowledged both ways, and nobody is closing.
func (c *conn) ready() bool {
	return c.place == abi.PlacePassing && c.wanted &&
		c.out.covered() && c.in.covered() && !c.out.fin && !c.in.fin
}

// windows says where the right edges of both windows are.
func (c *conn) windows() (peer, program seqnum.Value) {
	peer = c.out.una.Add(c.kernel.SndWnd)
	if c.out.windowed {
		peer = c.out.windowAt.Add(uint32(c.out.window) << c.kernel.SndWscale)
	}
	program = c.in.una.Add(c.kernel.RcvWnd)
	if c.in.windowed {
		program = c.in.windowAt.Add(uint32(c.in.window) << c.kernel.RcvWscale)
	}
	return seqnum.Max(peer, c.out.una), seqnum.Max(program, c.in.una)
}
