package wire

import (
	"encoding/binary"

	"toehold/internal/flow"
	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

const (
	protoICMP   = 1
	protoICMPv6 = 58

	icmpLen        = 8
	quotedPortsSeq = 8 // what a router quotes of TCP at least (RFC 792)
)

// A TooBig is a router's word that a segment was larger than the MTU of the
// link that it was to take (RFC 1191, section 4; RFC 4443, section 3.2).
type TooBig struct {
	Key flow.Key     // as the segment's sender sees it
	Seq seqnum.Value // of the segment
	MTU uint32       // octets of IP packet; 0: the router does not say
}

// ParseTooBig reads such a message in buf.B[:n], as Parse does. It reports
// false for all else, and for one whose checksum is wrong.
func ParseTooBig(buf *frame.Buf, n, linkLen int, t *TooBig) bool {
	if n > len(buf.B) || n < VNetLen+linkLen {
		return false
	}
	var p Packet
	p.VNet.Get(buf.B[:n])
	family, v := p.link(buf.B[:n], linkLen)
	if v != OK {
		return false
	}
	ip := buf.B[p.IPOff:n]
	if family == 4 {
		return t.ipv4(ip, p.VNet.Flags)
	}
	return t.ipv6(ip, p.VNet.Flags)
}

func (t *TooBig) ipv4(ip []byte, flags uint8) bool {
	if len(ip) < ipv4Len+icmpLen || ip[0] != 0x45 || ip[9] != protoICMP || fold(sum(ip[:ipv4Len], 0)) != 0xffff {
		return false
	}
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if total < ipv4Len+icmpLen || total > len(ip) {
		return false
	}
	m := ip[ipv4Len:total]
	if m[0] != 3 || m[1] != 4 || flags&(NeedsCsum|DataValid) == 0 && fold(sum(m, 0)) != 0xffff {
		return false
	}
	t.MTU = uint32(binary.BigEndian.Uint16(m[6:]))
	q := m[icmpLen:]
	if len(q) < ipv4Len+quotedPortsSeq || q[0] != 0x45 || q[9] != protoTCP {
		return false
	}
	t.Key = flow.Key{Family: 4}
	copy(t.Key.Local[:4], q[12:16])
	copy(t.Key.Remote[:4], q[16:20])
	t.quoted(q[ipv4Len:])
	return true
}

func (t *TooBig) ipv6(ip []byte, flags uint8) bool {
	if len(ip) < ipv6Len+icmpLen || ip[0]>>4 != 6 || ip[6] != protoICMPv6 {
		return false
	}
	length := int(binary.BigEndian.Uint16(ip[4:]))
	if length < icmpLen || length > len(ip)-ipv6Len {
		return false
	}
	m := ip[ipv6Len : ipv6Len+length]
	pseudo := sum(ip[8:ipv6Len], protoICMPv6+uint64(length))
	if m[0] != 2 || flags&(NeedsCsum|DataValid) == 0 && fold(sum(m, pseudo)) != 0xffff {
		return false
	}
	t.MTU = binary.BigEndian.Uint32(m[4:])
	q := m[icmpLen:]
	if len(q) < ipv6Len+quotedPortsSeq || q[0]>>4 != 6 || q[6] != protoTCP {
		return false
	}
	t.Key = flow.Key{Family: 6}
	copy(t.Key.Local[:], q[8:24])
	copy(t.Key.Remote[:], q[24:40])
	t.quoted(q[ipv6Len:])
	return true
}

// quoted reads the beginning of the segment's header.
func (t *TooBig) quoted(tcp []byte) {
	copy(t.Key.LocalPort[:], tcp[0:2])
	copy(t.Key.RemotePort[:], tcp[2:4])
	t.Seq = be32(tcp[4:])
}
