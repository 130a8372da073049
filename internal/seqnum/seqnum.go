// Package seqnum is the arithmetic of TCP sequence numbers, modulo 2^32
// (RFC 9293, section 3.4).
package seqnum

// Value is a sequence number.
type Value uint32

// Add returns v advanced by n octets.
func (v Value) Add(n uint32) Value { return v + Value(n) }

// Sub returns the distance from u to v in octets; it means something only
// when u is not after v.
func (v Value) Sub(u Value) uint32 { return uint32(v - u) }

// Less reports v < u in the sequence space.
func (v Value) Less(u Value) bool { return int32(v-u) < 0 }

// LessEq reports v <= u in the sequence space.
func (v Value) LessEq(u Value) bool { return int32(v-u) <= 0 }

// Max returns the later of two values.
func Max(a, b Value) Value {
	if a.Less(b) {
		return b
	}
	return a
}

// Min returns the earlier of two values.
func Min(a, b Value) Value {
	if a.Less(b) {
		return a
	}
	return b
}

// Range is the half-open interval [Lo, Hi).
type Range struct{ Lo, Hi Value }

// Len is the number of octets in r.
func (r Range) Len() uint32 { return r.Hi.Sub(r.Lo) }

// Empty reports whether r holds no octet.
func (r Range) Empty() bool { return !r.Lo.Less(r.Hi) }

// Contains reports whether v is in r.
func (r Range) Contains(v Value) bool { return r.Lo.LessEq(v) && v.Less(r.Hi) }
