package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/testnet"
)

// An optionValue is a socket option, and what a program may have set it to.
type optionValue struct {
	name                 string
	level, number, value int
}

// ordinary are options of any TCP socket; those of an address family follow.
var ordinary = []optionValue{
	{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
	{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
	{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{"SO_OOBINLINE", unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
	{"SO_SNDBUF", unix.SOL_SOCKET, unix.SO_SNDBUF, 50_000},
	{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, 70_000},
	{"SO_BUF_LOCK", unix.SOL_SOCKET, unix.SO_BUF_LOCK, 3},
	{"SO_RCVLOWAT", unix.SOL_SOCKET, unix.SO_RCVLOWAT, 3},
	{"SO_PRIORITY", unix.SOL_SOCKET, unix.SO_PRIORITY, 5},
	{"SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, 0x17},
	{"SO_MAX_PACING_RATE", unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 1 << 28},
	{"SO_TIMESTAMPING", unix.SOL_SOCKET, unix.SO_TIMESTAMPING, unix.SOF_TIMESTAMPING_SOFTWARE | unix.SOF_TIMESTAMPING_RX_SOFTWARE},
	{"SO_PEEK_OFF", unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0},
	{"SO_ZEROCOPY", unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1},
	{"SO_BUSY_POLL", unix.SOL_SOCKET, unix.SO_BUSY_POLL, 10},
	{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 0},
	{"TCP_CORK", unix.IPPROTO_TCP, unix.TCP_CORK, 1},
	{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 77},
	{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 33},
	{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
	{"TCP_LINGER2", unix.IPPROTO_TCP, unix.TCP_LINGER2, 11},
	{"TCP_WINDOW_CLAMP", unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, 40_000},
	{"TCP_QUICKACK", unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0},
	{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 12_345},
	{"TCP_NOTSENT_LOWAT", unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 9_999},
	{"TCP_THIN_LINEAR_TIMEOUTS", unix.IPPROTO_TCP, unix.TCP_THIN_LINEAR_TIMEOUTS, 1},
	{"TCP_INQ", unix.IPPROTO_TCP, unix.TCP_INQ, 1},
	{"TCP_SYNCNT", unix.IPPROTO_TCP, unix.TCP_SYNCNT, 3},
	{"TCP_RTO_MAX_MS", unix.IPPROTO_TCP, 44, 60_000},
	{"TCP_RTO_MIN_US", unix.IPPROTO_TCP, tcpRTOMin, 40_000},
	{"TCP_DELACK_MAX_US", unix.IPPROTO_TCP, tcpDelackMax, 20_000},
}

var ordinaryIPv4 = []optionValue{
	{"IP_TOS", unix.IPPROTO_IP, unix.IP_TOS, 0x48},
	{"IP_TTL", unix.IPPROTO_IP, unix.IP_TTL, 33},
	{"IP_MTU_DISCOVER", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO},
	{"IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
	{"IP_TRANSPARENT", unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1},
	{"IP_RECVTOS", unix.IPPROTO_IP, unix.IP_RECVTOS, 1},
	{"IP_MINTTL", unix.IPPROTO_IP, unix.IP_MINTTL, 2},
	{"IP_BIND_ADDRESS_NO_PORT", unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1},
}

var ordinaryIPv6 = []optionValue{
	{"IPV6_TCLASS", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 0x48},
	{"IPV6_UNICAST_HOPS", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 33},
	{"IPV6_MTU_DISCOVER", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO},
	{"IPV6_FREEBIND", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1},
	{"IPV6_TRANSPARENT", unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1},
	{"IPV6_AUTOFLOWLABEL", unix.IPPROTO_IPV6, 70, 0},
	{"IPV6_RECVTCLASS", unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1},
}

// settings are all of the options, as text.
func settings(t testing.TB, fd int, options []optionValue) []string {
	t.Helper()
	var list []string
	for _, o := range options {
		v, err := unix.GetsockoptInt(fd, o.level, o.number)
		if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
			t.Fatalf("%s: %v", o.name, err)
		}
		list = append(list, fmt.Sprintf("%s=%d", o.name, v))
	}
	linger, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
	control, err2 := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	device, err3 := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	flags, err4 := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err := errors.Join(err, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return append(list, fmt.Sprintf("SO_LINGER=%v", *linger), "TCP_CONGESTION="+control, "SO_BINDTODEVICE="+device, fmt.Sprintf("flags=%#x", flags))
}

// Every option that a program can set is as it was, whether it has set it or
// not, also with queues so full that the buffers had to be raised.
func TestRebuildKeepsOptions(t *testing.T) {
	n := testnet.New(t)
	for i, queued := range []int{1 << 20, 1 << 20, 0, 0, 0, 0} {
		t.Run(fmt.Sprintf("%s, %d queued", kinds[i].name, queued), func(t *testing.T) {
			keepsOptions(t, newPair(t, n, kinds[i]), queued)
		})
	}
}

func keepsOptions(t *testing.T, p *pair, queued int) {
	options := slices.Concat(ordinary, ordinaryIPv4)
	if socketInt(t, p.fd, unix.SO_DOMAIN) == unix.AF_INET6 {
		options = slices.Concat(ordinary, ordinaryIPv6)
	}
	carries(t, p.peer, p.s, noise(100, 30))
	carries(t, p.s, p.peer, noise(100, 30))
	settled(t, p)
	unset := settings(t, p.fd, options)
	p.rebuilt(t, func(r *Rebuild) {
		r.Unread = pieces(noise(queued, 31))
		r.RcvNxt += uint32(queued)
		r.RcvWup = r.RcvNxt
	})
	different(t, "unset", settings(t, p.fd, options), unset)

	for _, o := range options {
		if err := unix.SetsockoptInt(p.fd, o.level, o.number, o.value); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
			t.Fatalf("%s: %v", o.name, err)
		}
	}
	err := errors.Join(unix.SetsockoptLinger(p.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 2}),
		unix.SetsockoptString(p.fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno"),
		unix.SetsockoptString(p.fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, p.net.HostIf))
	if err != nil {
		t.Fatal(err)
	}
	set := settings(t, p.fd, options)
	p.rebuilt(t, func(r *Rebuild) { r.Sent = pieces(noise(queued, 32)); r.SndUna -= uint32(queued) })
	different(t, "set", settings(t, p.fd, options), set)
}

// different reports which settings are not as they were. Buffers that the
// kernel tunes may have become larger, and the window's limit with them.
func different(t *testing.T, when string, got, want []string) {
	t.Helper()
	for i := range got {
		tuned := when == "unset" && strings.HasPrefix(got[i], "SO_RCVBUF=")
		if got[i] != want[i] && !tuned {
			t.Errorf("%s: %s, was %s", when, got[i], want[i])
		}
	}
}

// Those of one listener stand beside it and each other, and the port can be
// listened on again while they live: SO_REUSEADDR is theirs again.
func TestRebuildBesideListener(t *testing.T) {
	n := testnet.New(t)
	l, err := n.Host.Listen("tcp4", netip.AddrPortFrom(n.HostIP4, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	var pairs []*pair
	for range 20 {
		pairs = append(pairs, acceptPair(t, n, kinds[0], l, n.Peer))
	}
	for _, p := range pairs {
		p.rebuilt(t, nil)
	}
	later := acceptPair(t, n, kinds[0], l, n.Peer)
	address := l.Addr().String()
	l.Close()
	again, err := n.Host.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for i, p := range append(pairs, later) {
		carries(t, p.s, p.peer, noise(1000, uint64(i)))
		carries(t, p.peer, p.s, noise(1000, uint64(i)))
	}
}

// The program's epoll instances know the socket as before: they tell what is
// unread, by level and by edge, and no error.
func TestRebuildUnderEpoll(t *testing.T) {
	n := testnet.New(t)
	p := newPair(t, n, kinds[0])
	level, edge := watched(t, p.fd, 0), watched(t, p.fd, unix.EPOLLET)
	told(t, level, unix.EPOLLOUT)
	told(t, edge, unix.EPOLLOUT)
	carries(t, p.peer, p.s, noise(10, 40))
	told(t, edge, unix.EPOLLOUT) // that they came; they have been read
	if _, err := p.peer.Write(noise(500, 41)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "octets have come", func() bool { u, err := unread(p.fd); return u == 500 && err == nil })
	p.rebuilt(t, nil)
	told(t, level, unix.EPOLLIN|unix.EPOLLOUT)
	told(t, edge, unix.EPOLLIN|unix.EPOLLOUT)
	gets(t, p.s, noise(500, 41))
	told(t, level, unix.EPOLLOUT)
	if _, err := p.peer.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	told(t, edge, unix.EPOLLIN|unix.EPOLLOUT)
	told(t, level, unix.EPOLLIN|unix.EPOLLOUT)
}

func watched(t *testing.T, fd int, how uint32) (epoll int) {
	t.Helper()
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(epoll) })
	err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | how, Fd: 7})
	if err != nil {
		t.Fatal(err)
	}
	return epoll
}

// told waits until an epoll instance tells just these events.
func told(t *testing.T, epoll int, want uint32) {
	t.Helper()
	var got []unix.EpollEvent
	eventually(t, fmt.Sprintf("epoll tells %#x", want), func() bool {
		events := make([]unix.EpollEvent, 4)
		n, err := unix.EpollWait(epoll, events, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		got = events[:max(n, 0)]
		for _, e := range got {
			if e.Events&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLRDHUP) != 0 {
				t.Fatalf("epoll tells %#x", e.Events)
			}
		}
		return len(got) == 1 && got[0].Events == want
	})
}

// A program that has said FIN has said it afterwards, whether the peer has
// acknowledged it or not; it goes on to read, and sees the peer's end.
func TestRebuildHalfClosed(t *testing.T) {
	n := testnet.New(t)
	for _, acknowledged := range []bool{true, false} {
		p := newPair(t, n, kinds[0])
		open := func() {}
		if !acknowledged {
			open = cut(t, n)
		}
		octets := noise(5000, 50)
		if _, err := p.s.Write(octets); err != nil {
			t.Fatal(err)
		}
		if err := p.s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if acknowledged {
			settled(t, p)
			open = cut(t, n)
		}
		r := salvaged(t, p.fd, p.id)
		if !r.ShutWrite || r.PeerFIN || acknowledged == (total(r.Sent) > 0) {
			t.Errorf("acknowledged %t: shut %t, FIN of the peer %t, %d octets", acknowledged, r.ShutWrite, r.PeerFIN, total(r.Sent))
		}
		in(t, n.Host, func() error { return Restore(p.fd, r) })
		open()
		if err := Finish(p.fd, r, true); err != nil {
			t.Fatal(err)
		}
		gets(t, p.peer, octets)
		ends(t, p.peer)
		carries(t, p.peer, p.s, noise(70_000, 51))
		if _, err := p.s.Write([]byte{1}); !errors.Is(err, unix.EPIPE) {
			t.Errorf("it may write: %v", err)
		}
		p.peer.Close()
		ends(t, p.s)
	}
}

func ends(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("%d octets, %v, where the end should be", n, err)
	}
}

// A program that has shut down the side that it reads gets what is there, and the
// end; it may write.
func TestRebuildShutRead(t *testing.T) {
	n := testnet.New(t)
	p := newPair(t, n, kinds[0])
	octets := noise(5000, 52)
	carries(t, p.s, p.peer, octets)
	if _, err := p.peer.Write(octets); err != nil {
		t.Fatal(err)
	}
	settled(t, p)
	eventually(t, "all has come", func() bool {
		n, err := unix.IoctlGetInt(p.fd, unix.SIOCINQ)
		return err == nil && n == len(octets)
	})
	if err := p.s.CloseRead(); err != nil {
		t.Fatal(err)
	}
	open := cut(t, n)
	r := salvaged(t, p.fd, p.id)
	in(t, n.Host, func() error { return Restore(p.fd, r) })
	open()
	if err := Finish(p.fd, r, true); err != nil {
		t.Fatal(err)
	}
	gets(t, p.s, octets)
	ends(t, p.s)
	carries(t, p.s, p.peer, octets)
}

// However little may be unsent by its TCP_NOTSENT_LOWAT, all is queued.
func TestRebuildNotSentLowat(t *testing.T) {
	n := testnet.New(t)
	for _, lowat := range []int{1, 16384} {
		p := newPair(t, n, kinds[0])
		open := cut(t, n)
		r := salvaged(t, p.fd, p.id)
		octets := noise(300<<10, 53)
		const sent = 50 << 10
		r.Sent, r.Unsent, r.NotSentLowat = pieces(octets[:sent]), pieces(octets[sent:]), lowat
		if err := unix.SetsockoptInt(p.fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 1); err != nil {
			t.Fatal(err)
		}
		in(t, n.Host, func() error { return Restore(p.fd, r) })
		open()
		if err := Finish(p.fd, r, true); err != nil {
			t.Fatal(err)
		}
		gets(t, p.peer, octets)
		if got, err := unix.GetsockoptInt(p.fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); got != lowat || err != nil {
			t.Errorf("TCP_NOTSENT_LOWAT is %d, %v; want %d", got, err, lowat)
		}
	}
}

// A FIN of the peer that the socket had is to be given to it again, after what
// is unread.
func TestSalvagePeerFIN(t *testing.T) {
	n := testnet.New(t)
	p := newPair(t, n, kinds[0])
	if _, err := p.peer.Write(noise(100, 60)); err != nil {
		t.Fatal(err)
	}
	if err := p.peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the FIN has come", func() bool { return infoOf(t, p.fd).State == unix.BPF_TCP_CLOSE_WAIT })
	unread, fin, err := TakeUnread(p.fd)
	if err != nil || !fin || len(unread) != 100 {
		t.Fatalf("%d octets, FIN %t, %v", len(unread), fin, err)
	}
	r, err := Salvage(p.fd, p.id)
	if err != nil {
		t.Fatal(err)
	}
	if !r.PeerFIN || r.ShutWrite || int32(r.RcvWup-r.RcvNxt) > 0 {
		t.Errorf("%+v", r)
	}
}

// Timestamps do not go back, keep their unit when the route names another, and
// begin where they are asked to.
func TestRebuildTimestamps(t *testing.T) {
	n := testnet.New(t)
	p := newPair(t, n, kinds[0])
	stamp := func() uint32 {
		v, err := unix.GetsockoptInt(p.fd, unix.IPPROTO_TCP, unix.TCP_TIMESTAMP)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(v)
	}
	for _, ahead := range []uint32{0, 5000} {
		before := stamp()
		p.rebuilt(t, func(r *Rebuild) {
			if ahead != 0 {
				r.TSVal = before + ahead
			}
		})
		after := stamp()
		if after&1 != before&1 || int32(after-before-ahead) < 0 || after-before-ahead > 3000 {
			t.Errorf("%d ahead: %d, was %d", ahead, after, before)
		}
		carries(t, p.s, p.peer, noise(5000, 70))
		carries(t, p.peer, p.s, noise(5000, 71))
	}
	in(t, n.Host, func() error { return microseconds(n) })
	before := stamp()
	p.rebuilt(t, nil)
	if after := stamp(); after&1 != before&1 || int32(after-before) < 0 || after-before > 10_000 {
		t.Errorf("with another unit: %d, was %d", after, before)
	}
	carries(t, p.s, p.peer, noise(5000, 72))
	in(t, n.Peer, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netstat")
		if counter(string(text), "PAWSEstab") != "0" {
			t.Errorf("the peer has refused timestamps")
		}
		return err
	})
}

// microseconds has new connections over the link use timestamps in
// microseconds (RTAX_FEATURE_TCP_USEC_TS).
func microseconds(n *testnet.Net) error {
	l, err := netlink.LinkByName(n.HostIf)
	if err != nil {
		return err
	}
	routes, err := netlink.RouteList(l, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range routes {
		r.Features |= 1 << 4
		if err := netlink.RouteReplace(&r); err != nil {
			return err
		}
	}
	return nil
}

// counter is a field of /proc/net/netstat.
func counter(text, name string) string {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		if at := slices.Index(strings.Fields(lines[i]), name); at >= 0 {
			return strings.Fields(lines[i+1])[at]
		}
	}
	return ""
}

// What the congestion control of a socket knew can be given to it, in repair
// mode and after.
func TestGiveToRebuilt(t *testing.T) {
	n := testnet.New(t)
	w, err := bpf.LoadWindows()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	for _, early := range []bool{true, false} {
		p := newPair(t, n, kinds[0])
		if err := unix.SetsockoptString(p.fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic"); err != nil {
			t.Fatal(err)
		}
		carries(t, p.s, p.peer, noise(1000, 80))
		settled(t, p)
		x := &bpf.Window{Key: p.id.Key(), Cwnd: 77, Ssthresh: 55, Private: &bpf.Private{Cubic: abi.CubicState{LastMaxCwnd: 88}}}
		copy(x.Private.Control[:], "cubic")
		r := salvaged(t, p.fd, p.id)
		in(t, n.Host, func() error { return Restore(p.fd, r) })
		if early {
			in(t, n.Host, func() error { return w.Give(p.fd, x) })
		}
		if err := Finish(p.fd, r, true); err != nil {
			t.Fatal(err)
		}
		if !early {
			in(t, n.Host, func() error { return w.Give(p.fd, x) })
		}
		if info := infoOf(t, p.fd); info.Snd_cwnd != 77 || info.Snd_ssthresh != 55 {
			t.Errorf("early %t: window %d, threshold %d", early, info.Snd_cwnd, info.Snd_ssthresh)
		}
		socks := []Socket{}
		in(t, n.Host, func() (err error) { socks, err = Sockets(); return err })
		for _, s := range socks {
			if s.Flow == p.id && s.State.Cubic.LastMaxCwnd != 88 {
				t.Errorf("early %t: cubic has %+v", early, s.State.Cubic)
			}
		}
		carries(t, p.s, p.peer, noise(100_000, 81))
		carries(t, p.peer, p.s, noise(100_000, 82))
	}
}
