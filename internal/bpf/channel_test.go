package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/btf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/testnet"
)

// A tiedPair is a connection whose socket S at the host is tied to a channel C.
type tiedPair struct {
	*testnet.Net
	t       testing.TB
	set     *Set
	s, peer *net.TCPConn
	fd, c   int // of S, until it is closed, and C
}

const tiedAt = 7

func newTied(t testing.TB, limit uint32) *tiedPair {
	t.Helper()
	p := &tiedPair{Net: testnet.New(t), t: t, set: loadSet(t)}
	p.must(p.set.OpenChannels())
	p.s, p.peer = connect(t, p.Host, p.Peer, p.HostIP4)
	p.fd, p.c = descriptor(t, p.s), openChannel(t, p.Host)
	p.must(p.set.Tie(tiedAt, p.fd, p.c, limit))
	p.open(1)
	return p
}

func (p *tiedPair) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// descriptor is valid until c is closed.
func descriptor(t testing.TB, c *net.TCPConn) (fd int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(of uintptr) { fd = int(of) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// openChannel makes an established socket that has no peer.
func openChannel(t testing.TB, ns *testnet.Namespace) (fd int) {
	t.Helper()
	err := ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 2}}),
			unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 3}, Port: 1}),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, -1))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (p *tiedPair) channel() *abi.ChannelPart { return &p.set.Blocks()[tiedAt].Channel }

func (p *tiedPair) open(yes uint32) { atomic.StoreUint32(&p.channel().Open, yes) }

// counts are out, taken, in, read, which the test expects exactly.
func (p *tiedPair) counts(when string, want ...uint64) {
	p.t.Helper()
	c := p.channel()
	for i, at := range []*uint64{&c.Out, &c.Taken, &c.In, &c.Read} {
		if got := atomic.LoadUint64(at); got != want[i] {
			p.t.Errorf("%s: %s is %d, want %d", when, []string{"out", "taken", "in", "read"}[i], got, want[i])
		}
	}
}

func (p *tiedPair) flags(when string, want uint32) {
	p.t.Helper()
	if got := atomic.LoadUint32(&p.channel().Flags); got != want {
		p.t.Errorf("%s: flags %#x, want %#x", when, got, want)
	}
}

// write writes all.
func (p *tiedPair) write(fd int, octets []byte) {
	p.t.Helper()
	if n, err := unix.Write(fd, octets); err != nil || n != len(octets) {
		p.t.Fatalf("wrote %d of %d octets: %v", n, len(octets), err)
	}
}

// drain reads until there is nothing more.
func drain(fd int) (all []byte, err error) {
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 {
			if errors.Is(err, unix.EAGAIN) {
				err = nil
			}
			return all, err
		}
		all = append(all, buf[:n]...)
	}
}

func (p *tiedPair) expect(what string, fd int, want []byte) {
	p.t.Helper()
	got, err := drain(fd)
	if err != nil || !bytes.Equal(got, want) {
		p.t.Fatalf("%s: %d octets, %v; want %d, and are they equal: %v", what, len(got), err, len(want), bytes.Equal(got, want))
	}
}

// pattern is n octets of which no stretch is like another.
func pattern(n int) []byte {
	b := make([]byte, 0, n+8)
	for i := 0; len(b) < n; i++ {
		b = binary.BigEndian.AppendUint64(b, uint64(i)*0x9e3779b97f4a7c15)
	}
	return b[:n]
}

// file has the octets and is read from its beginning.
func file(t *testing.T, octets []byte) int {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteAt(octets, 0); err != nil {
		t.Fatal(err)
	}
	return int(f.Fd())
}

// Every way to send that a program has, and every way to receive, is counted
// by the octet.
func TestChannelCarriesEverySend(t *testing.T) {
	p := newTied(t, 1<<20)
	octets := pattern(10_000)
	pipe := func(fd int) (n int, err error) {
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			return 0, err
		}
		defer unix.Close(ends[0])
		defer unix.Close(ends[1])
		if _, err := unix.Write(ends[1], octets); err != nil {
			return 0, err
		}
		moved, err := unix.Splice(ends[0], nil, fd, nil, len(octets), unix.SPLICE_F_NONBLOCK)
		return int(moved), err
	}
	total := uint64(0)
	for _, tt := range []struct {
		name string
		send func(fd int) (int, error)
	}{
		{"write", func(fd int) (int, error) { return unix.Write(fd, octets) }},
		{"writev", func(fd int) (int, error) { return unix.Writev(fd, [][]byte{octets[:1], octets[1:5000], octets[5000:]}) }},
		{"sendmsg", func(fd int) (int, error) {
			return unix.SendmsgBuffers(fd, [][]byte{octets[:7000], octets[7000:]}, nil, nil, unix.MSG_DONTWAIT)
		}},
		{"sendfile", func(fd int) (int, error) { return unix.Sendfile(fd, file(t, octets), new(int64), len(octets)) }},
		{"splice", pipe},
	} {
		if n, err := tt.send(p.fd); n != len(octets) || err != nil {
			t.Fatalf("%s: %d octets, %v", tt.name, n, err)
		}
		p.counts(tt.name, total+uint64(len(octets)), total, 0, 0)
		p.expect(tt.name, p.c, octets)
		total += uint64(len(octets))
		p.counts(tt.name, total, total, 0, 0)
	}
}

func TestChannelCountsEveryReceive(t *testing.T) {
	p := newTied(t, 1<<20)
	octets := pattern(10_000)
	buf := make([]byte, 4000)
	total, read := uint64(0), uint64(0)
	for _, tt := range []struct {
		name    string
		receive func(fd int) (int, error)
		peeks   bool
	}{
		{"read", func(fd int) (int, error) { return unix.Read(fd, buf) }, false},
		{"readv", func(fd int) (int, error) { return unix.Readv(fd, [][]byte{buf[:10], buf[10:]}) }, false},
		{"recvfrom", func(fd int) (n int, err error) { n, _, err = unix.Recvfrom(fd, buf, 0); return n, err }, false},
		{"recvmsg", func(fd int) (n int, err error) { n, _, _, _, err = unix.Recvmsg(fd, buf, nil, 0); return n, err }, false},
		{"MSG_PEEK", func(fd int) (n int, err error) { n, _, err = unix.Recvfrom(fd, buf, unix.MSG_PEEK); return n, err }, true},
	} {
		p.write(p.c, octets)
		total += uint64(len(octets))
		p.counts(tt.name+", before", 0, 0, total, read)
		if unread, err := unix.IoctlGetInt(p.fd, unix.SIOCINQ); err != nil || unread != len(octets) {
			t.Errorf("%s: %d octets unread, %v", tt.name, unread, err)
		}
		if held := memory(t, p.fd); int(held) != len(octets) {
			t.Errorf("%s: S's receive memory is %d octets, want %d", tt.name, held, len(octets))
		}
		before := uint64(mono.Now())
		n, err := tt.receive(p.fd)
		if n != len(buf) || err != nil || !bytes.Equal(buf, octets[:len(buf)]) {
			t.Fatalf("%s: %d octets, %v", tt.name, n, err)
		}
		rest := octets
		if !tt.peeks {
			read += uint64(n)
			rest = octets[n:]
			if at := p.channel().ReadAt; at < before || at > uint64(mono.Now()) {
				t.Errorf("%s: read at %d, which was before %d or has not been yet", tt.name, at, before)
			}
		}
		p.counts(tt.name, 0, 0, total, read)
		p.expect(tt.name, p.fd, rest)
		read = total
		p.counts(tt.name+", all of it", 0, 0, total, read)
	}
}

// memory is what a socket's receive queues take (sk_rmem_alloc).
func memory(t *testing.T, fd int) uint32 {
	t.Helper()
	var info [9]uint32 // SK_MEMINFO_VARS of include/uapi/linux/sock_diag.h
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	return info[0]
}

// Reading what the kernel had received before the channel is no reading of the
// channel.
func TestChannelDoesNotCountWhatTheKernelReceived(t *testing.T) {
	p := newTied(t, 1<<20)
	if _, err := p.peer.Write(pattern(500)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the octets are in", func() bool {
		k := probeOne(t, p.set, p.Host, keyOf(p.s))
		return k.RcvNxt-k.CopiedSeq == 500
	})
	if n, err := unix.IoctlGetInt(p.fd, unix.SIOCINQ); n != 0 || err != nil {
		t.Errorf("FIONREAD of a tied socket tells %d octets of the kernel's queue, %v; it was seen to tell none", n, err)
	}
	p.expect("of the kernel", p.fd, pattern(500))
	p.counts("of the kernel", 0, 0, 0, 0)
	p.write(p.c, pattern(100))
	p.expect("of the channel", p.fd, pattern(100))
	p.counts("of the channel", 0, 0, 100, 100)
}

// A socket that is tied and not open sends as ever.
func TestChannelThatIsNotOpen(t *testing.T) {
	p := newTied(t, 1<<20)
	for i, open := range []uint32{0, 1, 0} {
		p.open(open)
		p.write(p.fd, pattern(1000))
		if open == 1 {
			p.expect("open", p.c, pattern(1000))
			continue
		}
		p.expect("not open", p.c, nil)
		got := make([]byte, 1000)
		if _, err := io.ReadFull(p.peer, got); err != nil || !bytes.Equal(got, pattern(1000)) {
			t.Fatalf("turn %d: the peer has not got what was sent: %v", i, err)
		}
	}
	p.counts("in the end", 1000, 1000, 0, 0)
	if n := p.channel().Passed; n != 2 {
		t.Errorf("%d sends stayed with S's TCP, want 2", n)
	}
}

func (p *tiedPair) unacknowledged() int {
	p.t.Helper()
	n, err := unix.IoctlGetInt(p.fd, unix.SIOCOUTQ)
	p.must(err)
	return n
}

// reach lets the peer answer or not.
func (p *tiedPair) reach(yes bool) {
	p.t.Helper()
	away := &netlink.Route{Type: unix.RTN_BLACKHOLE, Dst: netlink.NewIPNet(net.IP(p.HostIP4.AsSlice()))}
	p.must(p.Peer.Do(func() error {
		if yes {
			return netlink.RouteDel(away)
		}
		return netlink.RouteAdd(away)
	}))
}

// What finds the channel full stays with S's TCP, and so does all after it
// until S's queue is empty.
func TestSpill(t *testing.T) {
	p := newTied(t, 1000)
	octets := pattern(5000)
	p.write(p.fd, octets[:600])
	p.write(p.fd, octets[600:1200]) // less than the limit was there
	p.counts("full", 1200, 0, 0, 0)
	p.reach(false)
	p.write(p.fd, octets[1200:2200])
	p.counts("spilled", 1200, 0, 0, 0)
	p.expect("what is older", p.c, octets[:1200])
	p.counts("drained", 1200, 1200, 0, 0)
	if n := p.unacknowledged(); n != 1000 {
		t.Fatalf("%d octets in S's queue, want 1000", n)
	}
	// A program that waits for room would not send this.
	p.must(unix.SetsockoptInt(p.fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 0))
	p.write(p.fd, octets[2200:])
	p.counts("S's queue is not empty", 1200, 1200, 0, 0)
	p.expect("S's queue is not empty", p.c, nil)
	p.reach(true)
	got := make([]byte, len(octets)-1200)
	if _, err := io.ReadFull(p.peer, got); err != nil || !bytes.Equal(got, octets[1200:]) {
		t.Fatalf("the peer has not got what spilled: %v", err)
	}
	eventually(t, "all is acknowledged", func() bool { return p.unacknowledged() == 0 })
	p.write(p.fd, octets[:700])
	p.counts("redirected again", 1900, 1200, 0, 0)
	p.expect("redirected again", p.c, octets[:700])
}

// watch is an epoll instance that watches a descriptor.
func watch(t *testing.T, fd int, events uint32) (epoll int) {
	t.Helper()
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(epoll) })
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events}); err != nil {
		t.Fatal(err)
	}
	return epoll
}

// events waits up to ms for what happens.
func events(t *testing.T, epoll, ms int) uint32 {
	t.Helper()
	var e [1]unix.EpollEvent
	for {
		n, err := unix.EpollWait(epoll, e[:], ms)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return e[0].Events * uint32(n)
	}
}

const patience = 10_000 // ms

// At the limit, with a peer that is not there, S refuses and wakes as any TCP
// socket.
func TestSocketAtTheLimit(t *testing.T) {
	p := newTied(t, 1000)
	p.reach(false)
	sent := 0
	for {
		n, err := unix.Write(p.fd, pattern(50_000))
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		p.must(err)
		if sent += n; sent > 64<<20 {
			t.Fatalf("%d octets sent and no end", sent)
		}
	}
	p.counts("full", 50_000, 0, 0, 0)
	epoll := watch(t, p.fd, unix.EPOLLOUT)
	if e := events(t, epoll, 0); e != 0 {
		t.Errorf("events %#x of a socket that is full", e)
	}
	p.expect("what is older", p.c, pattern(50_000))
	if e := events(t, epoll, 0); e != 0 {
		t.Errorf("events %#x though S's own queue is full", e)
	}
	p.reach(true)
	go io.Copy(io.Discard, p.peer)
	if e := events(t, epoll, patience); e != unix.EPOLLOUT {
		t.Errorf("events %#x, want EPOLLOUT", e)
	}
	// The kernel keeps the verdict of a send that it refused for the next one
	// (eval of struct sk_psock).
	p.write(p.fd, pattern(100))
	eventually(t, "all is acknowledged", func() bool { return p.unacknowledged() == 0 })
	p.expect("nothing", p.c, nil)
	p.write(p.fd, pattern(100))
	p.expect("redirected again", p.c, pattern(100))
}

func TestEpollOfTiedSocket(t *testing.T) {
	p := newTied(t, 1<<20)
	level, edge := watch(t, p.fd, unix.EPOLLIN), watch(t, p.fd, unix.EPOLLIN|unix.EPOLLET)
	for turn := range 3 {
		if e := events(t, level, 0) | events(t, edge, 0); e != 0 {
			t.Fatalf("turn %d: events %#x of nothing", turn, e)
		}
		p.write(p.c, pattern(100))
		for _, epoll := range []int{level, edge, level} {
			if e := events(t, epoll, patience); e != unix.EPOLLIN {
				t.Fatalf("turn %d: events %#x, want EPOLLIN", turn, e)
			}
		}
		if e := events(t, edge, 0); e != 0 {
			t.Errorf("turn %d: events %#x twice at an edge", turn, e)
		}
		p.write(p.c, pattern(100))
		if e := events(t, edge, patience); e != unix.EPOLLIN {
			t.Errorf("turn %d: events %#x at the second edge", turn, e)
		}
		p.expect("both", p.fd, append(pattern(100), pattern(100)...))
	}
	// And the channel's side, as the device waits.
	channel := watch(t, p.c, unix.EPOLLIN|unix.EPOLLET)
	p.write(p.fd, pattern(10))
	if e := events(t, channel, patience); e != unix.EPOLLIN {
		t.Errorf("events %#x of the channel", e)
	}
}

// The probe tells what the Set has tied from what others have put into a
// sockmap.
func TestProbeOfTiedSocket(t *testing.T) {
	p := newTied(t, 1000)
	other := loadSet(t)
	special := func(s *Set) uint32 { return probeOne(t, s, p.Host, keyOf(p.s)).Special }
	if got := special(p.set); got != 0 {
		t.Errorf("of its own: special %#x", got)
	}
	if got := special(other); got != abi.SpecialSockmap {
		t.Errorf("of another: special %#x, want %#x", got, abi.SpecialSockmap)
	}
	p.must(other.OpenChannels())
	if got := special(other); got != abi.SpecialSockmap {
		t.Errorf("of another with channels of its own: special %#x, want %#x", got, abi.SpecialSockmap)
	}
	p.must(p.set.Untie(tiedAt))
	if got := special(other); got != 0 {
		t.Errorf("untied: special %#x", got)
	}
}

// rebuild takes an IPv4 connection's socket apart and makes it anew, in some
// state.
func rebuild(t *testing.T, c *net.TCPConn) {
	t.Helper()
	fd := descriptor(t, c)
	local, remote := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
	var unspecified unix.RawSockaddr
	repair := func(value int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, value) }
	if err := errors.Join(repair(1), connectRaw(fd, &unspecified), repair(1)); err != nil {
		t.Fatal(err)
	}
	unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(local.IP.To4()), Port: local.Port}) // the port may be bound still
	if err := errors.Join(unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte(remote.IP.To4()), Port: remote.Port}), repair(-1)); err != nil {
		t.Fatal(err)
	}
}

func connectRaw(fd int, address *unix.RawSockaddr) error {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(address)), unsafe.Sizeof(*address))
	if errno != 0 {
		return errno
	}
	return nil
}

// Pairs are tied and untied by several goroutines while others send.
func TestManyTieAtOnce(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	if err := set.OpenChannels(); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for index := range uint32(4) {
		p := &tiedPair{Net: n, t: t, set: set}
		p.s, p.peer = connect(t, n.Host, n.Peer, n.HostIP6)
		fd, c := descriptor(t, p.s), openChannel(t, n.Host)
		running.Go(func() {
			for range 50 {
				if err := set.Tie(index, fd, c, 1000); err != nil {
					t.Error(err)
					return
				}
				atomic.StoreUint32(&set.Blocks()[index].Channel.Open, 1)
				_, err := unix.Write(fd, pattern(100))
				got, err2 := drain(c)
				if err := errors.Join(err, err2, set.Untie(index)); err != nil || !bytes.Equal(got, pattern(100)) {
					t.Errorf("%d octets by the channel, %v", len(got), err)
					return
				}
			}
			if got := atomic.LoadUint64(&set.Blocks()[index].Channel.Out); got != 100 {
				t.Errorf("%d octets counted, want 100", got)
			}
		})
	}
	running.Wait()
}

// On error nothing is tied, and the socket is as it was.
func TestTieOfNonsense(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
	fd, c := descriptor(t, s), openChannel(t, n.Host)
	if err := set.Tie(1, fd, c, 1000); err == nil {
		t.Error("tied before the channels are open")
	}
	if err := errors.Join(set.OpenChannels(), set.OpenChannels()); err != nil {
		t.Fatal(err)
	}
	file := file(t, nil)
	for name, tie := range map[string]func() error{
		"index":     func() error { return set.Tie(1024, fd, c, 1000) },
		"limit":     func() error { return set.Tie(1, fd, c, 0) },
		"limit ":    func() error { return set.Tie(1, fd, c, abi.RingSize+1) },
		"no socket": func() error { return set.Tie(1, file, c, 1000) },
		"channel":   func() error { return set.Tie(1, fd, file, 1000) },
		"closed":    func() error { return set.Tie(1, fd, -1, 1000) },
	} {
		if err := tie(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if k := probeOne(t, set, n.Host, keyOf(s)); k.Socket.NotSentLowat == 1 || k.Special != 0 {
		t.Errorf("TCP_NOTSENT_LOWAT %d, special %#x", k.Socket.NotSentLowat, k.Special)
	}
	(&tiedPair{t: t, s: s, peer: peer}).plain()
	if err := set.Tie(1, fd, c, 1000); err != nil {
		t.Error(err)
	}
}

// The verdict is asked for once for what one sk_msg takes.
func TestOneSendMayPassTheLimit(t *testing.T) {
	p := newTied(t, 1)
	if n, err := unix.Write(p.fd, pattern(8<<20)); n <= 0 || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
	if out := p.channel().Out; out == 0 || out > 1<<20 {
		t.Errorf("%d octets went to a channel of 1", out)
	}
}

// Whatever the device writes into the block, the channel holds no more than
// the most there may be.
func TestChannelIsBoundedWhateverTheBlockSays(t *testing.T) {
	p := newTied(t, 1000)
	p.must(unix.SetsockoptInt(p.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	go io.Copy(io.Discard, p.peer)
	block := &p.set.Blocks()[tiedAt]
	octets := pattern(1 << 20)
	for range 64 {
		p.channel().Limit = 1<<32 - 1
		p.channel().Taken, p.channel().Out = 1<<63, 0
		block.Ledger.Taken = 1 << 63
		if _, err := unix.Write(p.fd, octets); err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
	n, err := unix.IoctlGetInt(p.c, unix.SIOCINQ)
	if err != nil || n < abi.RingSize || n > abi.RingSize+len(octets) {
		t.Errorf("%d octets wait, %v; want %d or few more", n, err, abi.RingSize)
	}
}

// What the program reads through struct channel_part and who it is of, has the
// same places in C and in Go.
func TestChannelLayoutsAgree(t *testing.T) {
	spec, err := loadChannel()
	if err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]reflect.Type{
		"channel_part": reflect.TypeFor[abi.ChannelPart](),
		"tie":          reflect.TypeFor[tie](),
		"end":          reflect.TypeFor[end](),
	} {
		var c *btf.Struct
		if err := spec.Types.TypeByName(name, &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, want := placesInC(c, 0), placesInGo(g, 0); !reflect.DeepEqual(got, want) || uintptr(c.Size) != g.Size() {
			t.Errorf("%s: C has %d octets %v\nGo has %d %v", name, c.Size, got, g.Size(), want)
		}
	}
}

// Under load, with a channel that is often full, every word arrives once, and
// on either way in order.
func TestChannelUnderLoad(t *testing.T) {
	p := newTied(t, 100_000)
	const words = 1 << 20
	sent := make(chan error, 1)
	go func() {
		buf := make([]byte, 0, 8*words)
		for i := range uint64(words) {
			buf = binary.BigEndian.AppendUint64(buf, i)
		}
		for len(buf) > 0 {
			n := min(len(buf), 64_000)
			if _, err := p.s.Write(buf[:n]); err != nil {
				sent <- err
				return
			}
			buf = buf[n:]
		}
		sent <- p.s.CloseWrite()
	}()
	spilled := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(p.peer)
		spilled <- all
	}()
	var direct, rest []byte
	for done := false; !done; {
		select {
		case rest = <-spilled:
			done = true
		default:
			unix.Poll([]unix.PollFd{{Fd: int32(p.c), Events: unix.POLLIN}}, 1)
		}
		got, err := drain(p.c)
		p.must(err)
		direct = append(direct, got...)
	}
	p.must(<-sent)
	p.counts("all", uint64(len(direct)), uint64(len(direct)), 0, 0)
	if len(direct)+len(rest) != 8*words {
		t.Fatalf("%d octets by the channel and %d by TCP, want %d", len(direct), len(rest), 8*words)
	}
	next := uint64(0)
	for len(direct)+len(rest) > 0 {
		from := &direct
		if len(direct) < 8 || len(rest) >= 8 && binary.BigEndian.Uint64(rest) == next {
			from = &rest
		}
		if len(*from) < 8 || binary.BigEndian.Uint64(*from) != next {
			t.Fatalf("word %d is not where it should be", next)
		}
		*from = (*from)[8:]
		next++
	}
}

func BenchmarkTie(b *testing.B) {
	p := newTied(b, 1000)
	for b.Loop() {
		p.must(p.set.Untie(tiedAt))
		p.must(p.set.Tie(tiedAt, p.fd, p.c, 1000))
	}
}

// What every socket of the machine pays for each receive while channels are
// open, tied or not.
func BenchmarkReceive(b *testing.B) {
	for _, open := range []bool{false, true} {
		b.Run(map[bool]string{false: "without", true: "with"}[open], func(b *testing.B) {
			n, set := testnet.New(b), loadSet(b)
			if open {
				if err := set.OpenChannels(); err != nil {
					b.Fatal(err)
				}
			}
			s, peer := connect(b, n.Host, n.Peer, n.HostIP4)
			go func() {
				for octets := make([]byte, 1<<16); ; {
					if _, err := peer.Write(octets); err != nil {
						return
					}
				}
			}()
			fd, octet := descriptor(b, s), make([]byte, 1)
			for b.Loop() {
				for {
					if _, err := unix.Read(fd, octet); err == nil {
						break
					}
				}
			}
		})
	}
}

// A small send and its receipt, through the channel and through TCP.
func BenchmarkChannel(b *testing.B) {
	for _, open := range []uint32{1, 0} {
		b.Run(map[uint32]string{1: "channel", 0: "TCP"}[open], func(b *testing.B) {
			p := newTied(b, 1<<20)
			p.open(open)
			fd, octets := p.c, make([]byte, 64)
			if open == 0 {
				p.must(p.set.Untie(tiedAt))
				fd = descriptor(b, p.peer)
			}
			for b.Loop() {
				p.write(p.fd, octets)
				for got := 0; got < len(octets); {
					if n, err := unix.Read(fd, octets[got:]); err == nil {
						got += n
					}
				}
			}
		})
	}
}

// What two threads read at once is counted in full, whoever is the last to say so.
func TestTwoReaders(t *testing.T) {
	p := newTied(t, 1<<20)
	const rounds, size = 3000, 128
	var read atomic.Int64
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for buf := make([]byte, size/2); read.Load() < rounds*size; {
				if n, _, err := unix.Recvfrom(p.fd, buf, unix.MSG_DONTWAIT); err == nil {
					read.Add(int64(n))
				}
			}
		})
	}
	defer readers.Wait()
	defer read.Store(rounds * size)
	for i := range uint64(rounds) {
		p.write(p.c, pattern(size))
		for uint64(read.Load()) < (i+1)*size {
			runtime.Gosched()
		}
		eventually(t, "all that was read is told", func() bool {
			return atomic.LoadUint64(&p.channel().Read) == (i+1)*size
		})
	}
}
