package kernel

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/testnet"
)

// A program may have bound its socket before it connected: to a port, which
// the socket then keeps, to an address, or to both.
func TestRebuildBound(t *testing.T) {
	n := testnet.New(t)
	for _, tt := range []struct {
		name  string
		local netip.AddrPort
	}{
		{"port", netip.AddrPortFrom(netip.IPv4Unspecified(), 23456)},
		{"address", netip.AddrPortFrom(n.HostIP4, 0)},
		{"both", netip.AddrPortFrom(n.HostIP4, 23457)},
		{"both, IPv6", netip.AddrPortFrom(n.HostIP6, 23458)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := dialFrom(t, n, &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(tt.local)})
			name := endpoints(t, p.fd)
			for range 2 {
				p.rebuilt(t, nil)
				carries(t, p.s, p.peer, noise(5000, 1))
				carries(t, p.peer, p.s, noise(5000, 2))
			}
			if got := endpoints(t, p.fd); got != name {
				t.Errorf("names %s, were %s", got, name)
			}
		})
	}
}

// dialFrom connects from the host, from an address of choice.
func dialFrom(t *testing.T, n *testnet.Net, d *net.Dialer) *pair {
	t.Helper()
	to := n.PeerIP4
	if d.LocalAddr.(*net.TCPAddr).IP.To4() == nil {
		to = n.PeerIP6
	}
	l, err := n.Peer.Listen("tcp", netip.AddrPortFrom(to, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var c net.Conn
	in(t, n.Host, func() (err error) {
		c, err = d.Dial("tcp", l.Addr().String())
		return err
	})
	t.Cleanup(func() { c.Close() })
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	p := &pair{net: n, s: c.(*net.TCPConn), peer: a.(*net.TCPConn)}
	p.id, p.fd = idOf(p.s), descriptor(t, p.s)
	return p
}

// A transparent proxy's socket has an address that is not the host's.
func TestRebuildTransparent(t *testing.T) {
	n := testnet.New(t)
	foreign := netip.MustParseAddr("203.0.113.7")
	to := &net.IPNet{IP: foreign.AsSlice(), Mask: net.CIDRMask(32, 32)}
	in(t, n.Peer, func() error {
		l, err := netlink.LinkByName(n.PeerIf)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: to, Gw: n.HostIP4.AsSlice()})
	})
	local := &netlink.Route{LinkIndex: 1, Dst: to, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST}
	in(t, n.Host, func() error { return netlink.RouteAdd(local) })
	p := dialFrom(t, n, &net.Dialer{
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(foreign, 0)),
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			control := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1) })
			return errors.Join(control, err)
		},
	})
	settled(t, p)
	in(t, n.Host, func() error { return netlink.RouteDel(local) }) // the address is nobody's
	p.rebuilt(t, nil)
	in(t, n.Host, func() error { return netlink.RouteAdd(local) })
	carries(t, p.s, p.peer, noise(5000, 1))
	carries(t, p.peer, p.s, noise(5000, 2))
}

// Link-local addresses need their interface, which the kernel has bound the
// socket to.
func TestRebuildLinkLocal(t *testing.T) {
	n := testnet.New(t)
	const host, peer = "fe80::70e4:1", "fe80::70e4:2"
	for ns, a := range map[*testnet.Namespace][2]string{n.Host: {n.HostIf, host}, n.Peer: {n.PeerIf, peer}} {
		in(t, ns, func() error {
			l, err := netlink.LinkByName(a[0])
			if err != nil {
				return err
			}
			address, err := netlink.ParseAddr(a[1] + "/64")
			if err != nil {
				return err
			}
			address.Flags = unix.IFA_F_NODAD
			return netlink.AddrAdd(l, address)
		})
	}
	l, err := n.Host.Listen("tcp6", net.JoinHostPort(host+"%"+n.HostIf, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var c net.Conn
	in(t, n.Peer, func() (err error) {
		c, err = net.Dial("tcp6", net.JoinHostPort(host+"%"+n.PeerIf, portOf(l.Addr().(*net.TCPAddr).AddrPort())))
		return err
	})
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p := &pair{net: n, s: s.(*net.TCPConn), peer: c.(*net.TCPConn)}
	p.fd = descriptor(t, p.s)
	bare := func(a net.Addr) netip.AddrPort { // as a flow has it
		ap := a.(*net.TCPAddr).AddrPort()
		return netip.AddrPortFrom(ap.Addr().WithZone(""), ap.Port())
	}
	p.id = flow.Make(bare(s.LocalAddr()), bare(s.RemoteAddr()))
	name := endpoints(t, p.fd)
	p.rebuilt(t, nil)
	if got := endpoints(t, p.fd); got != name {
		t.Errorf("names %s, were %s", got, name)
	}
	carries(t, p.s, p.peer, noise(5000, 1))
	carries(t, p.peer, p.s, noise(5000, 2))
}

// A socket that is tied to a channel comes home with what came by the channel,
// at sequence numbers that count it.
func TestRebuildFromChannel(t *testing.T) {
	n := testnet.New(t)
	set, err := bpf.Load(bpf.Config{MaxConnections: 8, StaleAfter: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set.Close() })
	if err := set.OpenChannels(); err != nil {
		t.Fatal(err)
	}
	p := newPair(t, n, kinds[0])
	carries(t, p.peer, p.s, noise(100, 1))
	settled(t, p)
	c := channelIn(t, n.Host)
	if err := set.Tie(3, p.fd, c, 1<<20); err != nil {
		t.Fatal(err)
	}
	atomic.StoreUint32(&set.Blocks()[3].Channel.Open, 1)
	came, sent := noise(50_000, 2), noise(20_000, 3)
	if _, err := unix.Write(c, came); err != nil {
		t.Fatal(err)
	}
	gets(t, p.s, came[:10_000])
	if _, err := p.s.Write(sent); err != nil {
		t.Fatal(err)
	}
	open := cut(t, n)
	mine := fromChannel(t, set, p, c, len(came), len(sent))
	other := salvaged(t, descriptor(t, p.peer), p.id.Reverse())
	other.SndUna += uint32(len(came)) // by the device
	other.SndWL1 = other.RcvNxt
	in(t, n.Host, func() error { return Restore(p.fd, mine) })
	in(t, n.Peer, func() error { return Restore(descriptor(t, p.peer), other) })
	open()
	for _, err := range []error{Finish(descriptor(t, p.peer), other, false), Finish(p.fd, mine, true)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	gets(t, p.s, came[10_000:])
	gets(t, p.peer, sent)
	carries(t, p.peer, p.s, came)
	carries(t, p.s, p.peer, sent)
}

func channelIn(t *testing.T, ns *testnet.Namespace) (fd int) {
	t.Helper()
	in(t, ns, func() (err error) { fd, err = OpenChannel(); return err })
	t.Cleanup(func() { CloseChannel(fd) })
	return fd
}

// fromChannel takes what both queues of the sockmap have, and describes the
// socket that is to be.
func fromChannel(t *testing.T, set *bpf.Set, p *pair, c, came, sent int) *Rebuild {
	t.Helper()
	for fd, want := range map[int]int{p.fd: came - 10_000, c: sent} {
		if got, err := unread(fd); got != want || err != nil {
			t.Errorf("%d octets are unread, %v; want %d", got, err, want)
		}
	}
	unread, _, err1 := TakeUnread(p.fd)
	unsent, _, err2 := TakeUnread(c)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := set.Untie(3); err != nil {
		t.Fatal(err)
	}
	r, err := Salvage(p.fd, p.id)
	if err != nil {
		t.Fatal(err)
	}
	r.RcvNxt += uint32(came)
	r.RcvWup, r.SndWL1 = r.RcvNxt, r.RcvNxt
	r.Unread, r.Unsent = pieces(unread), pieces(unsent)
	return r
}

// What cannot be carried is as docs/KERNEL.md says: the socket has measured
// and counted nothing.
func TestRebuildForgets(t *testing.T) {
	n := testnet.New(t)
	p := newPair(t, n, kinds[0])
	carries(t, p.s, p.peer, noise(100_000, 1))
	settled(t, p)
	before := infoOf(t, p.fd)
	if before.Rtt == 0 || before.Bytes_acked == 0 {
		t.Fatalf("%+v has measured nothing", before)
	}
	cut(t, n)
	r := salvaged(t, p.fd, p.id)
	in(t, n.Host, func() error { return Restore(p.fd, r) })
	after := infoOf(t, p.fd)
	if after.Rtt != 0 || after.Rto != 3_000_000 || after.Snd_cwnd != 10 || after.Bytes_acked != 0 || after.Segs_out != 0 {
		t.Errorf("RTT %d, RTO %d, window %d, %d octets acknowledged, %d segments sent",
			after.Rtt, after.Rto, after.Snd_cwnd, after.Bytes_acked, after.Segs_out)
	}
	if after.Advmss != before.Advmss+12 {
		t.Errorf("MSS %d is held for advertised, was %d", after.Advmss, before.Advmss)
	}
}
