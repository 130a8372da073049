package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/flow"
	"toehold/internal/testnet"
)

// A pair is a connection of the host's socket s with the peer.
type pair struct {
	net     *testnet.Net
	s, peer *net.TCPConn
	fd      int
	id      flow.ID
}

// A kind is a way to come by a pair.
type kind struct {
	name     string
	network  string
	host     func(n *testnet.Net) netip.Addr // what the host listens on, or dials to
	accepted bool
}

var kinds = []kind{
	{"IPv4, accepted", "tcp4", func(n *testnet.Net) netip.Addr { return n.HostIP4 }, true},
	{"IPv6, accepted", "tcp6", func(n *testnet.Net) netip.Addr { return n.HostIP6 }, true},
	{"IPv4 mapped, accepted", "tcp", func(*testnet.Net) netip.Addr { return netip.IPv6Unspecified() }, true},
	{"any address, accepted", "tcp4", func(*testnet.Net) netip.Addr { return netip.IPv4Unspecified() }, true},
	{"IPv4, connected", "tcp4", func(n *testnet.Net) netip.Addr { return n.PeerIP4 }, false},
	{"IPv6, connected", "tcp6", func(n *testnet.Net) netip.Addr { return n.PeerIP6 }, false},
}

// newPair connects; the listener stays open until the test ends.
func newPair(t testing.TB, n *testnet.Net, k kind) *pair {
	t.Helper()
	listens, dials := n.Host, n.Peer
	if !k.accepted {
		listens, dials = n.Peer, n.Host
	}
	l, err := listens.Listen(k.network, netip.AddrPortFrom(k.host(n), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return acceptPair(t, n, k, l, dials)
}

func acceptPair(t testing.TB, n *testnet.Net, k kind, l net.Listener, dials *testnet.Namespace) *pair {
	t.Helper()
	to := l.Addr().(*net.TCPAddr).AddrPort()
	if to.Addr().IsUnspecified() {
		to = netip.AddrPortFrom(n.HostIP4, to.Port())
	}
	d, err := dials.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	p := &pair{net: n, s: a.(*net.TCPConn), peer: d.(*net.TCPConn)}
	if !k.accepted {
		p.s, p.peer = p.peer, p.s
	}
	p.id, p.fd = idOf(p.s), descriptor(t, p.s)
	return p
}

func descriptor(t testing.TB, c *net.TCPConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { n = int(fd) })
	return n
}

// salvaged describes a socket with what is unread.
func salvaged(t testing.TB, fd int, id flow.ID) *Rebuild {
	t.Helper()
	unread, ended, err := TakeUnread(fd)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Salvage(fd, id)
	if err != nil {
		t.Fatal(err)
	}
	r.Unread, r.ShutRead = pieces(unread), ended
	return r
}

// rebuilt takes the host's socket through all steps, kept from the wire until
// the last, as a device would.
func (p *pair) rebuilt(t testing.TB, edit func(*Rebuild)) {
	t.Helper()
	open := cut(t, p.net)
	r := salvaged(t, p.fd, p.id)
	if edit != nil {
		edit(r)
	}
	in(t, p.net.Host, func() error { return Restore(p.fd, r) })
	open()
	if err := Finish(p.fd, r, true); err != nil {
		t.Fatal(err)
	}
}

// cut drops every packet that either end receives, which the sender does not
// notice, until open is called.
func cut(t testing.TB, n *testnet.Net) (open func()) {
	t.Helper()
	drop, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2 /* TCX_DROP */), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer drop.Close()
	var links []link.Link
	for ns, name := range map[*testnet.Namespace]string{n.Host: n.HostIf, n.Peer: n.PeerIf} {
		in(t, ns, func() error {
			at, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			l, err := link.AttachTCX(link.TCXOptions{Interface: at.Attrs().Index, Program: drop, Attach: ebpf.AttachTCXIngress})
			links = append(links, l)
			return err
		})
	}
	open = sync.OnceFunc(func() {
		for _, l := range links {
			l.Close()
		}
	})
	t.Cleanup(open)
	return open
}

// noise is octets that differ everywhere, the same for the same seed.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// carries sends octets from one end to the other, which must get just these
// next.
func carries(t testing.TB, from, to net.Conn, octets []byte) {
	t.Helper()
	sent := make(chan error, 1)
	go func() { _, err := from.Write(octets); sent <- err }()
	gets(t, to, octets)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func gets(t testing.TB, c net.Conn, want []byte) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("%d octets of %d: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("other octets than were sent, of %d", len(want))
	}
}

func infoOf(t testing.TB, fd int) *unix.TCPInfo {
	t.Helper()
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// negotiated are the fields of TCP_INFO that the handshake has set.
func negotiated(i *unix.TCPInfo) string {
	snd, rcv := wscales(i)
	return fmt.Sprintf("state %d, options %d, scales %d %d, MSS %d, path MTU %d, windows %d %d",
		i.State, i.Options, snd, rcv, i.Snd_mss, i.Pmtu, i.Snd_wnd, i.Rcv_wnd)
}

// However a socket came to be, it is the same afterwards: addresses, what was
// negotiated, and both directions, which go on where they were.
func TestRebuildAsItIs(t *testing.T) {
	n := testnet.New(t)
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			again := ""
			for range 3 { // on a busy machine a probe for a tail that is not lost comes now and then
				if again = asItIs(t, newPair(t, n, k)); again == "" {
					return
				}
			}
			t.Error(again)
		})
	}
}

// asItIs rebuilds a socket three times, and returns what was sent again.
func asItIs(t *testing.T, p *pair) (again string) {
	carries(t, p.s, p.peer, noise(100_000, 1))
	carries(t, p.peer, p.s, noise(100_000, 2))
	settled(t, p)
	name := endpoints(t, p.fd)
	cookie, inode := identity(t, p.s)
	peerBefore := infoOf(t, descriptor(t, p.peer))
	for round := range uint64(3) {
		before := negotiated(infoOf(t, p.fd))
		p.rebuilt(t, nil)
		if got := negotiated(infoOf(t, p.fd)); got != before {
			t.Errorf("now %s\nwas %s", got, before)
		}
		carries(t, p.s, p.peer, noise(300_000, 3+round))
		carries(t, p.peer, p.s, noise(300_000, 4+round))
		settled(t, p)
	}
	if got := endpoints(t, p.fd); got != name {
		t.Errorf("names %s, were %s", got, name)
	}
	if c, i := identity(t, p.s); c != cookie || i != inode {
		t.Errorf("another cookie or inode")
	}
	if e, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR); e != 0 || err != nil {
		t.Errorf("SO_ERROR %d, %v", e, err)
	}
	peerAgain := infoOf(t, descriptor(t, p.peer)).Total_retrans - peerBefore.Total_retrans
	if mine := infoOf(t, p.fd).Total_retrans; mine+peerAgain != 0 {
		again = fmt.Sprintf("%d segments were sent again, and %d by the peer", mine, peerAgain)
	}
	return again
}

// settled waits until neither end has anything unacknowledged.
func settled(t testing.TB, p *pair) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		quiet := true
		for _, fd := range []int{p.fd, descriptor(t, p.peer)} {
			if q, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err != nil || q != 0 {
				quiet = false
			}
		}
		if quiet {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection does not come to rest")
		}
	}
}

func endpoints(t testing.TB, fd int) string {
	t.Helper()
	own, err1 := unix.Getsockname(fd)
	other, err2 := unix.Getpeername(fd)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%+v %+v", own, other)
}

// What the program has not read is there again, and what it has read is not.
func TestRebuildUnread(t *testing.T) {
	n := testnet.New(t)
	for _, size := range []int{1, 8 << 10, 100_000, 3 << 20} {
		p := newPair(t, n, kinds[0])
		octets := noise(size+10, 5)
		go p.peer.Write(octets)
		gets(t, p.s, octets[:10])
		// As much as the window lets in; the rest comes later.
		eventually(t, "octets have come", func() bool {
			u, err := unread(p.fd)
			return err == nil && u >= min(size, 60_000)
		})
		p.rebuilt(t, func(r *Rebuild) {
			if total(r.Unread) == 0 {
				t.Error("nothing is unread")
			}
		})
		gets(t, p.s, octets[10:])
		carries(t, p.s, p.peer, octets)
	}
}

// A peer that does not read leaves octets unsent in the queue; all of them
// arrive, once.
func TestRebuildUnsent(t *testing.T) {
	n := testnet.New(t)
	p := newPair(t, n, kinds[0])
	roomy(t, p.fd)
	if err := p.peer.SetReadBuffer(1 << 16); err != nil {
		t.Fatal(err)
	}
	octets := noise(3<<20, 6)
	if _, err := p.s.Write(octets); err != nil {
		t.Fatal(err)
	}
	buffer := socketInt(t, p.fd, unix.SO_SNDBUF)
	p.rebuilt(t, func(r *Rebuild) {
		if total(r.Unsent) < 1<<20 {
			t.Errorf("only %d octets are unsent", total(r.Unsent))
		}
	})
	if got := socketInt(t, p.fd, unix.SO_SNDBUF); got != buffer {
		t.Errorf("send buffer %d, was %d", got, buffer)
	}
	gets(t, p.peer, octets)
	carries(t, p.s, p.peer, octets[:1000])
	carries(t, p.peer, p.s, octets[:1000])
}

// roomy has a socket's send buffer take 4 MiB at least.
func roomy(t testing.TB, fd int) {
	t.Helper()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20); err != nil {
		t.Fatal(err)
	}
}

func socketInt(t testing.TB, fd, option int) int {
	t.Helper()
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What was sent and not acknowledged is sent again, what the peer has meanwhile
// got is not taken twice, and what was unsent follows.
func TestRebuildSent(t *testing.T) {
	n := testnet.New(t)
	p := newPair(t, n, kinds[0])
	carries(t, p.s, p.peer, noise(100, 7))
	settled(t, p)
	octets := noise(1<<20, 8)
	roomy(t, p.fd)
	open := cut(t, n)
	if _, err := p.s.Write(octets); err != nil {
		t.Fatal(err)
	}
	r := salvaged(t, p.fd, p.id)
	if total(r.Sent) == 0 || total(r.Sent)+total(r.Unsent) != len(octets) {
		t.Errorf("%d octets sent and %d unsent, of %d", total(r.Sent), total(r.Unsent), len(octets))
	}
	in(t, n.Host, func() error { return Restore(p.fd, r) })
	open()
	if err := Finish(p.fd, r, true); err != nil {
		t.Fatal(err)
	}
	gets(t, p.peer, octets)
	carries(t, p.peer, p.s, octets)
}

// Both ends are brought to sequence numbers of our choice, the host's with
// octets in all queues of which the peer's knows a part. The numbers pass
// zero.
func TestRebuildElsewhere(t *testing.T) {
	n := testnet.New(t)
	for i, size := range []int{5000, 0, 1, 5000, 5000, 2 << 20} {
		k := kinds[len(kinds)-1-i]
		t.Run(fmt.Sprintf("%s, %d octets", k.name, size), func(t *testing.T) { elsewhere(t, n, k, size) })
	}
}

func elsewhere(t *testing.T, n *testnet.Net, k kind, size int) {
	p := newPair(t, n, k)
	carries(t, p.peer, p.s, noise(500, 9))
	settled(t, p)
	sent, unsent, unread := noise(size, 10), noise(size, 11), noise(size, 12)
	open := cut(t, n)
	mine, other := salvaged(t, p.fd, p.id), salvaged(t, descriptor(t, p.peer), p.id.Reverse())
	mine.SndUna, mine.Sent, mine.Unsent = -uint32(size/2), pieces(sent), [][]byte{unsent[:size/3], unsent[size/3:]}
	mine.RcvNxt, mine.Unread = 1000, [][]byte{unread[:size/2], unread[size/2:]}
	got := size / 4 // of what was sent, by the peer
	other.SndUna, other.RcvNxt, other.Unread = mine.RcvNxt, mine.SndUna+uint32(got), pieces(sent[:got])
	mine.inStep(1 << 20)
	other.inStep(4 << 20)
	in(t, n.Host, func() error { return Restore(p.fd, mine) })
	in(t, n.Peer, func() error { return Restore(descriptor(t, p.peer), other) })
	open()
	if err := errors.Join(Finish(descriptor(t, p.peer), other, false), Finish(p.fd, mine, true)); err != nil {
		t.Fatal(err)
	}
	gets(t, p.s, unread)
	gets(t, p.peer, sent)
	gets(t, p.peer, unsent)
	carries(t, p.s, p.peer, noise(200_000, 13))
	carries(t, p.peer, p.s, noise(200_000, 14))
}

// inStep has the windows begin at the sequence numbers.
func (r *Rebuild) inStep(window uint32) {
	r.SndWL1, r.RcvWup, r.RcvWnd = r.RcvNxt, r.RcvNxt, window
	r.SndWnd, r.MaxWnd = 1<<16, 1<<16
}

// What cannot be restored leaves the socket as it was: nothing has been done.
func TestRestoreRefuses(t *testing.T) {
	n := testnet.New(t)
	for _, tt := range []struct {
		name string
		edit func(*Rebuild)
	}{
		{"no family", func(r *Rebuild) { r.family = 0 }},
		{"window above the largest", func(r *Rebuild) { r.MaxWnd = r.SndWnd - 1 }},
		{"window from what has not come", func(r *Rebuild) { r.RcvWup = r.RcvNxt + 1 }},
		{"window told by what may not come", func(r *Rebuild) { r.SndWL1 = r.RcvNxt + r.RcvWnd + 1 }},
		{"scale", func(r *Rebuild) { r.SndWscale = 15 }},
		{"no route", func(r *Rebuild) {
			r.Flow.Remote = netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), 1)
		}},
		{"own address is not the route's", func(r *Rebuild) {
			r.Flow.Local = netip.AddrPortFrom(r.Flow.Local.Addr().Next(), r.Flow.Local.Port())
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPair(t, n, kinds[0])
			carries(t, p.s, p.peer, noise(100, 20))
			r := salvaged(t, p.fd, p.id)
			tt.edit(r)
			var failed *RebuildError
			in(t, n.Host, func() error {
				if err := Restore(p.fd, r); !errors.As(err, &failed) {
					t.Fatalf("got %v", err)
				}
				return nil
			})
			if failed.Lost {
				t.Errorf("lost: %v", failed)
			}
			carries(t, p.s, p.peer, noise(100, 21))
			carries(t, p.peer, p.s, noise(100, 22))
		})
	}
}

// A rebuild that fails midway resets both ends.
func TestRestoreLoses(t *testing.T) {
	n := testnet.New(t)
	p := newPair(t, n, kinds[0])
	settled(t, p)
	r := salvaged(t, p.fd, p.id)
	r.congestion = "nonsense"
	in(t, n.Host, func() error {
		var failed *RebuildError
		if err := Restore(p.fd, r); !errors.As(err, &failed) || !failed.Lost || !errors.Is(err, unix.ENOENT) {
			t.Errorf("got %v", err)
		}
		return nil
	})
	for _, c := range []net.Conn{p.s, p.peer} {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("got %v", err)
		}
	}
}

// What cannot all be sent must not go on: both ends are told.
func TestFinishLoses(t *testing.T) {
	n := testnet.New(t)
	p := newPair(t, n, kinds[0])
	settled(t, p)
	r := salvaged(t, p.fd, p.id)
	in(t, n.Host, func() error { return Restore(p.fd, r) })
	if err := unix.Shutdown(p.fd, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	r.Unsent = pieces(noise(10, 1))
	var failed *RebuildError
	if err := Finish(p.fd, r, false); !errors.As(err, &failed) || !failed.Lost || !errors.Is(err, unix.EPIPE) {
		t.Errorf("got %v", err)
	}
	if state := infoOf(t, p.fd).State; state != unix.BPF_TCP_CLOSE {
		t.Errorf("state %d", state)
	}
}

// A socket without a connection has nothing to salvage.
func TestSalvageOfNothing(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := Salvage(fd, flow.ID{}); err == nil {
		t.Error("no error")
	}
	if _, err := Salvage(-1, flow.ID{}); err == nil {
		t.Error("no error without a descriptor")
	}
}
