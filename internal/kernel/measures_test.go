package kernel

import (
	"io"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"toehold/internal/mono"
	"toehold/internal/testnet"
)

// struct measure and Measure have the same fields at the same places.
func TestMeasureLayoutsAgree(t *testing.T) {
	spec, err := loadMeasures()
	if err != nil {
		t.Fatal(err)
	}
	var c *btf.Struct
	if err := spec.Types.TypeByName("measure", &c); err != nil {
		t.Fatal(err)
	}
	g := reflect.TypeFor[Measure]()
	if len(c.Members) != g.NumField() || uintptr(c.Size) != g.Size() {
		t.Fatalf("C has %d members and %d octets, Go %d and %d", len(c.Members), c.Size, g.NumField(), g.Size())
	}
	for i, m := range c.Members {
		f := g.Field(i)
		if size, _ := btf.Sizeof(m.Type); uintptr(m.Offset.Bytes()) != f.Offset || uintptr(size) != f.Type.Size() {
			t.Errorf("%s is at %d with %d octets, %s at %d with %d", m.Name, m.Offset.Bytes(), size, f.Name, f.Offset, f.Type.Size())
		}
	}
}

// measured reads the measures of the host and finds a connection among them.
func measured(t *testing.T, m *Meter, n *testnet.Net, c net.Conn) (Measure, bool) {
	t.Helper()
	var all []Measure
	in(t, n.Host, func() (err error) { all, err = m.Read(mono.Now()); return err })
	for _, r := range all {
		if r.Key.ID() == idOf(c) {
			return r, true
		}
	}
	return Measure{}, false
}

func option(t *testing.T, c *net.TCPConn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
}

func tcpInfo(t *testing.T, c *net.TCPConn) (info unix.TCPInfo) {
	t.Helper()
	option(t, c, func(fd int) error {
		i, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err == nil {
			info = *i
		}
		return err
	})
	return info
}

// What the iterator measures is what the socket itself says.
func TestMeasures(t *testing.T) {
	n := testnet.New(t)
	for name, tt := range map[string]struct {
		network    string
		address    netip.Addr
		level, tos int
	}{
		"IPv4":   {"tcp4", n.HostIP4, unix.IPPROTO_IP, unix.IP_TOS},
		"IPv6":   {"tcp6", n.HostIP6, unix.IPPROTO_IPV6, unix.IPV6_TCLASS},
		"mapped": {"tcp", netip.IPv6Unspecified(), unix.IPPROTO_IP, unix.IP_TOS},
	} {
		t.Run(name, func(t *testing.T) {
			s, peer := connect(t, n, tt.network, tt.address)
			option(t, s, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x77) })
			option(t, s, func(fd int) error { return unix.SetsockoptInt(fd, tt.level, tt.tos, 0x28) })
			exchange(t, s, peer, 100_000)
			var m Measure
			var i unix.TCPInfo
			meter := NewMeter()
			eventually(t, "all is acknowledged and counted, and nothing is sent any more", func() bool {
				i = tcpInfo(t, s)
				var ok bool
				m, ok = measured(t, meter, n, s)
				return ok && m.BytesAcked == 100_000 && m.BytesReceived == 100_000 && m.Queued == 0 && tcpInfo(t, s).Segs_out == i.Segs_out
			})
			check(t, &m, s, &i)
			if m.Mark != 0x77 || m.TOS != 0x28 || m.Ifindex != interfaceOf(t, n) || m.Unread != 0 {
				t.Errorf("mark %#x, tos %#x, interface %d, %d unread", m.Mark, m.TOS, m.Ifindex, m.Unread)
			}
			if got := m.OctetsPerSegment(); got < 1000 || got > float64(m.MSS)+1 || m.SmallIO() > 0.9 || m.OctetsPerAck() == 0 {
				t.Errorf("%.0f octets a segment, %.0f an acknowledgement, MSS %d: small I/O %.2f", got, m.OctetsPerAck(), m.MSS, m.SmallIO())
			}
		})
	}
}

// check compares with what the program can ask for itself, and was told (i)
// while m was measured. An acknowledgement may be delayed until later.
func check(t *testing.T, m *Measure, s *net.TCPConn, i *unix.TCPInfo) {
	t.Helper()
	cookie, inode := identity(t, s)
	if m.Cookie != cookie || m.Inode != inode || m.State != i.State || m.UID != 0 {
		t.Errorf("cookie %d, inode %d, state %d, uid %d; want %d, %d, %d, 0", m.Cookie, m.Inode, m.State, m.UID, cookie, inode, i.State)
	}
	got := []uint64{m.BytesSent, m.BytesResent, uint64(m.SegsOut), uint64(m.DataSegsOut), uint64(m.DataSegsIn), uint64(m.SRTT), uint64(m.Cwnd), uint64(m.MSS), m.DeliveryRate}
	want := []uint64{i.Bytes_sent, i.Bytes_retrans, uint64(i.Segs_out), uint64(i.Data_segs_out), uint64(i.Data_segs_in), uint64(i.Rtt), uint64(i.Snd_cwnd), uint64(i.Snd_mss), i.Delivery_rate}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, TCP_INFO has %v", got, want)
	}
	var netns uint64
	option(t, s, func(fd int) (err error) {
		netns, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if m.NetNS != netns || m.Cgroup == 0 || string(m.CongestionControl[:6]) != "cubic\x00" {
		t.Errorf("namespace %d, want %d; cgroup %d; %q", m.NetNS, netns, m.Cgroup, m.CongestionControl)
	}
}

func interfaceOf(t *testing.T, n *testnet.Net) uint32 {
	t.Helper()
	index := 0
	in(t, n.Host, func() error {
		i, err := net.InterfaceByName(n.HostIf)
		if err == nil {
			index = i.Index
		}
		return err
	})
	return uint32(index)
}

// exchange sends so many octets both ways.
func exchange(t *testing.T, a, b net.Conn, octets int) {
	t.Helper()
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		go way[0].Write(make([]byte, octets))
		if _, err := io.CopyN(io.Discard, way[1], int64(octets)); err != nil {
			t.Fatal(err)
		}
	}
}

// A program that writes little at a time is told from one in bulk.
func TestSmallIO(t *testing.T) {
	n, meter := testnet.New(t), NewMeter()
	s, peer := connect(t, n, "tcp4", n.HostIP4)
	if m, ok := measured(t, meter, n, s); !ok || m.SmallIO() != 0 || m.OctetsPerSegment() != 0 {
		t.Errorf("before any data: %+v", m)
	}
	for range 20 {
		exchange(t, s, peer, 10)
	}
	if m, _ := measured(t, meter, n, s); m.SmallIO() < 0.9 || m.OctetsPerSegment() > 30 {
		t.Errorf("small I/O %.2f, %.1f octets a segment", m.SmallIO(), m.OctetsPerSegment())
	}
}

// A connection keeps the time at which it was first seen, and is forgotten
// when it has gone.
func TestFirstSeen(t *testing.T) {
	n, meter := testnet.New(t), NewMeter()
	read := func(now mono.Time) {
		t.Helper()
		in(t, n.Host, func() error { _, err := meter.Read(now); return err })
	}
	read(5)
	s, _ := connect(t, n, "tcp4", n.HostIP4)
	cookie, _ := identity(t, s)
	for _, now := range []mono.Time{10, 20} {
		if read(now); meter.FirstSeen(cookie) != 10 {
			t.Errorf("at %d: first seen at %d", now, meter.FirstSeen(cookie))
		}
	}
	s.SetLinger(0) // else it stays in FIN-WAIT-2
	s.Close()
	eventually(t, "it is forgotten", func() bool { read(30); return meter.FirstSeen(cookie) == 0 && len(meter.seen) == 0 })
}

// crowd makes so many connections from the peer to the host. They are left to
// wait to be accepted, so that the host needs no descriptor for each.
func crowd(b *testing.B, n *testnet.Net, count int) {
	b.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Max < uint64(count+100) {
		b.Fatalf("%d descriptors are needed, %d allowed: %v", count+100, limit.Max, err)
	}
	const queue = 2000 // less than net.core.somaxconn
	var l net.Listener
	for i := range count {
		var err error
		if i%queue == 0 {
			if l, err = n.Host.Listen("tcp4", netip.AddrPortFrom(n.HostIP4, 0).String()); err != nil {
				b.Fatal(err)
			}
			waiting := l
			b.Cleanup(func() { waiting.Close() }) // not before: it resets those that wait
		}
		c, err := n.Peer.Dial("tcp4", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
	}
}

// Ten thousand connections are measured. The kernel walks its whole hash
// table for it, whatever is in it.
func BenchmarkMeasures10000(b *testing.B) {
	n := testnet.New(b)
	const count = 10_000
	crowd(b, n, count)
	meter := NewMeter()
	runtime.GC()
	err := n.Host.Do(func() error {
		for b.Loop() {
			if all, err := meter.Read(mono.Now()); err != nil || len(all) != count {
				b.Errorf("%d connections, %v", len(all), err)
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/connection")
	b.ReportMetric(float64(unsafe.Sizeof(Measure{})), "octets/connection")
}
