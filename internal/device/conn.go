package device

import (
	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// A conn is one connection on the device.
type conn struct {
	id    abi.HWID
	key   flow.Key // as the program's host sees it
	place uint8    // abi.Place...

	toPeer, toHost side

	// Passing.
	out, in              track  // S to peer, peer to S
	stampPeer, stampHost stamp  // the latest that went by
	settled              bool   // the kernel-level state is known
	stampFloor           uint32 // nothing earlier goes to the peer; valid with floored
	floored              bool
	wanted               bool      // the driver has asked to own it
	awaited              bool      // and waits for the answer
	batch                uint32    // of that request
	reowned              int       // times it was passed and owned again by itself,
	reownedAt            mono.Time // the last of them
	fragments            uint64    // in the block when c last fell out of step, or was admitted
	fragmented           bool      // some came before one of those times
	mute                 bool      // what S still has in the host port is of before it was rebuilt, in other sequence numbers

	// Owned.
	wire, host      tcp.Conn // towards the peer, towards S
	kernel          abi.KernelState
	told            mono.Time    // when kernel was so
	followed        uint64       // the block's kernel part was looked at when its sequence number was this
	hop             hop          // as the block last had it
	heardIn         uint32       // the deadHops' epoch when S was last heard
	control         string       // congestion control that the engine uses
	knew            string       // congestion control of the stack before,
	private         tcb.CCState  // and its private state
	granted         seqnum.Value // how far S may send at the most
	finOut, finIn   bool         // the FIN has been handed on: to the peer, to S
	probing         bool         // S probed; the peer's answer is owed to it
	reset           abi.Reason   // an RST is on its way, to S or to the peer
	closedSaid      bool
	gapsIn, gapsOut uint64      // segments after a gap, seen so far, of the engines
	doubted         mono.Time   // when an end was last asked about one
	base            abi.Traffic // of the engines before
	counted         abi.Traffic // what the device's sum has of c
	record          *record     // what it is judged by
	left            windows     // of the engine that was there last
	published       mono.Time   // when the private state in the block was so, 0: there is none
	rate            uint64      // octets/s delivered, as last known
	silence         deadlock

	by   *bypass // nil: S's TCP speaks with the device's
	ring *ring   // once it has been bypassed

	timer timer
	dirty bool // in the device's list of those with something to send
}

// A side is what the device needs to build frames in one direction: the
// headers as they were in the last frame that went that way.
type side struct {
	template wire.Template
	link     [wire.MaxLink]byte
	linkLen  int
	fields   fields
	known    bool
}

// fields are what of an IP header stays the same until the program changes it.
type fields struct {
	ttl, tos  uint8
	df        bool
	flowLabel uint32
}

// learn takes the headers of a frame that went in this direction, with the
// link header it is to have here; routes and neighbours change, and S's own
// frames follow them.
func (s *side) learn(p *wire.Packet, link []byte) {
	f := fields{p.TTL, p.TOS &^ 3, p.DF, p.FlowLabel}
	if s.known && s.fields == f && string(s.link[:s.linkLen]) == string(link) {
		return
	}
	s.linkLen = copy(s.link[:], link)
	s.fields, s.known = f, true
	q := *p
	q.Link = s.link[:s.linkLen]
	s.template.Set(&q)
}

// A stamp is the timestamps option of a segment.
type stamp struct {
	val, ecr uint32
	seen     bool
}

// note keeps the later of two stamps.
func (t *stamp) note(s *wire.Segment) {
	if s.TSOK && !t.after(s.TSVal) {
		*t = stamp{s.TSVal, s.TSEcr, true}
	}
}

// after reports that val is older than what is known.
func (t *stamp) after(val uint32) bool { return t.seen && int32(val-t.val) < 0 }

// windows are a congestion window and slow-start threshold in segments, and
// when they were so; zero when the connection has not been owned.
type windows struct {
	cwnd, ssthresh uint32
	at             mono.Time
}

// ready reports that the device may own c: it was asked to, it has copies of
// all that is unacknowledged both ways, and nobody is closing.
func (c *conn) ready() bool {
	return c.place == abi.PlacePassing && c.wanted &&
		c.out.covered() && c.in.covered() && !c.out.fin && !c.in.fin
}

// windows says where the right edges of both windows are.
func (c *conn) windows() (peer, program seqnum.Value) {
	k := &c.kernel
	peer = c.out.rightEdge(k.SndWscale, c.out.una.Add(k.SndWnd))
	return peer, c.in.rightEdge(k.RcvWscale, seqOf(k.RcvWup).Add(k.RcvWnd))
}

// acceptable reports whether S would take a segment of the peer (RFC 9293,
// section 3.10.7.4; RFC 5961, section 5.2; RFC 7323, section 5.3): what it
// would not take must neither become a copy that it is sent again, nor change
// what is believed of the peer.
func (c *conn) acceptable(s *wire.Segment) bool {
	const wrong = wire.RST | wire.SYN | wire.URG
	stamps := c.kernel.Flags&abi.FlagTimestamps != 0
	_, edge := c.windows()
	return c.settled && s.Flags&wire.ACK != 0 && s.Flags&wrong == 0 &&
		(!stamps || s.TSOK && !c.stampPeer.after(s.TSVal)) &&
		c.in.una.LessEq(s.Seq.Add(s.Len())) && s.Seq.LessEq(edge) &&
		c.out.una.LessEq(s.Ack.Add(tcb.MaxWindow))
}
