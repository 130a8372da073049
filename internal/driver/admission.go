package driver

import (
	"fmt"
	"net/netip"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/kernel"
)

// way is what a route depends on, of all that is known of a socket.
type way struct {
	local, remote netip.Addr
	boundIf, mark uint32
}

// wayOf is what the route of a socket's packets depends on.
func wayOf(id flow.ID, s *abi.KernelState) way {
	return way{id.Local.Addr(), id.Remote.Addr(), s.BoundIf, s.Socket.Mark}
}

// keptRoutes bounds the cache of routes.
const keptRoutes = 4096

// routes remembers where packets go until something changes. A look-up costs
// several netlink round trips, which would be most of an offload's time.
type routes struct {
	known  map[way]kernel.Route
	silent map[neighbour]bool // those that were asked for and did not answer, as the kernel last said
}

// A neighbour is one that packets may go to next.
type neighbour struct {
	ifindex int
	address netip.Addr
}

func (r *routes) forget() { clear(r.known) }

// hear takes in a change. A neighbour that did not answer may be asked again at
// any time, which is no news; so what the table says at another moment is not
// looked at.
func (r *routes) hear(c *kernel.Change) {
	r.forget()
	n := neighbour{c.Ifindex, c.Address.Unmap()}
	switch {
	case c.Kind == kernel.Overrun:
		clear(r.silent)
	case c.Kind != kernel.NeighbourChanged:
	case !c.Silent:
		delete(r.silent, n)
	case len(r.silent) < keptRoutes:
		if r.silent == nil {
			r.silent = make(map[neighbour]bool)
		}
		r.silent[n] = true
	}
}

// isSilent reports that the next hop of a route does not answer.
func (r *routes) isSilent(route *kernel.Route, remote netip.Addr) bool {
	hop := remote
	if route.Gateway.IsValid() {
		hop = route.Gateway
	}
	return len(route.NextHop) == 0 && r.silent[neighbour{route.Ifindex, hop.Unmap()}]
}

func (r *routes) to(id flow.ID, w way) (kernel.Route, error) {
	if route, ok := r.known[w]; ok {
		return route, nil
	}
	route, err := kernel.RouteTo(id, w.mark, int(w.boundIf))
	if err != nil {
		return route, err
	}
	if len(r.known) >= keptRoutes || r.known == nil {
		r.known = make(map[way]kernel.Route)
	}
	// A next hop that is not resolved may be a moment later.
	if route.Local || len(route.NextHop) > 0 || r.isSilent(&route, w.remote) {
		r.known[w] = route
	}
	return route, nil
}

// A ruling is the decision about one connection before any device is asked.
type ruling struct {
	uplink *uplink // nil: refused
	path   handover.Path
	reason abi.Reason
	detail string
}

func no(r abi.Reason, format string, args ...any) ruling {
	if format == "" {
		return ruling{reason: r, detail: r.Text()}
	}
	return ruling{reason: r, detail: fmt.Sprintf(format, args...)}
}

// rule checks the nature of a connection: by which uplink it leaves, and that
// neither NAT nor IPsec stands between socket and wire. What the socket
// itself forbids is the table's to check, with the same probe that the offer
// is made from.
func (d *Driver) rule(id flow.ID, state *abi.KernelState) ruling {
	if state.Special&abi.SpecialMissing != 0 {
		return no(abi.NoConnection, "")
	}
	if id.Local.Addr() == id.Remote.Addr() || id.Remote.Addr().IsLoopback() {
		return no(abi.NoUplink, "both ends are on this host")
	}
	route, err := d.routeTo(id, wayOf(id, state))
	if err != nil {
		return no(abi.NoUplink, "route to %s: %v", id.Remote.Addr(), err)
	}
	if route.Local {
		return no(abi.NoUplink, "both ends are on this host")
	}
	u := d.byIndex(route.Ifindex)
	if u == nil {
		return no(abi.NoUplink, "its route leaves by %s, which is no uplink of this daemon", route.IfName)
	}
	tracked, nat, err := kernel.Tracked(id)
	switch {
	case err != nil:
		return no(abi.InternalError, "%v", err)
	case nat:
		return no(abi.NAT, "")
	case tracked:
		if err := kernel.Liberal(id); err != nil {
			d.log.Warn("conntrack may find segments of a connection that comes home invalid", "err", err)
		}
	}
	if policy, err := kernel.XFRM(id); err != nil {
		return no(abi.InternalError, "xfrm: %v", err)
	} else if policy {
		return no(abi.XFRM, "")
	}
	return ruling{uplink: u, path: pathOf(&route)}
}

// pathOf is a route as the device is told of it.
func pathOf(r *kernel.Route) handover.Path {
	p := handover.Path{MTU: uint32(r.PathMTU)}
	copy(p.NextHop[:], r.NextHop)
	copy(p.Source[:], r.Source)
	return p
}
