package kernel

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/flow"
)

// RouteTo finds the way of a flow's packets, as the kernel would route them
// now, in the calling thread's namespace: with the socket's mark, and over
// the interface that it is bound to (0: none).
func RouteTo(id flow.ID, mark uint32, boundIf int) (Route, error) {
	local, remote := id.Local.Addr(), id.Remote.Addr()
	routes, err := netlink.RouteGetWithOptions(remote.AsSlice(), &netlink.RouteGetOptions{
		SrcAddr:  local.AsSlice(),
		OifIndex: boundIf,
		Mark:     mark,
	})
	if err != nil {
		return Route{}, fmt.Errorf("route of %v: %w", id, err)
	}
	if len(routes) == 0 {
		return Route{}, fmt.Errorf("route of %v: %w", id, unix.ENETUNREACH)
	}
	return fillRoute(&routes[0], remote)
}

// fillRoute adds what link and neighbour tables know.
func fillRoute(found *netlink.Route, remote netip.Addr) (Route, error) {
	l, err := netlink.LinkByIndex(found.LinkIndex)
	if err != nil {
		return Route{}, fmt.Errorf("interface %d of the route to %v: %w", found.LinkIndex, remote, err)
	}
	attributes := l.Attrs()
	r := Route{
		Ifindex: found.LinkIndex,
		IfName:  attributes.Name,
		PathMTU: attributes.MTU,
		Source:  attributes.HardwareAddr,
		Local:   found.Type == unix.RTN_LOCAL || attributes.Flags&net.FlagLoopback != 0,
	}
	if found.MTU > 0 && found.MTU < r.PathMTU {
		r.PathMTU = found.MTU // of the route, or learned of the path
	}
	r.Gateway = gatewayOf(found)
	hop := remote
	if r.Gateway.IsValid() {
		hop = r.Gateway
	}
	r.NextHop, err = neighbour(found.LinkIndex, hop)
	return r, err
}

// gatewayOf is the next hop's address, which may be of the other family
// (RFC 5549), or the zero address.
func gatewayOf(r *netlink.Route) netip.Addr {
	ip := r.Gw
	if via, ok := r.Via.(*netlink.Via); ok {
		ip = via.Addr
	}
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// usable are the states of a neighbour whose link address may be used.
const usable = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT

// neighbour is the link address of a, nil when the table has none.
func neighbour(ifindex int, a netip.Addr) (net.HardwareAddr, error) {
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	neighbours, err := netlink.NeighList(ifindex, family)
	if err != nil {
		return nil, fmt.Errorf("neighbours of interface %d: %w", ifindex, err)
	}
	for _, n := range neighbours {
		is, _ := netip.AddrFromSlice(n.IP)
		if is.Unmap() == a && n.State&usable != 0 {
			return n.HardwareAddr, nil
		}
	}
	return nil, nil
}
