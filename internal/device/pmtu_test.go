package device

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/seqnum"
	"toehold/internal/testnet"
	"toehold/internal/wire"
)

// tooBig is a router's message that a segment of testKey at seq does not fit
// mtu octets (RFC 1191, section 4).
func tooBig(seq seqnum.Value, mtu uint16) []byte {
	quoted := make([]byte, 20, 28)
	quoted[0], quoted[9] = 0x45, 6
	copy(quoted[12:], testKey.Local[:4])
	copy(quoted[16:], testKey.Remote[:4])
	quoted = append(append(quoted, testKey.LocalPort[:]...), testKey.RemotePort[:]...)
	quoted = binary.BigEndian.AppendUint32(quoted, uint32(seq))
	message := append(binary.BigEndian.AppendUint16([]byte{3, 4, 0, 0, 0, 0}, mtu), quoted...)
	binary.BigEndian.PutUint16(message[2:], checksum(message))
	ip := make([]byte, 20)
	ip[0], ip[3], ip[8], ip[9] = 0x45, byte(20+len(message)), 64, 1
	copy(ip[12:], []byte{198, 51, 100, 1})
	copy(ip[16:], testKey.Local[:4])
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return slices.Concat(make([]byte, wire.VNetLen), ether4, ip, message)
}

func checksum(b []byte) uint16 {
	n := uint32(0)
	for i := 0; i < len(b); i += 2 {
		n += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return ^uint16(n + n>>16)
}

// TestARouterSaysTooBig: what is in flight goes again at once in segments that
// fit, when the message quotes something that is in flight, and no smaller than
// any path asks for. RFC 5927, section 4.1: "These implementations check that
// the TCP sequence number contained in the payload of the ICMP error message is
// within the range SND.UNA =< SEG.SEQ < SND.NXT."
func TestARouterSaysTooBig(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   int32 // the segment quoted, from snd.una on
		mtu  uint16
		want uint32
	}{
		{"in flight", 0, 1000, 948},
		{"the last in flight", 2*mss - 1, 1000, 948},
		{"acknowledged", -1, 1000, mss},
		{"not sent yet", 2 * mss, 1000, mss},
		{"far away", 1 << 30, 1000, mss},
		{"no smaller", 0, 1500, mss},
		{"less than any path has", 0, 68, leastMTU4 - 52},
		{"the router does not say", 0, 0, leastMTU4 - 52},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := plainWorld(t, true, true)
			id := w.ownNow()
			c := w.device.find(id)
			w.program.toSend, w.program.closing = make([]byte, 2*mss), false
			w.program.run()
			w.turnDevice()
			if c.wire.SndNxt().Sub(c.wire.SndUna()) != 2*mss {
				t.Fatalf("%d octets in flight", c.wire.SndNxt().Sub(c.wire.SndUna()))
			}
			sent := c.wire.Stats().Retransmits
			w.arrive(tooBig(c.wire.SndUna()+seqnum.Value(tt.at), tt.mtu))
			w.turnDevice()
			if got := c.metrics().MSS; got != tt.want {
				t.Errorf("segments of %d octets, want %d", got, tt.want)
			}
			again := c.wire.Stats().Retransmits - sent
			if want := uint64(2*mss+tt.want-1) / uint64(tt.want); tt.want < mss && again != want || tt.want == mss && again != 0 {
				t.Errorf("%d segments sent again", again)
			}
		})
	}
}

// RFC 5927, section 4.1: "For a TCP endpoint with no data "in flight", this would
// completely eliminate the possibility of success of these attacks."
func TestNothingInFlightIsTooBig(t *testing.T) {
	w := plainWorld(t, true, true)
	c := w.device.find(w.ownNow())
	w.program.toSend, w.program.closing = nil, false
	if c.wire.SndNxt() != c.wire.SndUna() {
		t.Fatalf("%d octets in flight", c.wire.SndNxt().Sub(c.wire.SndUna()))
	}
	for _, at := range []int32{-1 << 20, -1, 0, 1, 1 << 20} {
		w.arrive(tooBig(c.wire.SndUna()+seqnum.Value(at), 600))
		w.turnDevice()
	}
	if got := c.metrics().MSS; got != mss {
		t.Errorf("segments of %d octets, want %d", got, mss)
	}
	if got := w.device.stats.Unknown; got != 5 {
		t.Errorf("%d of 5 messages were not believed", got)
	}
}

// narrow puts a far host behind the peer, whose link to it takes packets of
// mtu octets, and returns its address. The far host's own link is wider, so
// that only routers know.
func narrow(t *testing.T, n *testnet.Net, mtu int) *testnet.Namespace {
	far, err := testnet.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	attributes := netlink.NewLinkAttrs()
	attributes.Name = "to-far"
	veth := &netlink.Veth{LinkAttrs: attributes, PeerName: "far", PeerNamespace: netlink.NsFd(far.FD())}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(n.Peer.Do(func() error { return netlink.LinkAdd(veth) }))
	t.Cleanup(func() { n.Peer.Do(func() error { return netlink.LinkDel(veth) }) })
	check(n.Peer.Configure("to-far", farRouter4, farRouter6))
	check(far.Configure("far", farHost4, farHost6))
	check(n.Peer.Do(func() error {
		link, err := netlink.LinkByName("to-far")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return err
		}
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0), os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	}))
	check(n.Host.Do(func() error {
		return errors.Join(route(n.HostIf, farHost4, n.PeerIP4), route(n.HostIf, farHost6, n.PeerIP6))
	}))
	check(far.Do(func() error {
		return errors.Join(route("far", n.HostIP4, farRouter4), route("far", n.HostIP6, farRouter6))
	}))
	return far
}

// route sends what is for to by a router on an interface.
func route(ifName string, to, via netip.Addr) error {
	link, err := netlink.LinkByName(ifName)
	if err != nil {
		return err
	}
	bits := to.BitLen()
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: via.AsSlice(), Congctl: "cubic",
		Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(bits, bits)}})
}

var (
	farRouter4, farHost4 = netip.MustParseAddr("10.78.9.1"), netip.MustParseAddr("10.78.9.2")
	farRouter6, farHost6 = netip.MustParseAddr("fd78:9::1"), netip.MustParseAddr("fd78:9::2")
)

// TestRealRouterSaysTooBig: a router's ICMP reaches the device, which then
// sends segments that fit; with IPv6 though S itself was told not to believe it
// (IPV6_PMTUDISC_PROBE) and goes on as before.
func TestRealRouterSaysTooBig(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %t", v6), func(t *testing.T) {
			s := newStation(t)
			peer := s.Peer
			s.Peer = narrow(t, s.Net, 1300)
			t.Cleanup(func() { s.Peer = peer })
			host, far, id := s.connect(v6)
			if v6 { // IPv4 has no way not to believe and not to let routers fragment
				unbelieving(t, host)
			}
			hw, _ := s.offload(id)
			wait(t, "stream to the far host", stream(t, host, far, 8<<20))
			s.upload(id, hw)
		})
	}
}

// unbelieving makes a socket ignore what routers say of the path's MTU.
func unbelieving(t *testing.T, c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// RFC 8201, section 4: "If a node receives a Packet Too Big message reporting a
// next-hop MTU that is less than the IPv6 minimum link MTU, it must discard it."
func TestSegmentIn(t *testing.T) {
	for _, tt := range []struct {
		family uint8
		stamps bool
		mtu    uint32
		want   uint32
		ok     bool
	}{
		{4, false, 1500, 1460, true},
		{4, true, 1500, 1448, true},
		{4, true, 68, 500, true},
		{6, true, 1500, 1428, true},
		{6, false, 1280, 1220, true},
		{6, false, 1279, 0, false},
		{6, true, 1 << 31, 1<<31 - 72, true},
	} {
		c := &conn{key: flow.Key{Family: tt.family}}
		if tt.stamps {
			c.kernel.Flags = abi.FlagTimestamps
		}
		if got, ok := c.segmentIn(tt.mtu); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%+v: %d, %v", tt, got, ok)
		}
	}
}
