package kernel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/testnet"
)

// connect makes a connection from the peer to the host, whose socket is the
// first.
func connect(t testing.TB, n *testnet.Net, network string, address netip.Addr) (s, peer *net.TCPConn) {
	t.Helper()
	l, err := n.Host.Listen(network, netip.AddrPortFrom(address, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := l.Addr().(*net.TCPAddr).AddrPort()
	if address.IsUnspecified() {
		to = netip.AddrPortFrom(n.HostIP4, to.Port())
	}
	c, err := n.Peer.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a.(*net.TCPConn), c.(*net.TCPConn)
}

func idOf(c net.Conn) flow.ID {
	return flow.Make(c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort())
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// in runs f in a namespace and fails the test on its error.
func in(t testing.TB, ns *testnet.Namespace, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

// listed finds a connection among the sockets of the host.
func listed(t *testing.T, n *testnet.Net, id flow.ID) (Socket, bool) {
	t.Helper()
	var socks []Socket
	in(t, n.Host, func() (err error) { socks, err = Sockets(); return err })
	for _, s := range socks {
		if s.Flow == id {
			return s, true
		}
	}
	return Socket{}, false
}

func TestSockets(t *testing.T) {
	n := testnet.New(t)
	for name, tt := range map[string]struct {
		network string
		address netip.Addr
	}{
		"IPv4":   {"tcp4", n.HostIP4},
		"IPv6":   {"tcp6", n.HostIP6},
		"mapped": {"tcp", netip.IPv6Unspecified()}, // an IPv6 socket with an IPv4 peer
	} {
		t.Run(name, func(t *testing.T) {
			s, peer := connect(t, n, tt.network, tt.address)
			if _, err := peer.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			cookie, inode := identity(t, s)
			var got Socket
			eventually(t, "the octets are counted", func() bool {
				found := false
				got, found = listed(t, n, idOf(s))
				return found && got.State.BytesReceived == 1000
			})
			k := got.State
			if k.Cookie != cookie || k.Inode != inode || k.State != unix.BPF_TCP_ESTABLISHED || k.UID != 0 {
				t.Errorf("cookie %d, inode %d, state %d, uid %d; want cookie %d, inode %d", k.Cookie, k.Inode, k.State, k.UID, cookie, inode)
			}
			if k.RcvNxt-k.CopiedSeq != 1000 || k.Special != 0 {
				t.Errorf("%d octets unread, special %#x", k.RcvNxt-k.CopiedSeq, k.Special)
			}
		})
	}
}

func identity(t *testing.T, c *net.TCPConn) (cookie, inode uint64) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		var stat unix.Stat_t
		if cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE); err == nil {
			err = unix.Fstat(int(fd), &stat)
		}
		inode = stat.Ino
	})
	if err != nil {
		t.Fatal(err)
	}
	return cookie, inode
}

// Listening sockets, those in TIME-WAIT and those of other namespaces are
// not connections of this one.
func TestSocketsThatAreNone(t *testing.T) {
	n := testnet.New(t)
	l, err := n.Host.Listen("tcp", netip.AddrPortFrom(n.HostIP4, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, peer := connect(t, n, "tcp", n.HostIP4)
	s.Close()
	peer.Close()
	eventually(t, "nothing is listed", func() bool {
		var socks []Socket
		in(t, n.Host, func() (err error) { socks, err = Sockets(); return err })
		return len(socks) == 0
	})
}

func TestManySockets(t *testing.T) {
	n := testnet.New(t)
	const many = 400 // several buffers of the iterator
	want := make(map[flow.ID]bool)
	for range many {
		s, _ := connect(t, n, "tcp", n.HostIP4)
		want[idOf(s)] = true
	}
	var socks []Socket
	in(t, n.Host, func() (err error) { socks, err = Sockets(); return err })
	for _, s := range socks {
		if !want[s.Flow] {
			t.Errorf("%v is listed and does not exist, or twice", s.Flow)
		}
		delete(want, s.Flow)
	}
	if len(want) != 0 {
		t.Errorf("%d of %d are not listed", len(want), many)
	}
}

func TestFindOwners(t *testing.T) {
	n := testnet.New(t)
	l, err := n.Host.Listen("tcp", netip.AddrPortFrom(n.HostIP4, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// bash has a redirection that connects.
	to := l.Addr().(*net.TCPAddr).AddrPort()
	child := n.Host.Command("bash", "-c", "exec 7<>/dev/tcp/"+to.Addr().String()+"/"+portOf(to)+"; read -u 7 x")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	mine, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	want := map[flow.ID]Owner{
		idOf(mine):           {PID: os.Getpid(), Comm: strings.TrimSpace(string(comm)), FD: fdOf(t, mine.(*net.TCPConn))},
		idOf(mine).Reverse(): {PID: child.Process.Pid, Comm: "bash", FD: 7},
	}
	finders := map[string]func([]Socket) error{
		"iterator": func(s []Socket) error { return firstOwners(s, ownersFromIterator) },
		"proc": func(s []Socket) error {
			return firstOwners(s, func(w map[uint64][]Owner) error { return ownersFromProc("/proc", w) })
		},
		"either": FindOwners,
	}
	for name, find := range finders {
		t.Run(name, func(t *testing.T) {
			eventually(t, "owners are found", func() bool {
				var socks []Socket
				in(t, n.Host, func() (err error) { socks, err = Sockets(); return err })
				if err := find(socks); err != nil {
					t.Fatal(err)
				}
				right := 0
				for _, s := range socks {
					if w, ok := want[s.Flow]; ok && s.Owner == w {
						right++
					}
				}
				return right == len(want)
			})
		})
	}
}

// firstOwners is FindOwners by one of its ways.
func firstOwners(socks []Socket, find func(map[uint64][]Owner) error) error {
	wanted := make(map[uint64][]Owner)
	for _, s := range socks {
		wanted[s.State.Inode] = nil
	}
	err := find(wanted)
	for i := range socks {
		if o := wanted[socks[i].State.Inode]; len(o) > 0 {
			socks[i].Owner = o[0]
		}
	}
	return err
}

func portOf(a netip.AddrPort) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}

func fdOf(t *testing.T, c *net.TCPConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { n = int(fd) })
	return n
}

func TestOwnersOfNobody(t *testing.T) {
	socks := []Socket{{}, {}}
	socks[1].State.Inode = 1 << 60
	if err := FindOwners(socks); err != nil {
		t.Fatal(err)
	}
	if socks[0].Owner != (Owner{}) || socks[1].Owner != (Owner{}) {
		t.Errorf("owners %v, %v of sockets that nobody has", socks[0].Owner, socks[1].Owner)
	}
	if err := ownersFromProc("/nonexistent", nil); err == nil {
		t.Error("no error without a proc file system")
	}
}

func TestSocketInode(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "fd"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"3": "socket:[77]", "4": "/etc/passwd", "5": "socket:[", "6": "socket:[x]", "x": "socket:[78]",
	} {
		if err := os.Symlink(target, filepath.Join(dir, "fd", name)); err != nil {
			t.Fatal(err)
		}
	}
	wanted := map[uint64][]Owner{77: nil, 78: nil, 0: nil}
	ownersFromProcess(dir, 5, wanted)
	if !slices.Equal(wanted[77], []Owner{{PID: 5, FD: 3}}) || wanted[78] != nil || wanted[0] != nil {
		t.Errorf("got %v", wanted)
	}
}

// However often they are run, the iterators leave no descriptor behind, and
// none at all once they are closed.
func TestIteratorsLeaveNothing(t *testing.T) {
	if _, err := loaded(); err != nil { // these stay
		t.Fatal(err)
	}
	before := descriptors(t)
	it := new(iterators)
	if err := it.load(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		socks, err := Sockets()
		if err != nil {
			t.Fatal(err)
		}
		if err := FindOwners(socks); err != nil {
			t.Fatal(err)
		}
	}
	if err := it.close(); err != nil {
		t.Fatal(err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
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

// Without privileges the error says what is missing.
func TestSocketsWithoutPrivileges(t *testing.T) {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // capabilities are the thread's, which ends
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(&header, &make([]unix.CapUserData, 2)[0]); err != nil {
			t.Error(err)
		}
		it := new(iterators)
		result <- errors.Join(it.load(), it.close())
	}()
	var m *bpf.MissingFeature
	if err := <-result; !errors.As(err, &m) {
		t.Errorf("got %v", err)
	}
}

// Records arrive whole however the stream is cut.
func TestEachRecord(t *testing.T) {
	octets := make([]byte, 32*5000)
	for i := range octets {
		octets[i] = byte(i / 32)
	}
	for name, from := range map[string]io.Reader{
		"whole":              bytes.NewReader(octets),
		"in halves":          iotest.HalfReader(bytes.NewReader(octets)),
		"in octets":          iotest.OneByteReader(bytes.NewReader(octets)),
		"error with the end": iotest.DataErrReader(bytes.NewReader(octets)),
	} {
		n := 0
		err := eachRecord(from, func(r *ownerRecord) {
			if r.Comm[0] != byte(n) || r.Comm[15] != byte(n) || byte(r.Inode) != byte(n) {
				t.Fatalf("%s: record %d is %v", name, n, *r)
			}
			n++
		})
		if n != 5000 || err != nil {
			t.Errorf("%s: %d records, %v", name, n, err)
		}
	}
	none := func(r *ownerRecord) { t.Errorf("record %v", *r) }
	if err := eachRecord(bytes.NewReader(nil), none); err != nil {
		t.Error(err)
	}
	if err := eachRecord(bytes.NewReader(octets[:31]), none); err == nil {
		t.Error("31 octets are a record")
	}
	if err := eachRecord(iotest.ErrReader(os.ErrClosed), none); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func BenchmarkSockets(b *testing.B) {
	n := testnet.New(b)
	many := min(10_000, descriptorLimit(b)-500) / 2 * 2
	l, err := n.Host.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for range many / 2 { // both ends are in the host
		c, err := n.Host.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		a, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer a.Close()
	}
	var socks []Socket
	b.Run("list", func(b *testing.B) {
		in(b, n.Host, func() error {
			for b.Loop() {
				if socks, err = Sockets(); err != nil || len(socks) != many {
					b.Fatalf("%d sockets, %v", len(socks), err)
				}
			}
			return nil
		})
		b.ReportMetric(float64(many), "sockets")
	})
	b.Run("owners", func(b *testing.B) {
		for b.Loop() {
			if err := FindOwners(socks); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(many), "sockets")
	})
}

func descriptorLimit(b *testing.B) int {
	b.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	return int(limit.Cur) // Go has raised it to the hard limit
}

// TestMTUProbing: the sysctl of the namespace is what counts.
func TestMTUProbing(t *testing.T) {
	n := testnet.New(t)
	for value, want := range map[string]bool{"0": false, "1": true, "2": true} {
		var got bool
		err := n.Host.Do(func() error {
			err := os.WriteFile("/proc/sys/net/ipv4/tcp_mtu_probing", []byte(value), 0)
			got = MTUProbing()
			return err
		})
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", value, got, err)
		}
	}
}
