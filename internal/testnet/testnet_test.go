package testnet

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
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
