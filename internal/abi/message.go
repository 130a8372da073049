package abi

import (
	"fmt"
	"unsafe"

	"toehold/internal/flow"
)

// Driver and device talk in messages over a SOCK_SEQPACKET unix socket. A
// message is a Header followed by Count entries of one type; numbers are in
// host order, since both ends are on one machine.
//
//	driver to device   entry     the device answers with
//	Admit              Offer     Admitted, an Answer for each, in order
//	Own                Command   Owned, an Answer for each, as each is reached
//	Pass               Command   Passing, an Answer for each
//	Release            Command   Released, an Answer for each
//	Quit               none      nothing; the device ends
//	Join               Command   Joined, an Answer for each, as each is reached
//	Divert             Command   Diverted, an Answer for each
//	Part               Command   Parted, an Answer for each
//	Resume             Command   Resumed, an Answer for each
//
// A Join carries the channels of its connections, a descriptor for each (SCM_RIGHTS).
// Joined means that S has acknowledged all that the device sent it, and that the
// device sends it nothing more; Divert, that the channel is open and what the
// peer sends goes there; Part, that the device leaves the channel alone; Resume,
// that S's TCP is in step with the wire again, by the block's kernel-level part where the
// connection was diverted.
//
// The device also sends Hello (one Greeting) first of all, and Notice (an
// Answer) for what happens by itself.
type Header struct {
	Type  Type
	Count uint16
	Batch uint32 // chosen by the driver, repeated in the answers
}

// A Type is the type of a message.
type Type uint16

// The types of message.
const (
	Hello Type = 1 + iota
	Admit
	Admitted
	Own
	Owned
	Pass
	Passing
	Release
	Released
	Notice
	Quit
	Join
	Joined
	Divert
	Diverted
	Part
	Parted
	Resume
	Resumed
)

// MaxJoins is the largest Count of a Join: a message carries no more
// descriptors (SCM_MAX_FD of include/net/scm.h).
const MaxJoins = 253

// MaxEntries is the largest Count of a message.
const MaxEntries = 256

// MaxMessage is an upper bound on the octets of any message.
const MaxMessage = int(unsafe.Sizeof(Header{})) + MaxEntries*int(unsafe.Sizeof(Offer{}))

// A Greeting is the device's first word.
type Greeting struct {
	Version  uint32
	Capacity uint32 // connections
	PID      uint32
	_        uint32
	Memory   uint64 // octets of buffers
}

// An Offer asks the device to take a connection, which it first passes.
type Offer struct {
	Key               flow.Key
	CongestionControl [16]byte
	MSS               uint32
	Flags             uint32
}

// A Command names one connection.
type Command struct {
	HWID HWID
}

// An Answer says what became of one connection. Reason None is success.
type Answer struct {
	HWID    HWID // 0: refused before it had one
	Reason  Reason
	StallNS uint32 // how long neither stack could send, of the step answered
	Bytes   uint64 // octets that the device held at that moment; of Joined, the sequence number that S is to receive next
}

// Entries is what a message may be made of.
type Entries interface {
	Greeting | Offer | Command | Answer
}

// Append writes a message to dst and returns the longer slice. It panics on
// more than MaxEntries entries, which is the caller's mistake.
func Append[E Entries](dst []byte, t Type, batch uint32, entries []E) []byte {
	if len(entries) > MaxEntries {
		panic("abi: message too long")
	}
	h := Header{t, uint16(len(entries)), batch}
	dst = append(dst, bytesOf(&h)...)
	for i := range entries {
		dst = append(dst, bytesOf(&entries[i])...)
	}
	return dst
}

// ParseHeader splits a message into its header and the octets of its entries.
func ParseHeader(msg []byte) (Header, []byte, error) {
	var h Header
	if len(msg) < int(unsafe.Sizeof(h)) {
		return h, nil, fmt.Errorf("message of %d octets has no header", len(msg))
	}
	copy(bytesOf(&h), msg)
	return h, msg[unsafe.Sizeof(h):], nil
}

// Parse appends the entries of a message to dst. The octets must be exactly
// those that the header promises.
func Parse[E Entries](dst []E, h Header, octets []byte) ([]E, error) {
	var e E
	size := int(unsafe.Sizeof(e))
	if h.Count > MaxEntries || len(octets) != int(h.Count)*size {
		return dst, fmt.Errorf("message of type %d promises %d entries of %d octets and has %d octets", h.Type, h.Count, size, len(octets))
	}
	for ; len(octets) > 0; octets = octets[size:] {
		copy(bytesOf(&e), octets)
		dst = append(dst, e)
	}
	return dst, nil
}

// bytesOf views a value without pointers as its octets.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
