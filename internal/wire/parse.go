package wire

import (
	"encoding/binary"

	"toehold/internal/flow"
	"toehold/internal/frame"
)

const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherTag  = 0x8100 // IEEE 802.1Q
	etherQinQ = 0x88a8 // IEEE 802.1ad

	protoTCP = 6

	ipv4Len   = 20
	ipv6Len   = 40
	tcpLen    = 20
	tcpMaxLen = 60
)

// Parse reads the frame in buf.B[:n], which starts with a virtio_net_hdr and
// goes on with a link header of linkLen octets, 14 or 0, before any 802.1Q
// or 802.1ad tags. What follows the IP packet is left out. p is filled only
// as far as the verdict OK promises; the segment's payload takes no reference.
func Parse(buf *frame.Buf, n int, linkLen int, p *Packet) Verdict {
	if n > len(buf.B) || n < VNetLen+linkLen {
		return Malformed
	}
	b := buf.B[:n]
	p.VNet.Get(b)
	family, v := p.link(b, linkLen)
	if v != OK {
		return v
	}
	if family == 4 {
		v = p.ipv4(b)
	} else {
		v = p.ipv6(b)
	}
	if v != OK {
		return v
	}
	if v = p.tcp(buf); v != OK {
		return v
	}
	p.Seg.ECN = p.TOS & 3
	return p.offload(family)
}

// link finds where the IP header starts and of which family it says it is.
func (p *Packet) link(b []byte, linkLen int) (family uint8, v Verdict) {
	off := VNetLen + linkLen
	if linkLen == 0 {
		p.Link, p.IPOff = nil, off
		if n := len(b); n == off {
			return 0, Malformed
		}
		return ipVersion(b[off])
	}
	if linkLen != EtherLen {
		return 0, NotTCP
	}
	kind := binary.BigEndian.Uint16(b[off-2:])
	for tags := 0; kind == etherTag || kind == etherQinQ; tags++ {
		if tags == 2 {
			return 0, NotTCP
		}
		off += TagLen
		if len(b) < off {
			return 0, Malformed
		}
		kind = binary.BigEndian.Uint16(b[off-2:])
	}
	p.Link, p.IPOff = b[VNetLen:off:off], off
	switch kind {
	case etherIPv4:
		return 4, OK
	case etherIPv6:
		return 6, OK
	}
	return 0, NotTCP
}

func ipVersion(first byte) (uint8, Verdict) {
	switch first >> 4 {
	case 4:
		return 4, OK
	case 6:
		return 6, OK
	}
	return 0, NotTCP
}

// ipv4 reads an IPv4 header (RFC 791, section 3.1).
func (p *Packet) ipv4(b []byte) Verdict {
	h := b[p.IPOff:]
	if len(h) < ipv4Len || h[0]>>4 != 4 || h[0]&15 < 5 {
		return Malformed
	}
	if h[9] != protoTCP {
		return NotTCP
	}
	frag := binary.BigEndian.Uint16(h[6:])
	if frag&0x3fff != 0 { // offset or more fragments
		return Fragment
	}
	if h[0]&15 > 5 {
		return IPOptions
	}
	p.DF = frag&0x4000 != 0
	p.TOS, p.TTL, p.FlowLabel = h[1], h[8], 0
	p.ID = binary.BigEndian.Uint16(h[4:])
	p.Key = flow.Key{Family: 4}
	copy(p.Key.Local[:4], h[12:16])
	copy(p.Key.Remote[:4], h[16:20])
	p.TCPOff = p.IPOff + ipv4Len
	p.End = p.IPOff + int(binary.BigEndian.Uint16(h[2:]))
	if p.End > len(b) {
		return Malformed
	}
	return OK
}

// ipv6 reads an IPv6 header (RFC 8200, section 3). Any extension header in
// front of TCP, a jumbo payload's among them, is for the kernel.
func (p *Packet) ipv6(b []byte) Verdict {
	h := b[p.IPOff:]
	if len(h) < ipv6Len || h[0]>>4 != 6 {
		return Malformed
	}
	if v := nextHeader(h[6]); v != OK {
		return v
	}
	first := binary.BigEndian.Uint32(h)
	p.DF = true
	p.TOS, p.TTL, p.FlowLabel, p.ID = uint8(first>>20), h[7], first&0xfffff, 0
	p.Key = flow.Key{Family: 6}
	copy(p.Key.Local[:], h[8:24])
	copy(p.Key.Remote[:], h[24:40])
	p.TCPOff = p.IPOff + ipv6Len
	p.End = p.TCPOff + int(binary.BigEndian.Uint16(h[4:]))
	if p.End > len(b) {
		return Malformed
	}
	return OK
}

// nextHeader sorts IPv6's next header values
// (https://www.iana.org/assignments/ipv6-parameters).
func nextHeader(next byte) Verdict {
	switch next {
	case protoTCP:
		return OK
	case 44:
		return Fragment
	case 0, 43, 51, 60, 135, 139, 140:
		return IPOptions
	}
	return NotTCP
}

// tcp reads the TCP header (RFC 9293, section 3.1) at TCPOff.
func (p *Packet) tcp(buf *frame.Buf) Verdict {
	if p.End < p.TCPOff+tcpLen {
		return Malformed
	}
	h := buf.B[p.TCPOff:p.End]
	length := int(h[12]>>4) * 4
	if length < tcpLen || length > len(h) {
		return Malformed
	}
	copy(p.Key.LocalPort[:], h[0:2])
	copy(p.Key.RemotePort[:], h[2:4])
	s := &p.Seg
	s.Seq, s.Ack = be32(h[4:]), be32(h[8:])
	s.Flags = h[13]
	s.Window = binary.BigEndian.Uint16(h[14:])
	s.options(h[tcpLen:length])
	p.DataOff = p.TCPOff + length
	s.Payload = frame.Span{}
	if p.DataOff < p.End {
		s.Payload = frame.Span{Buf: buf, Off: uint32(p.DataOff), Len: uint32(p.End - p.DataOff)}
	}
	return OK
}

// offload checks the virtio_net_hdr against the headers and takes the
// segment size from it.
func (p *Packet) offload(family uint8) Verdict {
	p.Seg.Size = 0
	v := &p.VNet
	if v.Flags&NeedsCsum != 0 && (int(v.CsumStart) != p.TCPOff-VNetLen || v.CsumOffset != 16) {
		return Malformed
	}
	switch kind := v.GSOType &^ GSOECN; {
	case kind == GSONone:
		return OK
	case kind == GSOTCPv4 && family == 4, kind == GSOTCPv6 && family == 6:
	default:
		return Malformed
	}
	if v.GSOSize == 0 {
		return Malformed
	}
	if p.Seg.Payload.Len > uint32(v.GSOSize) {
		p.Seg.Size = v.GSOSize
	}
	return OK
}
