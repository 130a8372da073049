package wire

import (
	"net/netip"
	"strings"
	"testing"

	"toehold/internal/flow"
	"toehold/internal/seqnum"
)

// shapes are the ways in which a sound frame can look.
var shapes = []struct {
	name string
	link int
	edit func(*sample)
}{
	{"IPv4", 14, func(s *sample) {}},
	{"IPv6", 14, func(s *sample) { s.v6 = true }},
	{"IPv4 in 802.1Q", 18, func(s *sample) { s.tags = []uint16{0x8100} }},
	{"IPv6 in 802.1Q", 18, func(s *sample) { s.tags, s.v6 = []uint16{0x8100}, true }},
	{"IPv4 in QinQ", 22, func(s *sample) { s.tags = []uint16{0x88a8, 0x8100} }},
	{"IPv6 in QinQ", 22, func(s *sample) { s.tags, s.v6 = []uint16{0x88a8, 0x8100}, true }},
	{"IPv4 without link header", 0, func(s *sample) { s.ether = false }},
	{"IPv6 without link header", 0, func(s *sample) { s.ether, s.v6 = false, true }},
	{"padded to the least Ethernet frame", 14, func(s *sample) { s.payload, s.padding = "", 6 }},
	{"padded behind payload", 14, func(s *sample) { s.padding = 33 }},
	{"without payload", 14, func(s *sample) { s.payload = "" }},
}

func TestParse(t *testing.T) {
	for _, tt := range shapes {
		t.Run(tt.name, func(t *testing.T) {
			s := plain()
			tt.edit(&s)
			buf, n, p, v := s.parse()
			if v != OK {
				t.Fatalf("verdict %v", v)
			}
			checkSample(t, &s, &p, n)
			if len(p.Link) != tt.link || p.IPOff != VNetLen+tt.link {
				t.Errorf("link header of %d octets, IP at %d", len(p.Link), p.IPOff)
			}
			if !VerifyChecksum(buf, n, &p) {
				t.Error("a right checksum is called wrong")
			}
		})
	}
}

func checkSample(t *testing.T, s *sample, p *Packet, n int) {
	t.Helper()
	a, b := v4a, v4b
	tos, label := uint8(0x12), uint32(0)
	if s.v6 {
		a, b, tos, label = v6a, v6b, 0x12, 0xabcde
	}
	key := flow.Make(netip.AddrPortFrom(a, 40000), netip.AddrPortFrom(b, 80)).Key()
	if p.Key != key {
		t.Errorf("flow %v, want %v", p.Key.ID(), key.ID())
	}
	if p.Seg.ECN != tos&3 {
		t.Errorf("ECN codepoint %d", p.Seg.ECN)
	}
	if p.TOS != tos || p.TTL != 63 || p.FlowLabel != label || !p.DF {
		t.Errorf("TOS %#x TTL %d label %#x DF %v", p.TOS, p.TTL, p.FlowLabel, p.DF)
	}
	if s.v6 != (p.ID == 0) {
		t.Errorf("identification %d", p.ID)
	}
	if p.End != n-s.padding || p.DataOff != p.End-len(s.payload) {
		t.Errorf("data %d to %d in a frame of %d", p.DataOff, p.End, n)
	}
	checkSegment(t, s, &p.Seg)
}

func checkSegment(t *testing.T, s *sample, g *Segment) {
	t.Helper()
	if g.Seq != 0xfffffff0 || g.Ack != 0x01020304 || g.Flags != s.flags || g.Window != 501 {
		t.Errorf("segment %+v", g)
	}
	switch {
	case g.Payload.Len != uint32(len(s.payload)) || (g.Payload.Buf == nil) != (s.payload == ""):
		t.Errorf("payload span %+v", g.Payload)
	case s.payload != "" && string(g.Payload.Bytes()) != s.payload:
		t.Errorf("payload %q", g.Payload.Bytes())
	}
}

func TestVerdicts(t *testing.T) {
	for _, tt := range []struct {
		name string
		want Verdict
		edit func(*sample)
	}{
		{"UDP", NotTCP, func(s *sample) { s.next = 17 }},
		{"UDP over IPv6", NotTCP, func(s *sample) { s.v6, s.next = true, 17 }},
		{"three tags", NotTCP, func(s *sample) { s.tags = []uint16{0x88a8, 0x8100, 0x8100} }},
		{"unknown EtherType", NotTCP, func(s *sample) { s.tags = []uint16{0x9100} }},
		{"neither 4 nor 6 without link header", NotTCP, func(s *sample) { s.ether, s.first = false, 0x55 }},
		{"first fragment", Fragment, func(s *sample) { s.frag = 0x2000 }},
		{"last fragment", Fragment, func(s *sample) { s.frag = 0x0010 }},
		{"IPv6 fragment", Fragment, func(s *sample) { s.v6, s.next = true, 44 }},
		{"IPv4 options", IPOptions, func(s *sample) { s.first = 0x46 }},
		{"hop-by-hop options", IPOptions, func(s *sample) { s.v6, s.next = true, 0 }},
		{"destination options", IPOptions, func(s *sample) { s.v6, s.next = true, 60 }},
		{"routing header", IPOptions, func(s *sample) { s.v6, s.next = true, 43 }},
		{"version against EtherType", Malformed, func(s *sample) { s.first = 0x65 }},
		{"IPv6 version against EtherType", Malformed, func(s *sample) { s.v6, s.first = true, 0x41 }},
		{"IPv4 header too short", Malformed, func(s *sample) { s.first = 0x44 }},
		{"IP length past the frame", Malformed, func(s *sample) { s.ipLen = 1 }},
		{"IPv6 length past the frame", Malformed, func(s *sample) { s.v6, s.ipLen = true, 1 }},
		{"IP length inside the TCP header", Malformed, func(s *sample) { s.ipLen = -6 }},
		{"IP length inside the TCP options", Malformed, func(s *sample) {
			s.payload, s.options, s.ipLen = "", make([]byte, 8), -1
		}},
		{"data offset below 5", Malformed, func(s *sample) { s.offset = -1 }},
		{"data offset past the segment", Malformed, func(s *sample) { s.offset = 2 }},
		{"no offset is past the payload", OK, func(s *sample) { s.offset = 1 }},
		{"GSO without a size", Malformed, func(s *sample) { s.vnet.GSOType = GSOTCPv4 }},
		{"GSO of the other family", Malformed, func(s *sample) { s.vnet.GSOType, s.vnet.GSOSize = GSOTCPv6, 1 }},
		{"GSO for UDP", Malformed, func(s *sample) { s.vnet.GSOType, s.vnet.GSOSize = 5, 1 }},
		{"checksum of something else", Malformed, func(s *sample) { s.vnet.Flags, s.vnet.CsumStart = NeedsCsum, 30 }},
		{"checksum elsewhere", Malformed, func(s *sample) {
			s.vnet = VNet{Flags: NeedsCsum, CsumStart: 34, CsumOffset: 6}
		}},
		{"checksum where TCP has it", OK, func(s *sample) {
			s.vnet = VNet{Flags: NeedsCsum, CsumStart: 34, CsumOffset: 16}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := plain()
			tt.edit(&s)
			if _, _, _, v := s.parse(); v != tt.want {
				t.Errorf("verdict %v, want %v", v, tt.want)
			}
		})
	}
}

func TestTruncatedFramesAreMalformed(t *testing.T) {
	for _, tt := range shapes {
		s := plain()
		tt.edit(&s)
		b := s.bytes()
		linkLen := 0
		if s.ether {
			linkLen = EtherLen
		}
		for n := range len(b) - s.padding {
			var p Packet
			if v := Parse(buffer(b), n, linkLen, &p); v != Malformed {
				t.Errorf("%s: %v for %d of %d octets", tt.name, v, n, len(b))
			}
		}
	}
}

func TestLengthOutsideOfTheBuffer(t *testing.T) {
	buf := buffer(plain().bytes())
	var p Packet
	if v := Parse(buf, len(buf.B)+1, EtherLen, &p); v != Malformed {
		t.Errorf("verdict %v", v)
	}
	if v := Parse(buf, len(buf.B), 6, &p); v != NotTCP {
		t.Errorf("verdict %v for a link header of 6 octets", v)
	}
}

func TestSegmentSize(t *testing.T) {
	long := strings.Repeat("x", 3000)
	for _, tt := range []struct {
		name string
		want uint16
		edit func(*sample)
	}{
		{"lone segment", 0, func(s *sample) {}},
		{"super-segment", 1448, func(s *sample) { s.vnet.GSOType, s.vnet.GSOSize = GSOTCPv4, 1448 }},
		{"IPv6", 1428, func(s *sample) { s.v6, s.vnet.GSOType, s.vnet.GSOSize = true, GSOTCPv6, 1428 }},
		{"ECN", 1448, func(s *sample) { s.vnet.GSOType, s.vnet.GSOSize = GSOTCPv4|GSOECN, 1448 }},
		{"no longer than one segment", 0, func(s *sample) { s.vnet.GSOType, s.vnet.GSOSize = GSOTCPv4, 3000 }},
	} {
		s := plain()
		s.payload = long
		tt.edit(&s)
		if _, _, p, v := s.parse(); v != OK || p.Seg.Size != tt.want {
			t.Errorf("%s: %v, size %d, want %d", tt.name, v, p.Seg.Size, tt.want)
		}
	}
}

func TestOptions(t *testing.T) {
	ts := []byte{1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9}
	block := []byte{0, 0, 0, 1, 0, 0, 0, 2}
	sack := func(n int) []byte {
		b := []byte{1, 1, 5, byte(2 + 8*n)}
		for range n {
			b = append(b, block...)
		}
		return b
	}
	for _, tt := range []struct {
		name    string
		options []byte
		ts      bool
		nsack   int
	}{
		{"none", nil, false, 0},
		{"timestamps", ts, true, 0},
		{"timestamps in front", append([]byte{8, 10, 0, 0, 0, 7, 0, 0, 0, 9}, 0, 0), true, 0},
		{"timestamps and blocks", append(append([]byte{}, ts...), sack(3)...), true, 3},
		{"blocks, then timestamps", append(sack(1), ts...), true, 1},
		{"four blocks", sack(4), false, 4},
		{"unknown in front", append([]byte{253, 4, 1, 2}, ts...), true, 0},
		{"end before", append([]byte{0, 0, 0, 0}, ts...), false, 0},
		{"length 0 before", append([]byte{253, 0, 0, 0}, ts...), false, 0},
		{"length 1 before", append([]byte{253, 1, 0, 0}, ts...), false, 0},
		{"length past the header", append(append([]byte{}, ts...), 253, 9, 0, 0), true, 0},
		{"no room for a length", append(append([]byte{}, ts...), 1, 1, 1, 5), true, 0},
		{"timestamps of another length", []byte{8, 8, 0, 0, 0, 7, 0, 0}, false, 0},
		{"cut block", []byte{5, 6, 0, 0, 0, 1, 1, 1}, false, 0},
		{"no block", []byte{5, 2, 1, 1}, false, 0},
	} {
		s := plain()
		s.options = tt.options
		_, _, p, v := s.parse()
		g := &p.Seg
		if v != OK || g.TSOK != tt.ts || g.NSACK != tt.nsack {
			t.Errorf("%s: %v, timestamps %v, %d blocks", tt.name, v, g.TSOK, g.NSACK)
			continue
		}
		if tt.ts && (g.TSVal != 7 || g.TSEcr != 9) {
			t.Errorf("%s: timestamps %d %d", tt.name, g.TSVal, g.TSEcr)
		}
		for _, r := range g.SACK[:tt.nsack] {
			if r != (seqnum.Range{Lo: 1, Hi: 2}) {
				t.Errorf("%s: block %v", tt.name, r)
			}
		}
		if string(g.Payload.Bytes()) != s.payload {
			t.Errorf("%s: payload %q", tt.name, g.Payload.Bytes())
		}
	}
}

func TestParseForgetsThePacketBefore(t *testing.T) {
	s := plain()
	s.v6 = true
	s.options = []byte{1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9, 1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2}
	_, _, used, _ := s.parse()
	b := plain().bytes()
	buf := buffer(b)
	var fresh Packet
	Parse(buf, len(b), EtherLen, &fresh)
	Parse(buf, len(b), EtherLen, &used)
	used.Seg.SACK = fresh.Seg.SACK // past NSACK, so without meaning
	if !same(&used, &fresh) {
		t.Errorf("used %+v\nfresh %+v", used, fresh)
	}
}

// same compares packets of one buffer.
func same(a, b *Packet) bool {
	return a.VNet == b.VNet && a.Key == b.Key && string(a.Link) == string(b.Link) &&
		a.TTL == b.TTL && a.TOS == b.TOS && a.DF == b.DF && a.ID == b.ID && a.FlowLabel == b.FlowLabel &&
		a.IPOff == b.IPOff && a.TCPOff == b.TCPOff && a.DataOff == b.DataOff && a.End == b.End && a.Seg == b.Seg
}

func TestVerdictNames(t *testing.T) {
	for v, want := range map[Verdict]string{OK: "ok", BadChecksum: "bad-checksum", 77: "unknown"} {
		if v.String() != want {
			t.Errorf("%d is %q", v, v)
		}
	}
}
