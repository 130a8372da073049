package wire

import (
	"encoding/binary"

	"toehold/internal/flow"
)

// Header lengths without options, and the most that Build and Relink write.
const (
	EtherLen   = 14
	TagLen     = 4
	MaxLink    = EtherLen + 2*TagLen
	MaxHeaders = VNetLen + MaxLink + ipv6Len + tcpMaxLen
)

// A Template builds the headers of one direction of one flow.
type Template struct {
	key       flow.Key
	link      [MaxLink]byte
	linkLen   uint8
	ready     bool
	df        bool
	tos, ttl  uint8
	id        uint16 // of the next IPv4 packet
	flowLabel uint32
	addresses uint64 // sum of both addresses
}

// Set learns link header, addresses, ports, TTL, TOS and flow label from a
// frame that went in this direction. The ECN codepoint is not learned: one
// segment's says nothing about the next. IPv4 identification goes on after the
// latest of the frames seen and built.
func (t *Template) Set(p *Packet) {
	next := p.ID + uint16(segments(p.Seg.Payload.Len, p.Seg.Size))
	if t.key != p.Key {
		t.key, t.id, t.addresses = p.Key, next, addresses(&p.Key)
	} else if int16(next-t.id) > 0 {
		t.id = next
	}
	t.SetLink(p.Link)
	t.tos, t.ttl, t.df, t.flowLabel = p.TOS&^3, p.TTL, p.DF, p.FlowLabel
	t.ready = true
}

// SetLink replaces the link header, of at most MaxLink octets; empty on an
// uplink that has none. A longer one is not taken.
func (t *Template) SetLink(link []byte) {
	if len(link) <= MaxLink {
		t.linkLen = uint8(copy(t.link[:], link))
	}
}

// Link is the link header of what is built.
func (t *Template) Link() []byte { return t.link[:t.linkLen] }

// Ready reports whether Set was called.
func (t *Template) Ready() bool { return t.ready }

// Key names the flow as the sender of the frames built sees it.
func (t *Template) Key() flow.Key { return t.key }

// segments is how many segments n octets of payload make.
func segments(n uint32, size uint16) uint32 {
	if size == 0 || n <= uint32(size) {
		return 1
	}
	return (n + uint32(size) - 1) / uint32(size)
}

// Build writes virtio_net_hdr, link, IP and TCP headers for out to dst and
// returns their length; out's pieces are the rest of the frame. The kernel
// is left to finish the checksum, and to cut out into segments when it is
// longer than its Size. The length is 0, and nothing built, when t is not
// ready, dst is shorter than MaxHeaders or out is longer than MaxSuper.
func (t *Template) Build(dst []byte, out *Out) int {
	if !t.ready || len(dst) < MaxHeaders || out.Length > MaxSuper {
		return 0
	}
	ip := VNetLen + copy(dst[VNetLen:], t.link[:t.linkLen])
	tcp := ip + ipv6Len
	if t.key.Family == 4 {
		tcp = ip + ipv4Len
	}
	options := out.putOptions(dst[tcp+tcpLen : tcp+tcpMaxLen])
	data := tcp + tcpLen + options
	length := data - tcp + int(out.Length)
	if t.key.Family == 4 {
		t.putIPv4(dst[ip:tcp], length, out)
	} else {
		t.putIPv6(dst[ip:tcp], length, out.ECN)
	}
	t.putTCP(dst[tcp:data], &out.Segment, length)
	vnet := VNet{Flags: NeedsCsum, CsumStart: uint16(tcp - VNetLen), CsumOffset: 16, HdrLen: uint16(data - VNetLen)}
	if out.Size > 0 && out.Length > uint32(out.Size) {
		vnet.GSOType, vnet.GSOSize = t.gsoType(out.Flags), out.Size
	}
	vnet.Put(dst)
	return data
}

func (t *Template) gsoType(flags uint8) uint8 {
	kind := uint8(GSOTCPv6)
	if t.key.Family == 4 {
		kind = GSOTCPv4
	}
	if flags&CWR != 0 {
		kind |= GSOECN
	}
	return kind
}

func (t *Template) putIPv4(h []byte, length int, out *Out) {
	h[0], h[1] = 0x45, t.tos|out.ECN&3
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4Len+length))
	binary.BigEndian.PutUint16(h[4:], t.id)
	t.id += uint16(segments(out.Length, out.Size))
	h[6], h[7] = 0, 0
	if t.df {
		h[6] = 0x40
	}
	h[8], h[9] = t.ttl, protoTCP
	h[10], h[11] = 0, 0
	copy(h[12:16], t.key.Local[:4])
	copy(h[16:20], t.key.Remote[:4])
	binary.BigEndian.PutUint16(h[10:], ^fold(sum(h, 0)))
}

func (t *Template) putIPv6(h []byte, length int, ecn uint8) {
	class := uint32(t.tos | ecn&3)
	binary.BigEndian.PutUint32(h, 6<<28|class<<20|t.flowLabel)
	binary.BigEndian.PutUint16(h[4:], uint16(length))
	h[6], h[7] = protoTCP, t.ttl
	copy(h[8:24], t.key.Local[:])
	copy(h[24:40], t.key.Remote[:])
}

// putTCP writes the header in front of the options that are there already.
// Its checksum field gets the sum of the pseudo-header, as NeedsCsum asks.
func (t *Template) putTCP(h []byte, s *Segment, length int) {
	copy(h[0:2], t.key.LocalPort[:])
	copy(h[2:4], t.key.RemotePort[:])
	binary.BigEndian.PutUint32(h[4:], uint32(s.Seq))
	binary.BigEndian.PutUint32(h[8:], uint32(s.Ack))
	h[12], h[13] = uint8(len(h)/4)<<4, s.Flags
	binary.BigEndian.PutUint16(h[14:], s.Window)
	binary.BigEndian.PutUint16(h[16:], fold(t.addresses+protoTCP+uint64(length)))
	h[18], h[19] = 0, 0
}
