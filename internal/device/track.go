package device

import (
	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

// maxTracked is the most payload, in octets, that a passed direction keeps
// copies of: above Linux's largest default window (tcp_rmem), so that only a
// sender whose acknowledgements take another way meets it.
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
	window     uint16       // the last window field of the receiver, and
	windowAt   seqnum.Value // the acknowledgement that it came with
	windowed   bool
	fin        bool // the sender has sent its FIN
	held       []frame.Span
	octets     uint32 // in held
}

// sent notes a data segment of the sender and keeps a reference to what of
// its payload is new.
func (t *track) sent(seq seqnum.Value, payload frame.Span, fin bool) {
	end := seq.Add(payload.Len)
	if fin {
		t.fin = true
	}
	if payload.Len == 0 {
		if t.seen && fin && seq == t.nxt {
			t.nxt = t.nxt.Add(1)
		}
		return
	}
	switch {
	case !t.seen, t.nxt.Less(seq):
		t.restart(seq) // octets before went by unseen
	case end.LessEq(t.nxt):
		return // sent before
	}
	skip := t.nxt.Sub(seq)
	keep := payload.Slice(skip, payload.Len-skip)
	keep.Buf.Retain()
	t.held = append(t.held, keep)
	t.octets += keep.Len
	t.nxt = end
	if fin {
		t.nxt = t.nxt.Add(1)
	}
	if t.octets > maxTracked {
		t.restart(t.nxt)
	}
	if t.told {
		t.advance(t.una)
	}
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
		t.octets -= t.held[n].Len
		t.held[n].Buf.Release()
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
func (t *track) covered() bool { return t.seen && t.told && t.lo.LessEq(t.una) }

// release gives all copies back.
func (t *track) release() {
	for _, s := range t.held {
		s.Buf.Release()
	}
	clear(t.held)
	t.held, t.octets = t.held[:0], 0
}
