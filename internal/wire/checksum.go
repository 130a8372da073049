package wire

import (
	"encoding/binary"
	"math/bits"

	"toehold/internal/flow"
	"toehold/internal/frame"
)

// VerifyChecksum checks the IPv4 header's checksum, and TCP's unless the
// kernel vouches for it: by NeedsCsum (the frame never was on a wire), by
// DataValid, or by having merged segments, which it does only to valid ones.
// p is what Parse made of buf.B[:n] when it said OK.
func VerifyChecksum(buf *frame.Buf, n int, p *Packet) bool {
	if p.End > n || p.End > len(buf.B) {
		return false
	}
	if p.Key.Family == 4 && fold(sum(buf.B[p.IPOff:p.TCPOff], 0)) != 0xffff {
		return false
	}
	if p.VNet.Flags&(NeedsCsum|DataValid) != 0 || p.VNet.GSOType != GSONone {
		return true
	}
	length := p.End - p.TCPOff
	return fold(sum(buf.B[p.TCPOff:p.End], pseudo(&p.Key, length))) == 0xffff
}

// pseudo is the unfolded sum of the pseudo-header (RFC 9293, section 3.1;
// RFC 8200, section 8.1) of a segment of length octets with its header.
func pseudo(k *flow.Key, length int) uint64 {
	return addresses(k) + protoTCP + uint64(length)
}

// addresses is the part of the pseudo-header that a flow keeps, folded. The
// unused octets of an IPv4 key are zero, so both families are summed whole.
func addresses(k *flow.Key) uint64 {
	return uint64(fold(sum(k.Local[:], sum(k.Remote[:], 0))))
}

// sum adds the 16-bit words of b to initial, in ones' complement and network
// order (RFC 1071), eight octets at a time: the folded result is the same.
func sum(b []byte, initial uint64) uint64 {
	acc, carry := initial, uint64(0)
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b), 0)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[32:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[40:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[48:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[56:]), carry)
		acc, carry = bits.Add64(acc, 0, carry)
		acc += carry
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	if len(b) == 0 {
		return acc
	}
	var last [8]byte
	copy(last[:], b)
	acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(last[:]), 0)
	return acc + carry
}

// fold reduces a sum to 16 bits.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}
