// Package testnet makes small networks out of network namespaces, for tests
// and for the demo: a host and a peer, joined by a veth or by a bridge that
// does harm. The namespaces have
// no names and are held by descriptors alone, so a network vanishes with the
// process that made it, however that ends.
package testnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Net is two namespaces, joined by a veth with the addresses 10.77.x.1 and
// .2 (/24), fd77:x::1 and ::2 (/64). Connections over it use cubic, whatever
// the machine's default is.
type Net struct {
	Host, Peer       *Namespace
	HostIf, PeerIf   string // the veth's ends
	HostIP4, PeerIP4 netip.Addr
	HostIP6, PeerIP6 netip.Addr
	Bridge           *Bridge // between the ends, nil: a veth

	closing sync.Once
	closed  error
}

// made counts networks, so that the ones of a process differ in addresses.
var made atomic.Uint32

// New makes a network that is removed when the test ends. Without root the
// test is skipped.
func New(t testing.TB) *Net {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	n, err := NewPair("t")
	if err != nil {
		t.Fatalf("make a network: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("remove the network: %v", err)
		}
	})
	return n
}

// NewPair makes a network whose interfaces are called name-host and
// name-peer; name has at most 10 octets. The caller closes it.
func NewPair(name string) (*Net, error) { return newNet(name, (*Net).addVeth) }

// NewBridged is NewPair with a Bridge in place of the veth.
func NewBridged(name string) (*Net, error) { return newNet(name, (*Net).addBridge) }

func newNet(name string, join func(*Net) error) (*Net, error) {
	if len(name) == 0 || len(name) > unix.IFNAMSIZ-1-len("-host") {
		return nil, fmt.Errorf("network name %q has not 1 to 10 octets", name)
	}
	n := &Net{HostIf: name + "-host", PeerIf: name + "-peer"}
	n.number(byte(1 + (uint32(os.Getpid())+made.Add(1))%250))
	if err := n.build(join); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// number gives the addresses of network x.
func (n *Net) number(x byte) {
	n.HostIP4 = netip.AddrFrom4([4]byte{10, 77, x, 1})
	n.PeerIP4 = netip.AddrFrom4([4]byte{10, 77, x, 2})
	n.HostIP6 = netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 3: x, 15: 1})
	n.PeerIP6 = netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 3: x, 15: 2})
}

func (n *Net) build(join func(*Net) error) error {
	var err error
	if n.Host, err = NewNamespace(); err != nil {
		return fmt.Errorf("host namespace: %w", err)
	}
	if n.Peer, err = NewNamespace(); err != nil {
		return fmt.Errorf("peer namespace: %w", err)
	}
	if err := join(n); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	if err := n.Host.Configure(n.HostIf, n.HostIP4, n.HostIP6); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	if err := n.Peer.Configure(n.PeerIf, n.PeerIP4, n.PeerIP6); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	return nil
}

func (n *Net) addVeth() error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = n.HostIf
	veth := &netlink.Veth{LinkAttrs: attributes, PeerName: n.PeerIf, PeerNamespace: netlink.NsFd(n.Peer.FD())}
	return n.Host.Do(func() error { return netlink.LinkAdd(veth) })
}

// Close removes the veth and lets go of the namespaces. It may be called
// again, also at the same time.
func (n *Net) Close() error {
	n.closing.Do(func() { n.closed = n.remove() })
	return n.closed
}

func (n *Net) remove() error {
	var errs []error
	if n.Bridge != nil {
		errs = append(errs, n.Bridge.Close())
	}
	if n.Host != nil {
		errs = append(errs, n.Host.Do(n.deleteVeth), n.Host.Close())
	}
	if n.Peer != nil {
		errs = append(errs, n.Peer.Close())
	}
	return errors.Join(errs...)
}

// deleteVeth runs in the host's namespace. A namespace that a socket or a
// process still holds would keep the veth, and the traffic on it, alive.
func (n *Net) deleteVeth() error {
	link, err := netlink.LinkByName(n.HostIf)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

// A Namespace is a network namespace, held by a descriptor.
type Namespace struct {
	file *os.File
}

// NewNamespace makes an empty namespace, in which only loopback is up.
func NewNamespace() (*Namespace, error) {
	ns := new(Namespace)
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		ns.file = file
		return err
	})
	if err == nil {
		err = ns.Do(prepare)
	}
	if err != nil && ns.file != nil {
		ns.file.Close()
	}
	return ns, err
}

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		done <- f()
	}()
	return <-done
}

// prepare runs in the new namespace.
func prepare() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return errors.Join(
		// Else a link-local address is not usable for a second.
		os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644),
		// A connection shall know nothing of those before it.
		os.WriteFile("/proc/sys/net/ipv4/tcp_no_metrics_save", []byte("1"), 0o644))
}

// Configure gives an interface of the namespace its addresses (/24 and /64)
// and sets it up. Connections to these networks use cubic.
func (ns *Namespace) Configure(ifName string, addresses ...netip.Addr) error {
	return ns.Do(func() error {
		link, err := netlink.LinkByName(ifName)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		for _, a := range addresses {
			if err := addAddress(link, prefix(a)); err != nil {
				return fmt.Errorf("add %v to %s: %w", a, ifName, err)
			}
		}
		return nil
	})
}

func prefix(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(a, 24)
	}
	return netip.PrefixFrom(a, 64)
}

// addAddress adds an address and the route to its network. The kernel does
// not add the route, since it is the route that chooses cubic: outside of the
// first namespace the sysctl takes only what the machine's administrator
// allows, and the default may be BBR, which a veth slows to a third.
func addAddress(link netlink.Link, p netip.Prefix) error {
	address, err := netlink.ParseAddr(p.String())
	if err != nil {
		return err
	}
	address.Flags = unix.IFA_F_NOPREFIXROUTE
	if p.Addr().Is6() {
		address.Flags |= unix.IFA_F_NODAD // else unusable for a second
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return err
	}
	network := &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: address.Mask}
	return netlink.RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       network,
		Scope:     netlink.SCOPE_LINK,
		Congctl:   "cubic",
	})
}

// FD is the descriptor of the namespace, which stays the Namespace's.
func (ns *Namespace) FD() int { return int(ns.file.Fd()) }

// Close lets go of the namespace. It lives on while a process or a socket is
// in it.
func (ns *Namespace) Close() error {
	if ns == nil || ns.file == nil {
		return nil
	}
	return ns.file.Close()
}
