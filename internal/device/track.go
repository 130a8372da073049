package device

import (
	"toehold/internal/frame"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// maxTracked is the most memory, in octets of buffers, that a passed direction
// keeps copies in: above Linux's largest default window (tcp_rmem), so that
// only a sender whose acknowledgements take another way meets it.
const maxTracked = 34 << 20

// A track follows one direction of a connection that the device only passes:
// what the sender has sent, what the receiver has acknowledged, and copies of
// what lies between, as far as the device saw it go by.
//
// It keeps these promises:
//  1. una is not after nxt, once both are known.
//  2. held covers the octets from lo to nxt, less a FIN, without a gap.
//  3. lo is not before una while octets are held.
type track struct {
	seen, told bool         // lo and nxt are known; una is
	una        seqnum.Value // acknowledged by the receiver
	lo, nxt    seqnum.Value
	fin        bool // the sender has sent its FIN
	held       []frame.Span
	octets     uint32 // in held
	memory     int    // octets of held's buffers

	window   uint16       // the last window field of the receiver, and
	windowAt seqnum.Value // the acknowledgement that it came with
	windowed bool
	edge     seqnum.Value // right edge of the receiver's window before that
	edged    bool

	sacked scoreboard // what the receiver has of lo to nxt after a gap

	claim   seqnum.Value // the receiver acknowledged this, which was not seen to be sent
	claimed bool
}

// sent notes a segment of the sender and keeps a reference to what of its
// payload is new.
func (t *track) sent(seq seqnum.Value, payload frame.Span, fin bool) {
	end := seq.Add(payload.Len)
	if fin && !(t.seen && end.Less(t.nxt)) {
		t.fin = true
	}
	if !t.seen || t.nxt.Less(seq) {
		t.restart(seq) // octets before went by unseen
	}
	if t.nxt.Less(end) {
		t.keep(payload, t.nxt.Sub(seq))
		t.nxt = end
	}
	if t.fin && t.nxt == end && fin {
		t.nxt = t.nxt.Add(1)
	}
	if t.memory > maxTracked {
		t.restart(t.nxt)
	}
	if t.claimed && t.claim.LessEq(t.nxt) {
		t.claimed = false
		t.advance(t.claim)
	} else if t.told {
		t.advance(t.una)
	}
}

// keep appends the payload from skip on.
func (t *track) keep(payload frame.Span, skip uint32) {
	s := payload.Slice(skip, payload.Len-skip)
	s.Buf.Retain()
	t.held = append(t.held, s)
	t.octets += s.Len
	t.memory += s.Buf.Cap()
}

// restart forgets the copies and begins to cover at seq.
func (t *track) restart(seq seqnum.Value) {
	t.release()
	t.seen, t.lo, t.nxt = true, seq, seq
}

// acked notes the receiver's acknowledgement and window field.
func (t *track) acked(ack seqnum.Value, window uint16) {
	if !t.windowed || t.windowAt.LessEq(ack) {
		t.windowed, t.window, t.windowAt = true, window, ack
	}
	t.advance(ack)
}

// claims notes an acknowledgement of what was not seen to be sent. The sender
// may have sent it while its flow was being steered: then its next segment
// shows it. Until then nothing is covered, and whoever made it up has gained
// nothing.
func (t *track) claims(ack seqnum.Value) {
	if !t.claimed || t.claim.Less(ack) {
		t.claim, t.claimed = ack, true
	}
}

// advance moves una to ack and lets go what that covers.
func (t *track) advance(ack seqnum.Value) {
	if t.told {
		ack = seqnum.Max(ack, t.una)
	}
	t.told, t.una = true, ack
	if !t.seen {
		return
	}
	if t.nxt.Less(ack) { // more than went by here: all of that is with the receiver
		t.restart(ack)
		return
	}
	n := 0
	for ; n < len(t.held) && t.lo.Add(t.held[n].Len).LessEq(t.una); n++ {
		t.lo = t.lo.Add(t.held[n].Len)
		t.drop(t.held[n])
	}
	if n > 0 {
		t.held = append(t.held[:0], t.held[n:]...)
	}
	if len(t.held) > 0 && t.lo.Less(t.una) {
		cut := t.una.Sub(t.lo)
		t.held[0] = t.held[0].Slice(cut, t.held[0].Len-cut)
		t.octets -= cut
		t.lo = t.una
	}
	if len(t.held) == 0 {
		t.lo = t.nxt
	}
}

func (t *track) drop(s frame.Span) {
	t.octets -= s.Len
	t.memory -= s.Buf.Cap()
	s.Buf.Release()
}

// settle merges what the kernel told after the flow was steered: the sender
// had sent up to nxt, the receiver acknowledged up to una. Octets before nxt
// that did not go by here are covered only by their acknowledgement.
func (t *track) settle(una, nxt seqnum.Value) {
	if !t.seen || t.nxt.Less(nxt) {
		t.restart(nxt)
	}
	t.advance(una)
}

// covered reports that the device has a copy of all that the receiver has not
// acknowledged.
func (t *track) covered() bool {
	return t.seen && t.told && !t.claimed && t.lo.LessEq(t.una)
}

// finished reports that the sender has closed and the receiver knows it.
func (t *track) finished() bool { return t.fin && t.una == t.nxt }

// rightEdge is the right edge of the receiver's window, whose field has this
// shift: as its last segment said, or as known before, or fallback.
func (t *track) rightEdge(shift uint8, fallback seqnum.Value) seqnum.Value {
	switch {
	case t.windowed:
		fallback = t.windowAt.Add(uint32(t.window) << shift)
	case t.edged:
		fallback = t.edge
	}
	if !t.una.LessEq(fallback) || fallback.Sub(t.una) > tcb.MaxWindow {
		return t.una
	}
	return fallback
}

// surrender gives the references to the copies away.
func (t *track) surrender() {
	t.held, t.octets, t.memory = nil, 0, 0
}

// release gives all copies back.
func (t *track) release() {
	for _, s := range t.held {
		t.drop(s)
	}
	clear(t.held)
	t.held = t.held[:0]
}
