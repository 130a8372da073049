// Package flow names a TCP connection by its four-tuple, as this host sees it.
package flow

import (
	"encoding/binary"
	"net/netip"
)

// ID is a TCP connection's four-tuple from this host's side: Local is the
// address of the program's socket, Remote the peer's. Addresses are never
// IPv4-mapped IPv6 and carry no zone.
type ID struct {
	Local, Remote netip.AddrPort
}

// Make builds an ID, unmapping IPv4-mapped addresses and dropping zones.
func Make(local, remote netip.AddrPort) ID {
	return ID{plain(local), plain(remote)}
}

func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Is4 reports whether the flow is carried by IPv4.
func (id ID) Is4() bool { return id.Local.Addr().Is4() }

// Reverse returns the flow as the peer sees it.
func (id ID) Reverse() ID { return ID{id.Remote, id.Local} }

// String is "local remote", both as address:port.
func (id ID) String() string { return id.Local.String() + " " + id.Remote.String() }

// Key is an ID as it stands in BPF maps and in shared memory
// (struct flow_key in internal/bpf/c/toehold.h): 40 octets, addresses in
// network order, an IPv4 address in the first four octets of its field.
type Key struct {
	Local, Remote         [16]byte
	LocalPort, RemotePort [2]byte // network order
	Family                uint8   // 4 or 6
	_                     [3]byte
}

// Key returns the map form of id.
func (id ID) Key() Key {
	k := Key{Family: 6}
	if id.Is4() {
		k.Family = 4
		l, r := id.Local.Addr().As4(), id.Remote.Addr().As4()
		copy(k.Local[:], l[:])
		copy(k.Remote[:], r[:])
	} else {
		k.Local, k.Remote = id.Local.Addr().As16(), id.Remote.Addr().As16()
	}
	binary.BigEndian.PutUint16(k.LocalPort[:], id.Local.Port())
	binary.BigEndian.PutUint16(k.RemotePort[:], id.Remote.Port())
	return k
}

// Reverse returns the key with its ends exchanged.
func (k Key) Reverse() Key {
	k.Local, k.Remote = k.Remote, k.Local
	k.LocalPort, k.RemotePort = k.RemotePort, k.LocalPort
	return k
}

// ID returns the flow that k names; a family that is neither 4 nor 6 gives
// the zero ID.
func (k Key) ID() ID {
	lp, rp := binary.BigEndian.Uint16(k.LocalPort[:]), binary.BigEndian.Uint16(k.RemotePort[:])
	switch k.Family {
	case 4:
		l := netip.AddrFrom4([4]byte(k.Local[:4]))
		r := netip.AddrFrom4([4]byte(k.Remote[:4]))
		return ID{netip.AddrPortFrom(l, lp), netip.AddrPortFrom(r, rp)}
	case 6:
		l, r := netip.AddrFrom16(k.Local), netip.AddrFrom16(k.Remote)
		return ID{netip.AddrPortFrom(l, lp), netip.AddrPortFrom(r, rp)}
	}
	return ID{}
}
