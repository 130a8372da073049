package driver_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"toehold/internal/driver"
	"toehold/internal/testnet"
)

// addFar makes a namespace behind the peer, from where segments come as
// fragments: it does not discover path MTUs, and the peer forwards to the host
// in packets of 1000 octets.
func (r *rig) addFar() *testnet.Namespace {
	r.t.Helper()
	const near, name = "near", "far"
	nearIP, farIP := netip.MustParseAddr("10.79.0.1"), netip.MustParseAddr("10.79.0.2")
	far, err := testnet.NewNamespace()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { far.Close() })
	must := func(what string, err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatalf("%s: %v", what, err)
		}
	}
	must("veth", r.Peer.Do(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = near
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: name, PeerNamespace: netlink.NsFd(far.FD())})
	}))
	must("addresses", errors.Join(r.Peer.Configure(near, nearIP), far.Configure(name, farIP)))
	must("forwarding", r.Peer.Do(func() error {
		route, err := hostRoute(r.HostIP4, r.PeerIf)
		if err != nil {
			return err
		}
		route.MTU, route.MTULock = 1000, true
		return errors.Join(netlink.RouteAdd(route), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	}))
	must("route of the far end", far.Do(func() error {
		return errors.Join(netlink.RouteAdd(through(nearIP, r.HostIP4)), os.WriteFile("/proc/sys/net/ipv4/ip_no_pmtu_disc", []byte("1"), 0o644))
	}))
	r.inHost(func() error { return netlink.RouteAdd(through(r.PeerIP4, farIP)) })
	return far
}

func through(gateway, to netip.Addr) *netlink.Route {
	return &netlink.Route{Gw: gateway.AsSlice(), Congctl: "cubic", Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(32, 32)}}
}

// bulk sends octets from the peer, and checks that they arrive.
func (p *pair) bulk(octets int) error {
	sent := make([]byte, octets)
	for i := range sent {
		sent[i] = byte(i * 7 >> 3)
	}
	deadline := time.Now().Add(10 * time.Second)
	p.host.SetDeadline(deadline)
	p.peer.SetDeadline(deadline)
	wrote := make(chan error, 1)
	go func() {
		_, err := p.peer.Write(sent)
		wrote <- err
	}()
	got := make([]byte, octets)
	n, err := io.ReadFull(p.host, got)
	if err := errors.Join(err, <-wrote); err != nil {
		return fmt.Errorf("after %d of %d octets: %w", n, octets, err)
	}
	if !bytes.Equal(sent, got) {
		return errors.New("what arrived is not what was sent")
	}
	return nil
}

// A connection whose peer's segments come as fragments goes home for that, and
// loses nothing; it may be offloaded again.
func TestFragmentsComeHome(t *testing.T) {
	r := newRig(t)
	far := r.addFar()
	l, err := r.Host.Listen("tcp", netip.AddrPortFrom(r.HostIP4, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := r.connectTo(l, far, 1)[0]
	for range 2 {
		r.moved(r.offload(p.selector()), 1)
		p.exchange(t, "in whole segments")
		var c driver.Connection
		eventually(t, "it is home", func() bool {
			if err := p.bulk(20_000); err != nil {
				t.Fatal(err)
			}
			c = r.list(p.selector())[0]
			return c.Place == driver.InKernel
		})
		if c.Reason != "fragments" {
			t.Fatalf("it came home for %q", c.Reason)
		}
	}
}
