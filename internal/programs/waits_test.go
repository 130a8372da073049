package programs

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// bypassedPair is a connection between host and peer, in bypass, and the descriptor of
// the host's socket.
func bypassedPair(t *testing.T, r *rig.Rig) (host, peer *net.TCPConn, fd int) {
	t.Helper()
	l, err := r.Net.Host.Listen("tcp4", netip.AddrPortFrom(r.Net.HostIP4, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := r.Net.Peer.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	h, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	host, peer = h.(*net.TCPConn), p.(*net.TCPConn)
	raw, err := host.SyscallConn()
	if err == nil {
		err = raw.Control(func(d uintptr) { fd = int(d) })
	}
	if err != nil {
		t.Fatal(err)
	}
	peer.SetDeadline(time.Now().Add(exchangeTimeout))
	res, err := r.OffloadAs(t.Context(), rig.Peer(rig.Address(peer.LocalAddr())), driver.Bypass)
	if err != nil || len(res.Moved) != 1 || res.Moved[0].Attachment != driver.Bypass {
		t.Fatalf("bypass: %+v, %v", res, err)
	}
	return host, peer, fd
}

// stuff sends to a peer that does not read until nothing more is taken, for a while, and
// returns how much was.
func stuff(t *testing.T, fd int) (n int) {
	t.Helper()
	b := make([]byte, 64<<10)
	for quiet := 0; quiet < 10; {
		m, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_DONTWAIT)
		n += max(m, 0)
		switch err {
		case nil:
			quiet = 0
		case unix.EAGAIN:
			quiet++
			time.Sleep(5 * time.Millisecond)
		default:
			t.Fatal(err)
		}
	}
	return n
}

// set sets a sysctl of the host's namespace.
func set(t *testing.T, r *rig.Rig, name, value string) {
	t.Helper()
	err := r.Net.Host.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644) })
	if err != nil {
		t.Fatal(err)
	}
}

// has reports whether the host has a socket whose peer is at a port.
func has(t *testing.T, r *rig.Rig, port int) (found bool) {
	t.Helper()
	err := r.Net.Host.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/tcp")
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			found = found || len(f) > 2 && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", port))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// The kernel gives up what gets no acknowledgement, soon by these sysctls. A peer that
// does not read is there all the same: the program's socket stays, and when the program
// has closed it and it is gone, the peer gets all that was sent.
func TestPeerThatDoesNotRead(t *testing.T) {
	r := newRig(t)
	set(t, r, "tcp_retries2", "1")
	set(t, r, "tcp_orphan_retries", "1")
	_, peer1, fd1 := bypassedPair(t, r)
	host2, peer2, fd2 := bypassedPair(t, r)
	sent1, sent2 := stuff(t, fd1), stuff(t, fd2)
	for _, fd := range []int{fd1, fd2} {
		if n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); n == 0 || err != nil {
			t.Fatalf("in S's own queue there are %d octets, %v", n, err)
		}
	}
	host2.Close()
	port := peer2.LocalAddr().(*net.TCPAddr).Port
	for begin := time.Now(); has(t, r, port); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("the closed socket is still there")
		}
	}
	if e, err := unix.GetsockoptInt(fd1, unix.SOL_SOCKET, unix.SO_ERROR); e != 0 || err != nil {
		t.Errorf("the open socket has ended: %v, %v", unix.Errno(e), err)
	}
	if err := unix.Shutdown(fd1, unix.SHUT_WR); err != nil {
		t.Error(err)
	}
	for i, c := range []struct {
		peer *net.TCPConn
		sent int
	}{{peer1, sent1}, {peer2, sent2}} {
		if n, err := io.Copy(io.Discard, c.peer); int(n) != c.sent || err != nil {
			t.Errorf("connection %d: %d octets of %d, %v", i+1, n, c.sent, err)
		}
	}
}
