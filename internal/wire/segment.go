package wire

import (
	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

// TCP header flags, as they stand in octet 13 (RFC 9293, section 3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// ECN codepoints of the IP header (RFC 3168, section 5).
const (
	NotECT = iota
	ECT1
	ECT0
	CE
)

// A Segment is a TCP segment, or a super-segment that stands for several
// consecutive ones, as an engine takes it in.
type Segment struct {
	Seq, Ack seqnum.Value
	Flags    uint8
	Window   uint16 // as on the wire, not scaled
	ECN      uint8  // codepoint of the IP header
	// TSOK says that the timestamps option is there (RFC 7323).
	TSOK         bool
	TSVal, TSEcr uint32
	SACK         [4]seqnum.Range // the first NSACK are there, in the order of the option
	NSACK        int
	// Payload is the segment's data; Payload.Buf is nil when Payload.Len is
	// 0. It carries no reference of its own: who keeps it retains it.
	Payload frame.Span
	// Size is the payload of each segment but the last of a super-segment,
	// 0 for a lone segment.
	Size uint16
}

// Len is the segment's length in sequence space (RFC 9293: SEG.LEN).
func (s *Segment) Len() uint32 {
	n := s.Payload.Len
	if s.Flags&FIN != 0 {
		n++
	}
	if s.Flags&SYN != 0 {
		n++
	}
	return n
}

// MaxPieces is the most pieces of payload that an Out is made of.
const MaxPieces = 17

// MaxSuper is the largest payload of a super-segment: with the largest
// headers it still fits an IPv4 packet of 65535 octets.
const MaxSuper = 65535 - 60 - 60

// An Out is a segment that an engine sends: a Segment whose payload is the
// first NPieces of Pieces one after the other, Payload being unused. The
// spans are borrowed and stay valid until the pool recycles.
type Out struct {
	Segment
	Pieces  [MaxPieces]frame.Span
	NPieces int
	Length  uint32 // octets in all pieces
}
