package wire

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"toehold/internal/flow"
	"toehold/internal/frame"
)

// tooBig is a router's message about a segment of id, behind an Ethernet
// header.
func tooBig(id flow.ID, seq, mtu uint32) []byte {
	tcp := binary.BigEndian.AppendUint16(nil, id.Local.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, id.Remote.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, seq)
	if id.Is4() {
		m := binary.BigEndian.AppendUint32([]byte{3, 4, 0, 0}, mtu)
		m = append(append(m, header4(6, 1500, id.Local.Addr(), id.Remote.Addr())...), tcp...)
		binary.BigEndian.PutUint16(m[2:], ^fold(sum(m, 0)))
		router := header4(1, 20+len(m), netip.MustParseAddr("198.51.100.1"), id.Local.Addr())
		return slices.Concat(make([]byte, VNetLen+12), []byte{8, 0}, router, m)
	}
	m := binary.BigEndian.AppendUint32([]byte{2, 0, 0, 0}, mtu)
	m = append(append(m, header6(6, 1460, id.Local.Addr(), id.Remote.Addr())...), tcp...)
	router := header6(58, len(m), netip.MustParseAddr("2001:db8:1::1"), id.Local.Addr())
	binary.BigEndian.PutUint16(m[2:], ^fold(sum(m, sum(router[8:], 58+uint64(len(m))))))
	return slices.Concat(make([]byte, VNetLen+12), []byte{0x86, 0xdd}, router, m)
}

func header4(protocol byte, total int, from, to netip.Addr) []byte {
	h := make([]byte, 12, 20)
	h[0], h[8], h[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(total))
	h = append(append(h, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(h[10:], ^fold(sum(h, 0)))
	return h
}

func header6(next byte, length int, from, to netip.Addr) []byte {
	h := make([]byte, 8, 40)
	h[0], h[6], h[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(h[4:], uint16(length))
	return append(append(h, from.AsSlice()...), to.AsSlice()...)
}

var (
	big4 = flow.Make(netip.AddrPortFrom(v4a, 80), netip.AddrPortFrom(v4b, 40000))
	big6 = flow.Make(netip.AddrPortFrom(v6a, 80), netip.AddrPortFrom(v6b, 40000))
)

func TestParseTooBig(t *testing.T) {
	for _, id := range []flow.ID{big4, big6} {
		var got TooBig
		b := tooBig(id, 0xfffffff0, 1300)
		if !ParseTooBig(&frame.Buf{B: b}, len(b), EtherLen, &got) || got != (TooBig{id.Key(), 0xfffffff0, 1300}) {
			t.Errorf("%v: %+v", id, got)
		}
		for i := range b { // every octet but link addresses, ICMP's unused and what is not read counts
			c := slices.Clone(b)
			c[i] ^= 0x10
			if ok := ParseTooBig(&frame.Buf{B: c}, len(c), EtherLen, &got); ok && got == (TooBig{id.Key(), 0xfffffff0, 1300}) && changes(id, i) {
				t.Errorf("%v: octet %d changed, and it was taken", id, i)
			}
		}
		for n := range len(b) {
			if ParseTooBig(&frame.Buf{B: b[:n]}, n, EtherLen, &got) {
				t.Errorf("%v: the first %d octets were taken", id, n)
			}
		}
	}
}

// changes reports that octet i of a message says something, or is in a
// checksum: all but the virtio_net_hdr, link addresses and the hop limit,
// traffic class, flow label of IPv6.
func changes(id flow.ID, i int) bool {
	i -= VNetLen
	if id.Is4() {
		return i >= 12
	}
	return i >= 12 && i != 15 && i != 16 && i != 17 && i != 14+7 && i != 14
}

func FuzzParseTooBig(f *testing.F) {
	f.Add(tooBig(big4, 1, 1300))
	f.Add(tooBig(big6, 1, 1300))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, link := range []int{0, EtherLen} {
			var m TooBig
			ParseTooBig(&frame.Buf{B: b}, len(b), link, &m)
		}
	})
}
