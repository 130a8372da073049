package wire

import (
	"encoding/binary"
	"net/netip"

	"toehold/internal/frame"
)

// A sample is a frame written octet by octet, the plain way, to be read by
// Parse. Tables edit it.
type sample struct {
	vnet    VNet
	ether   bool
	tags    []uint16 // tag protocol identifiers
	v6      bool
	first   byte // octet 0 of the IP header, 0: what is right
	next    byte // protocol
	frag    uint16
	ipLen   int // added to the IP length field
	flags   byte
	offset  int // added to the TCP data offset, in words
	options []byte
	payload string
	padding int // octets behind the IP packet
}

func plain() sample {
	return sample{ether: true, next: 6, frag: 0x4000, flags: ACK | PSH, payload: "hello"}
}

var (
	v4a, v4b = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	v6a, v6b = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
)

func (s sample) bytes() []byte {
	b := make([]byte, VNetLen)
	s.vnet.Put(b)
	b = s.link(b)
	tcp := s.tcp()
	if s.v6 {
		b = s.ipv6(b, len(tcp))
	} else {
		b = s.ipv4(b, len(tcp))
	}
	b = append(b, tcp...)
	return append(b, make([]byte, s.padding)...)
}

func (s sample) link(b []byte) []byte {
	if !s.ether {
		return b
	}
	b = append(b, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2)
	for i, tpid := range s.tags {
		b = binary.BigEndian.AppendUint16(b, tpid)
		b = binary.BigEndian.AppendUint16(b, uint16(100+i))
	}
	if s.v6 {
		return append(b, 0x86, 0xdd)
	}
	return append(b, 8, 0)
}

func or(v, otherwise byte) byte {
	if v == 0 {
		return otherwise
	}
	return v
}

func (s sample) ipv4(b []byte, n int) []byte {
	h := make([]byte, 20)
	h[0], h[1] = or(s.first, 0x45), 0x12
	binary.BigEndian.PutUint16(h[2:], uint16(20+n+s.ipLen))
	binary.BigEndian.PutUint16(h[4:], 777)
	binary.BigEndian.PutUint16(h[6:], s.frag)
	h[8], h[9] = 63, s.next
	copy(h[12:], v4a.AsSlice())
	copy(h[16:], v4b.AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^slowSum(h))
	return append(b, h...)
}

func (s sample) ipv6(b []byte, n int) []byte {
	h := make([]byte, 40)
	h[0], h[1], h[2], h[3] = or(s.first, 0x61), 0x2a, 0xbc, 0xde
	binary.BigEndian.PutUint16(h[4:], uint16(n+s.ipLen))
	h[6], h[7] = s.next, 63
	copy(h[8:], v6a.AsSlice())
	copy(h[24:], v6b.AsSlice())
	return append(b, h...)
}

func (s sample) tcp() []byte {
	h := make([]byte, 20)
	binary.BigEndian.PutUint16(h[0:], 40000)
	binary.BigEndian.PutUint16(h[2:], 80)
	binary.BigEndian.PutUint32(h[4:], 0xfffffff0)
	binary.BigEndian.PutUint32(h[8:], 0x01020304)
	h[12] = byte((20+len(s.options))/4+s.offset) << 4
	h[13] = s.flags
	binary.BigEndian.PutUint16(h[14:], 501)
	h = append(append(h, s.options...), s.payload...)
	binary.BigEndian.PutUint16(h[16:], ^slowSum(append(s.pseudo(len(h)), h...)))
	return h
}

func (s sample) pseudo(n int) []byte {
	a, b := v4a, v4b
	if s.v6 {
		a, b = v6a, v6b
	}
	p := append(a.AsSlice(), b.AsSlice()...)
	p = binary.BigEndian.AppendUint32(p, uint32(n))
	return append(p, 0, 0, 0, 6)
}

// slowSum is RFC 1071 word by word.
func slowSum(b []byte) uint16 {
	s := uint32(0)
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		s += w
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// buffer puts a frame into a pooled buffer.
func buffer(b []byte) *frame.Buf {
	buf := frame.NewPool(1 << 20).Get(max(1, len(b)))
	copy(buf.B, b)
	return buf
}

// parse parses the sample's frame.
func (s sample) parse() (*frame.Buf, int, Packet, Verdict) {
	b := s.bytes()
	buf, linkLen := buffer(b), 0
	if s.ether {
		linkLen = EtherLen
	}
	var p Packet
	v := Parse(buf, len(b), linkLen, &p)
	return buf, len(b), p, v
}
