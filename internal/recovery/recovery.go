// Package recovery says what the socket of a bypassed connection has to be when it
// comes home, from what the host has kept: with the device's help or without it. It
// is pure: the driver's surgeon and the simulations use the same.
package recovery

import (
	"fmt"
	"slices"

	"toehold/internal/abi"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// A Socket is the part of a socket's state that a bypass lets fall behind: before
// Reckon as the kernel has it, in its own sequence numbers, after it in the wire's.
type Socket struct {
	SndUna uint32   // sequence number of the first octet of Sent
	RcvNxt uint32   // of the next octet from the peer
	Sent   [][]byte // sent and not acknowledged
	Unsent [][]byte // what follows Sent
	Unread [][]byte // received and not read by the program

	SndWnd, SndWL1, MaxWnd uint32 // octets, scaled; sequence number
	RcvWnd, RcvWup         uint32 // the peer may send RcvWnd octets from RcvWup on
}

// A Kept is what the host has of a bypassed connection when nothing moves any more:
// the program is frozen, the device has parted or is dead.
type Kept struct {
	ID       abi.HWID
	Ledger   abi.LedgerPart
	Hardware *abi.HardwarePart // nil: the device has died in the middle of writing it
	Taken    uint64            // octets that were received from C, whatever the ledger says
	Given    uint64            // octets that the peer has sent and the program is to have got
	Ring     []byte            // abi.RingSize octets
	Waiting  []byte            // what is in C
	Unread   []byte            // what the program has not read
}

// Reckon makes of S as it was what it has to be (docs/CRASH.md). The octets stay where
// they are: in the ring, and in S's old queues. An error means that what the device has
// written makes no sense; S is unchanged then.
func (k *Kept) Reckon(s *Socket) error {
	if k.Ledger.HWID != k.ID {
		k.early(s)
		return nil
	}
	l := &k.Ledger
	una, start := seqnum.Value(l.SndUna), seqnum.Value(l.SndStart)
	// What was received from the channel is in the ring, entered or not.
	end := seqnum.Value(l.HostNxt).Add(uint32(k.Taken))
	if !start.LessEq(end) || !una.LessEq(end) || end.Sub(seqnum.Max(una, start)) > abi.RingSize {
		return fmt.Errorf("the ledger makes no sense: %+v, %d octets taken", *l, k.Taken)
	}
	queue := slices.Concat(slices.Concat(s.Sent, s.Unsent)...) // S's own, from its SndUna on
	first := seqnum.Value(s.SndUna)
	var sent [][]byte
	if una.Less(start) { // from before the divert: S has it
		from, to := una.Sub(first), start.Sub(first)
		if from > to || int(to) > len(queue) {
			return fmt.Errorf("its own queue has %d octets from %d on, and not those from %d to %d", len(queue), first, una, start)
		}
		sent = append(sent, queue[from:to])
	}
	sent = append(sent, around(k.Ring, seqnum.Max(una, start), end)...)
	beyond := seqnum.Value(l.HostNxt).Sub(first)
	if int(beyond) > len(queue) {
		return fmt.Errorf("its own queue has %d octets from %d on, and was taken up to %d", len(queue), first, l.HostNxt)
	}
	s.Sent, s.Unsent, s.Unread = sent, [][]byte{k.Waiting, queue[beyond:]}, [][]byte{k.Unread}
	k.windows(s)
	return nil
}

// early is Reckon when the device died before it had begun: what is in C was sent when
// S's own queue was empty, and before what is in that.
func (k *Kept) early(s *Socket) {
	s.Unread = [][]byte{k.Unread}
	if len(k.Waiting) > 0 {
		s.Sent, s.Unsent = nil, slices.Concat([][]byte{k.Waiting}, s.Sent, s.Unsent)
	}
}

// windows moves S to the wire's sequence numbers.
func (k *Kept) windows(s *Socket) {
	una := seqnum.Value(k.Ledger.SndUna)
	peerEdge, room := una.Add(s.SndWnd), s.RcvWnd // S's own RcvWup is of before the bypass
	nxt := seqnum.Value(k.Ledger.RcvStart + uint32(k.Given))
	if h := k.Hardware; h != nil {
		peerEdge = seqnum.Value(h.SndUna).Add(h.SndWnd)
		room = distance(nxt, seqnum.Value(h.RcvAcked).Add(h.RcvWnd))
	}
	s.SndUna, s.RcvNxt = k.Ledger.SndUna, uint32(nxt)
	s.SndWnd, s.SndWL1 = distance(una, peerEdge), s.RcvNxt
	s.MaxWnd = max(s.MaxWnd, s.SndWnd)
	s.RcvWup, s.RcvWnd = s.RcvNxt, min(room, tcb.MaxWindow)
}

// distance is how far to is after from, 0 if it is not.
func distance(from, to seqnum.Value) uint32 {
	if to.LessEq(from) {
		return 0
	}
	return min(to.Sub(from), tcb.MaxWindow)
}

// around is what the ring has from one sequence number to another, in pieces.
func around(ring []byte, from, to seqnum.Value) [][]byte {
	size := uint32(len(ring))
	at, n := uint32(from)%size, to.Sub(from)
	switch {
	case n == 0:
		return nil
	case at+n <= size:
		return [][]byte{ring[at : at+n]}
	}
	return [][]byte{ring[at:], ring[:at+n-size]}
}
