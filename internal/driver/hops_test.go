package driver

import (
	"net"
	"net/netip"
	"testing"

	"toehold/internal/abi"
	"toehold/internal/kernel"
)

func linkAddress(n byte) [6]byte { return [6]byte{2, 0, 0, 0, 0, n} }

func routeBy(n byte) *kernel.Route {
	l := linkAddress(n)
	return &kernel.Route{NextHop: net.HardwareAddr(l[:])}
}

// A link address is dead when nobody is reached by it; many more than can be
// told of are cut short, in the same order each time.
func TestNextHops(t *testing.T) {
	var h nextHops
	if d := h.dead(); len(d) != 0 {
		t.Errorf("before anything: %v", d)
	}
	h.note(linkAddress(1), routeBy(1), false)
	h.note(linkAddress(2), &kernel.Route{}, true)
	h.note(linkAddress(3), &kernel.Route{}, false) // not known, but nobody has asked
	h.note([6]byte{}, &kernel.Route{}, true)       // never known
	if d := h.dead(); len(d) != 1 || d[0] != linkAddress(2) {
		t.Errorf("one is silent: %v", d)
	}
	h.note(linkAddress(4), routeBy(2), false) // the same router by another address
	if d := h.dead(); len(d) != 0 {
		t.Errorf("it answers: %v", d)
	}
	for n := range byte(100) {
		h.note(linkAddress(100+n), &kernel.Route{}, true)
	}
	if d := h.dead(); len(d) != abi.MaxDeadHops || d[0] != linkAddress(100) || d[1] != linkAddress(101) {
		t.Errorf("a hundred are silent: %v", d)
	}
}

// The kernel's word that a neighbour does not answer counts until it says
// something else, whatever the table has of it meanwhile.
func TestSilentNeighbours(t *testing.T) {
	var r routes
	gateway, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	remote := netip.MustParseAddr("192.0.2.1")
	by := func(a netip.Addr) *kernel.Route { return &kernel.Route{Ifindex: 3, Gateway: a} }
	change := func(c kernel.Change) *kernel.Change {
		c.Kind, c.Ifindex, c.Address = kernel.NeighbourChanged, 3, gateway
		return &c
	}
	for i, tt := range []struct {
		change *kernel.Change
		silent bool
	}{
		{change(kernel.Change{Gone: true}), false},
		{change(kernel.Change{Gone: true, Silent: true}), true},
		{&kernel.Change{Kind: kernel.RouteChanged, Ifindex: 3}, true},
		{&kernel.Change{Kind: kernel.NeighbourChanged, Ifindex: 4, Address: gateway}, true},
		{change(kernel.Change{}), false},
		{change(kernel.Change{Gone: true, Silent: true}), true},
		{&kernel.Change{Kind: kernel.Overrun}, false},
	} {
		r.hear(tt.change)
		if got := r.isSilent(by(gateway), remote); got != tt.silent || r.isSilent(by(other), remote) || r.isSilent(by(netip.Addr{}), remote) {
			t.Errorf("after change %d: %v", i, got)
		}
	}
	r.hear(change(kernel.Change{Gone: true, Silent: true}))
	if !r.isSilent(&kernel.Route{Ifindex: 3}, gateway) {
		t.Error("a peer on the link")
	}
	known := routeBy(1)
	known.Ifindex, known.Gateway = 3, gateway
	if r.isSilent(known, remote) {
		t.Error("its link address is known")
	}
}

// Without an interface there is nobody to tell.
func TestStopHopsWithoutInterface(t *testing.T) {
	u := testUplink()
	u.stopHops([][6]byte{linkAddress(1)})
	if len(u.journal.Events()) != 0 {
		t.Error("it tells of it")
	}
}
