package testnet

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestBothFamiliesCarryTCP(t *testing.T) {
	n := New(t)
	for _, a := range []struct{ listen, dial netip.Addr }{{n.HostIP4, n.PeerIP4}, {n.HostIP6, n.PeerIP6}} {
		l, err := n.Host.Listen("tcp", netip.AddrPortFrom(a.listen, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err == nil {
				io.WriteString(c, c.RemoteAddr().String())
				c.Close()
			}
		}()
		c, err := n.Peer.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		c.Close()
		if err != nil || !strings.Contains(string(got), a.dial.String()) {
			t.Errorf("server saw %q, %v; want address %v", got, err, a.dial)
		}
	}
}

func TestDoComesBack(t *testing.T) {
	n := New(t)
	outside := namespaceNow(t)
	var inHost, inPeer, again string
	err := n.Host.Do(func() error {
		inHost = namespaceNow(t)
		err := n.Peer.Do(func() error { inPeer = namespaceNow(t); return nil })
		again = namespaceNow(t)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if inHost == outside || inPeer == inHost || again != inHost || namespaceNow(t) != outside {
		t.Errorf("outside %s, host %s, peer %s, host again %s, outside again %s", outside, inHost, inPeer, again, namespaceNow(t))
	}
}

func namespaceNow(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCubic(t *testing.T) {
	n := New(t)
	for _, a := range []netip.Addr{n.HostIP4, n.HostIP6} {
		l, err := n.Host.Listen("tcp", netip.AddrPortFrom(a, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dialled, err := n.Peer.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer dialled.Close()
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		if d, a := congestionControl(t, dialled), congestionControl(t, accepted); d != "cubic" || a != "cubic" {
			t.Errorf("connection to %v: dialled uses %s, accepted %s", l.Addr(), d, a)
		}
	}
}

func congestionControl(t *testing.T, c net.Conn) (name string) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCommandRunsInside(t *testing.T) {
	n := New(t)
	want := ""
	n.Host.Do(func() error { want = namespaceNow(t); return nil })
	out, err := n.Host.Command("readlink", "/proc/self/ns/net").Output()
	if err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("child ran in %q, %v; want %q", out, err, want)
	}
}

func TestCommandThatIsMissing(t *testing.T) {
	n := New(t)
	out, err := n.Host.Command("no-such-program-here").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no-such-program-here") {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	before := descriptors(t)
	n, err := NewPair("gone")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if _, err := netlink.LinkByName("gone-host"); err == nil {
		t.Error("an interface is left outside")
	}
}

// A network is gone at once, also when somebody still holds a namespace.
func TestCloseRemovesTheVeth(t *testing.T) {
	n, err := NewPair("held")
	if err != nil {
		t.Fatal(err)
	}
	peer := n.Peer
	l, err := peer.Listen("tcp", "127.0.0.1:0") // holds the peer
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	still, err := os.Open("/proc/self/fd/" + strconv.Itoa(peer.FD()))
	if err != nil {
		t.Fatal(err)
	}
	defer still.Close()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	err = (&Namespace{still}).Do(func() error {
		if _, err := netlink.LinkByName("held-peer"); err == nil {
			t.Error("the peer still has its end")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestNetworksDoNotMeet(t *testing.T) {
	a, b := New(t), New(t)
	if a.HostIP4 == b.HostIP4 || a.HostIP6 == b.HostIP6 {
		t.Errorf("both networks have %v and %v", a.HostIP4, a.HostIP6)
	}
	if c, err := a.Peer.Dial("tcp", netip.AddrPortFrom(b.HostIP4, 1).String()); err == nil {
		c.Close()
		t.Error("connected from one to the other")
	}
}

func TestDoGivesTheErrorBack(t *testing.T) {
	n := New(t)
	if err := n.Host.Do(func() error { return io.ErrNoProgress }); err != io.ErrNoProgress {
		t.Errorf("got %v", err)
	}
	closed := &Namespace{}
	if err := closed.Close(); err != nil {
		t.Error(err)
	}
	other, err := NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Configure("nothing", n.HostIP4); err == nil {
		t.Error("an interface that is not there was configured")
	}
	other.Close()
	if err := other.Do(func() error { return nil }); err == nil {
		t.Error("entered a namespace that is closed")
	}
}

func TestNameTooLong(t *testing.T) {
	for _, name := range []string{"", "elevenchars"} {
		if n, err := NewPair(name); err == nil {
			n.Close()
			t.Errorf("name %q was taken", name)
		}
	}
}

func TestListenErrorIsTold(t *testing.T) {
	n := New(t)
	if l, err := n.Host.Listen("tcp", net.JoinHostPort(n.PeerIP4.String(), "1")); err == nil {
		l.Close()
		t.Error("listened on the peer's address")
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
