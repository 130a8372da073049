package kernel

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

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
