package testnet

import (
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bridged makes a network with a bridge that is removed when the test ends.
func bridged(t *testing.T) *Net {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	n, err := NewBridged("tb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("remove the network: %v", err)
		}
	})
	return n
}

// connect makes a connection over the bridge; accepted is the host's end.
func connect(t *testing.T, n *Net, host netip.Addr) (dialled, accepted net.Conn) {
	t.Helper()
	l, err := n.Host.Listen("tcp", netip.AddrPortFrom(host, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialled, err = n.Peer.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close() })
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return dialled, accepted
}

// info is the kernel's state of a connection.
func info(t *testing.T, c net.Conn) (i *unix.TCPInfo) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { i, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// A round trip over the bridge takes its delays, and not much more, in both
// families.
func TestBridgeDelays(t *testing.T) {
	n := bridged(t)
	const there, back = 10 * time.Millisecond, 30 * time.Millisecond
	n.Bridge.Set(Path{Delay: there}, Path{Delay: back}, 1)
	for _, host := range []netip.Addr{n.HostIP4, n.HostIP6} {
		dialled, accepted := connect(t, n, host)
		go io.Copy(accepted, accepted)
		least := time.Hour
		for range 10 {
			begin := time.Now()
			if _, err := dialled.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(dialled, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			least = min(least, time.Since(begin))
		}
		if least < there+back || least > there+back+10*time.Millisecond {
			t.Errorf("%v: the fastest of 10 round trips takes %v", host, least)
		}
	}
}

// carryOver moves octets from the host to the peer and returns how long that
// took.
func carryOver(t *testing.T, dialled, accepted net.Conn, octets int64) time.Duration {
	t.Helper()
	begin := time.Now()
	go func() {
		io.CopyN(accepted, zeros{}, octets)
		accepted.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.Copy(io.Discard, dialled)
	if err != nil || got != octets {
		t.Fatalf("%d of %d octets, %v", got, octets, err)
	}
	return time.Since(begin)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// The rate bounds what is carried; a queue that never overflows loses nothing.
func TestBridgeRate(t *testing.T) {
	n := bridged(t)
	const octets = 2_000_000
	n.Bridge.Set(Path{Rate: 40_000_000, Delay: time.Millisecond}, Path{Delay: time.Millisecond}, 1)
	dialled, accepted := connect(t, n, n.HostIP4)
	took := carryOver(t, dialled, accepted, octets)
	if least := time.Duration(octets * 8 * 1000 / 40); took < least {
		t.Errorf("%d octets at 40 Mbit/s took only %v", octets, took)
	}
	toPeer, _ := n.Bridge.Counts()
	if toPeer.Lost+toPeer.Overflowed+toPeer.Doubled+toPeer.Delayed > 0 || toPeer.Entered < octets/1460 {
		t.Errorf("%+v", toPeer)
	}
	if r := info(t, accepted).Total_retrans; r > 0 {
		t.Errorf("%d segments were sent again", r)
	}
}

// Each kind of harm happens on the real path, to single segments, and TCP
// sees it and carries all the same.
func TestBridgeHarms(t *testing.T) {
	const octets = 1_000_000
	delay := Path{Delay: time.Millisecond}
	for _, tt := range []struct {
		name string
		path Path
		seen func(c Counts, sender, receiver *unix.TCPInfo) bool
	}{
		{"loss", Path{Delay: time.Millisecond, Loss: 0.02}, func(c Counts, s, _ *unix.TCPInfo) bool {
			return c.Lost > 0 && int(s.Total_retrans) >= c.Lost/2
		}},
		{"full queue", Path{Delay: time.Millisecond, Rate: 50_000_000, Queue: 20_000}, func(c Counts, s, _ *unix.TCPInfo) bool {
			return c.Overflowed > 0 && s.Total_retrans > 0
		}},
		{"doubled", Path{Delay: time.Millisecond, Double: 0.05}, func(c Counts, s, _ *unix.TCPInfo) bool {
			return c.Doubled > 0 && int(s.Dsack_dups) >= c.Doubled/2
		}},
		{"late", Path{Delay: time.Millisecond, Late: 0.02, Behind: 5 * time.Millisecond}, func(c Counts, _, r *unix.TCPInfo) bool {
			return c.Delayed > 0 && r.Rcv_ooopack > 0
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := bridged(t)
			n.Bridge.Set(delay, delay, 1)
			dialled, accepted := connect(t, n, n.HostIP4)
			n.Bridge.Set(tt.path, delay, 1)
			carryOver(t, dialled, accepted, octets)
			toPeer, toHost := n.Bridge.Counts()
			if !tt.seen(toPeer, info(t, accepted), info(t, dialled)) {
				t.Errorf("%+v; sender %+v", toPeer, info(t, accepted))
			}
			if toPeer.Entered < octets/1460 {
				t.Errorf("%d frames carry %d octets: they are super-segments", toPeer.Entered, octets)
			}
			if toHost.Lost+toHost.Overflowed+toHost.Doubled+toHost.Delayed > 0 {
				t.Errorf("the way back does harm too: %+v", toHost)
			}
		})
	}
}

func TestCongestionOfNewConnections(t *testing.T) {
	n := bridged(t)
	for _, name := range []string{"reno", "cubic"} {
		if err := n.SetCongestion(name); err != nil {
			t.Fatal(err)
		}
		for _, host := range []netip.Addr{n.HostIP4, n.HostIP6} {
			dialled, accepted := connect(t, n, host)
			if d, a := congestionControl(t, dialled), congestionControl(t, accepted); d != name || a != name {
				t.Errorf("%v: %s at the peer, %s at the host; want %s", host, d, a, name)
			}
		}
	}
	if err := n.SetCongestion("no-such"); err == nil {
		t.Error("a congestion control that is not there was taken")
	}
}

func TestCloseOfABridgeLeavesNothing(t *testing.T) {
	before := descriptors(t)
	n, err := NewBridged("gone")
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
}
