package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/testnet"
)

// watchHost watches the host's namespace until the test ends.
func watchHost(t *testing.T, n *testnet.Net) (changes <-chan Change, stop context.CancelFunc) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	in(t, n.Host, func() (err error) { changes, err = Watch(ctx); return err })
	return changes, stop
}

// expect reads changes until there is one that is wanted.
func expect(t *testing.T, what string, changes <-chan Change, wanted func(Change) bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		select {
		case c, ok := <-changes:
			if !ok {
				t.Fatalf("%s: the channel is closed", what)
			}
			if wanted(c) {
				return
			}
		case <-deadline:
			t.Fatalf("%s: not told", what)
		}
	}
}

func TestWatch(t *testing.T) {
	n := testnet.New(t)
	changes, _ := watchHost(t, n)
	l := hostLink(t, n)
	index := l.Attrs().Index
	address := &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{192, 0, 2, 1}, Mask: net.CIDRMask(24, 32)}}
	address6, err := netlink.ParseAddr("2001:db8::1/64")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{LinkIndex: index, Dst: network("198.51.100.0/24"), Gw: n.PeerIP4.AsSlice()}
	fallback := &netlink.Route{LinkIndex: index, Dst: network("::/0"), Gw: n.PeerIP6.AsSlice()}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	neighbour := &netlink.Neigh{LinkIndex: index, IP: n.PeerIP4.Next().AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT}
	silent := &netlink.Neigh{LinkIndex: index, IP: neighbour.IP, State: netlink.NUD_FAILED}
	for _, tt := range []struct {
		name   string
		do     func() error
		wanted func(c Change) bool
	}{
		{"MTU", func() error { return netlink.LinkSetMTU(l, 1400) }, func(c Change) bool {
			return c.Kind == LinkChanged && c.MTU == 1400 && c.Up && !c.Gone && bytes.Equal(c.Hardware, l.Attrs().HardwareAddr)
		}},
		{"address", func() error { return netlink.AddrAdd(l, address) }, func(c Change) bool {
			return c.Kind == AddressChanged && c.Prefix == netip.MustParsePrefix("192.0.2.1/24") && !c.Gone
		}},
		{"address gone", func() error { return netlink.AddrDel(l, address) }, func(c Change) bool {
			return c.Kind == AddressChanged && c.Prefix == netip.MustParsePrefix("192.0.2.1/24") && c.Gone
		}},
		{"address, IPv6", func() error { return netlink.AddrAdd(l, address6) }, func(c Change) bool {
			return c.Kind == AddressChanged && c.Prefix == netip.MustParsePrefix("2001:db8::1/64")
		}},
		{"route", func() error { return netlink.RouteAdd(route) }, func(c Change) bool {
			return c.Kind == RouteChanged && c.Prefix == netip.MustParsePrefix("198.51.100.0/24") && !c.Gone
		}},
		{"route gone", func() error { return netlink.RouteDel(route) }, func(c Change) bool {
			return c.Kind == RouteChanged && c.Prefix == netip.MustParsePrefix("198.51.100.0/24") && c.Gone
		}},
		{"default route, IPv6", func() error { return netlink.RouteAdd(fallback) }, func(c Change) bool {
			return c.Kind == RouteChanged && c.Prefix == netip.MustParsePrefix("::/0")
		}},
		{"neighbour", func() error { return netlink.NeighAdd(neighbour) }, func(c Change) bool {
			return c.Kind == NeighbourChanged && c.Address == n.PeerIP4.Next() && bytes.Equal(c.Hardware, mac) && !c.Gone
		}},
		{"neighbour silent", func() error { return netlink.NeighSet(silent) }, func(c Change) bool {
			return c.Kind == NeighbourChanged && c.Address == n.PeerIP4.Next() && c.Silent && c.Gone
		}},
		{"neighbour gone", func() error { return netlink.NeighDel(neighbour) }, func(c Change) bool {
			return c.Kind == NeighbourChanged && c.Address == n.PeerIP4.Next() && c.Gone && !c.Silent
		}},
		{"link down", func() error { return netlink.LinkSetDown(l) }, func(c Change) bool {
			return c.Kind == LinkChanged && !c.Up && !c.Gone
		}},
		{"link gone", func() error { return netlink.LinkDel(l) }, func(c Change) bool {
			return c.Kind == LinkChanged && c.Gone
		}},
	} {
		in(t, n.Host, tt.do)
		expect(t, tt.name, changes, func(c Change) bool { return c.Ifindex == index && tt.wanted(c) })
	}
}

// Rules that packets go by are told of, whoever keeps them.
func TestWatchRules(t *testing.T) {
	n := testnet.New(t)
	changes, _ := watchHost(t, n)
	l := hostLink(t, n)
	policy := &netlink.XfrmPolicy{Src: network("192.0.2.0/24"), Dst: network("192.0.2.0/24"), Dir: netlink.XFRM_DIR_OUT}
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0)}}
	filter := &netlink.U32{FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0), Priority: 1, Protocol: unix.ETH_P_IP}}
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{"IPsec policy", func() error { return netlink.XfrmPolicyAdd(policy) }},
		{"IPsec policy gone", func() error { return netlink.XfrmPolicyDel(policy) }},
		{"nftables", func() error { return newTable("toehold") }},
		{"tc filter", func() error { return errors.Join(netlink.QdiscAdd(ingress), netlink.FilterAdd(filter)) }},
	} {
		in(t, n.Host, tt.do)
		expect(t, tt.name, changes, func(c Change) bool { return c.Kind == RulesChanged })
	}
}

// newTable makes a table of nftables. Its name is of seven octets.
func newTable(name string) error {
	const begin, end, tables, newTable, nameOf = 0x10, 0x11, 10, 0, 1 // NFNL_MSG_BATCH_BEGIN ..., NFTA_TABLE_NAME
	message := func(kind, flags uint16, family, resource byte, rest ...byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(20+len(rest)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // sequence, port
		return append(append(b, family, 0, 0, resource), rest...)
	}
	attribute := append([]byte{12, 0, nameOf, 0}, append([]byte(name), 0)...)
	batch := message(begin, 0, 0, tables)
	batch = append(batch, message(tables<<8|newTable, unix.NLM_F_CREATE, unix.NFPROTO_INET, 0, attribute...)...)
	batch = append(batch, message(end, 0, 0, tables)...)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// A set's elements may change with every packet, and are no rules.
func TestParseTables(t *testing.T) {
	message := func(kind byte) []byte { return []byte{20, 0, 0, 0, kind, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0} }
	for _, tt := range []struct {
		name string
		in   []byte
		want int
	}{
		{"nothing", nil, 0},
		{"rule gone", message(8), 1},
		{"element", message(12), 0},
		{"element, rule", append(message(12), message(6)...), 1},
		{"nonsense", []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}, 1},
	} {
		if got := parseTables(tt.in); len(got) != tt.want {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	n := testnet.New(t)
	changes, stop := watchHost(t, n)
	stop()
	for deadline := time.After(5 * time.Second); ; {
		select {
		case _, ok := <-changes:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the channel is still open")
		}
	}
}

// Nobody reads, so the kernel has to throw changes away, and says so.
func TestSlowReaderIsTold(t *testing.T) {
	n := testnet.New(t)
	changes, _ := watchHost(t, n)
	l := hostLink(t, n)
	in(t, n.Host, func() error {
		for i := range 4000 {
			if err := netlink.LinkSetMTU(l, 1400+i%2); err != nil {
				return err
			}
		}
		return nil
	})
	expect(t, "overrun", changes, func(c Change) bool { return c.Kind == Overrun })
}

func FuzzParseChanges(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x14\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x02\x03\x04"))
	for _, kind := range []byte{16, 17, 20, 21, 24, 25, 28, 29} {
		message := make([]byte, 16+16+8)
		message[0], message[4] = byte(len(message)), kind
		message[16+12], message[16+16] = 8, 8
		f.Add(message)
	}
	f.Fuzz(func(t *testing.T, datagram []byte) {
		for _, c := range parseChanges(datagram) {
			if c.Kind == 0 {
				t.Errorf("%x gave %+v", datagram, c)
			}
		}
	})
}
