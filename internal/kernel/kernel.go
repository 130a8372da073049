// Package kernel reads what the kernel knows of this network namespace's TCP
// connections: the sockets and who holds them, where their packets go, and
// what changes on the way.
package kernel

import (
	"net"
	"net/netip"

	"toehold/internal/abi"
	"toehold/internal/flow"
)

// A Socket is one TCP connection as the software stack has it.
type Socket struct {
	Flow  flow.ID
	State abi.KernelState
	Owner Owner
}

// An Owner is a process that holds a socket. PID 0: none was found.
type Owner struct {
	PID  int
	Comm string
	FD   int
}

// A Route is the way of a flow's packets out of this host.
type Route struct {
	Ifindex int
	IfName  string
	PathMTU int        // octets of IP packet
	Gateway netip.Addr // zero: the peer is on the link
	Source  net.HardwareAddr
	NextHop net.HardwareAddr // nil: not in the neighbour table, or a link without addresses
	Local   bool             // the peer is this host itself
}

// A ChangeKind says what a Change is about.
type ChangeKind uint8

// The kinds of change.
const (
	LinkChanged ChangeKind = 1 + iota
	AddressChanged
	RouteChanged
	NeighbourChanged
	RulesChanged // that packets go by: of nftables, of IPsec, of tc
	Overrun      // changes were lost: anything may have changed
)

// A Change is something that may alter where packets go, or what is done to them.
type Change struct {
	Kind     ChangeKind
	Ifindex  int              // 0: a route that names no interface
	Gone     bool             // the link, address, route or neighbour was removed
	Silent   bool             // NeighbourChanged: it was asked for and does not answer
	Up       bool             // LinkChanged: the link is up and has a carrier
	MTU      int              // LinkChanged
	Prefix   netip.Prefix     // AddressChanged, RouteChanged (0.0.0.0/0: the default)
	Address  netip.Addr       // NeighbourChanged
	Hardware net.HardwareAddr // NeighbourChanged, LinkChanged
}
