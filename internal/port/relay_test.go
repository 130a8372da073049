package port

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/frame"
	"toehold/internal/testnet"
	"toehold/internal/wire"
)

// A relay passes every TCP frame between a veth and the sockets behind it
// through a TAP and a packet socket, as the device does with a flow that it
// passes.
type relay struct {
	pool        *frame.Pool
	packet, tap Port
	kind        uplinkKind
	stop        atomic.Bool
	done        chan error
	wide        [2]uint64 // super-segments seen from the socket, from the wire
	widest      [2]int
	tagged      [2]uint64
	bad         uint64 // frames that are no sound TCP
}

// newRelay relays on the interface uplink of the namespace host.
func newRelay(t testing.TB, host *testnet.Namespace, uplink string, kind uplinkKind) *relay {
	t.Helper()
	r := &relay{pool: frame.NewPool(256 << 20), kind: kind, done: make(chan error, 1)}
	in(t, host, func() error {
		wire := index(t, uplink)
		tap, _, hostPort, err := OpenTAP("toe%d")
		if err != nil {
			return err
		}
		socket, err := OpenPacketSocket(wire, wireFilter(t, kind), testWire)
		if err != nil {
			return err
		}
		steer(t, wire, hostPort, kind)
		return r.open(socket, tap)
	})
	go func() { r.done <- r.run() }()
	t.Cleanup(func() { r.finish(t) })
	return r
}

func (r *relay) open(socket, tap int) error {
	p, err := NewPacket(socket, r.pool)
	if err != nil {
		return err
	}
	h, err := NewTAP(tap, r.pool)
	r.packet, r.tap = p, h
	return err
}

func in(t testing.TB, ns *testnet.Namespace, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

func index(t testing.TB, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}

func (r *relay) finish(t testing.TB) {
	t.Helper()
	r.stop.Store(true)
	if err := <-r.done; err != nil {
		t.Errorf("relay: %v", err)
	}
	for _, p := range []Port{r.packet, r.tap} {
		if s := p.Stats(); s.RxDropped+s.RxNoBuffer+s.RxTooLarge+s.TxErrors != 0 {
			t.Errorf("%T lost frames: %+v", p, s)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if r.bad > 0 {
		t.Errorf("%d frames were no sound TCP", r.bad)
	}
	r.pool.Recycle()
	if u := r.pool.Used(); u != 0 {
		t.Errorf("%d octets of buffers were never released", u)
	}
}

// run is the loop, on one thread.
func (r *relay) run() error {
	fds := []unix.PollFd{{Fd: int32(r.packet.FD()), Events: unix.POLLIN}, {Fd: int32(r.tap.FD()), Events: unix.POLLIN}}
	frames := make([]Received, 32)
	for !r.stop.Load() {
		moved := 0
		for i, pair := range [2][2]Port{{r.tap, r.packet}, {r.packet, r.tap}} {
			n, err := r.pass(i, pair[0], pair[1], frames)
			if err != nil {
				return err
			}
			moved += n
		}
		r.pool.Recycle()
		if moved == 0 {
			if _, err := unix.Poll(fds, 20); err != nil && err != unix.EINTR {
				return err
			}
		}
	}
	return nil
}

func (r *relay) pass(direction int, from, to Port, frames []Received) (int, error) {
	n, err := from.Receive(frames)
	if err != nil {
		return n, err
	}
	for _, f := range frames[:n] {
		header, rest := r.look(direction, f)
		for !to.Queue(header, []frame.Span{rest}) {
			if _, err := to.Flush(); err != nil {
				return n, err
			}
		}
		f.Buf.Release()
	}
	for {
		if done, err := to.Flush(); done || err != nil {
			return n, err
		}
	}
}

// look checks a frame and returns what passes on, whole where both sides have
// the same link header.
func (r *relay) look(direction int, f Received) (header []byte, rest frame.Span) {
	var p wire.Packet
	link := []int{wire.EtherLen, r.kind.link}[direction]
	if v := wire.Parse(f.Buf, f.N, link, &p); v != wire.OK || !wire.VerifyChecksum(f.Buf, f.N, &p) {
		r.bad++
	}
	if p.Seg.Size > 0 {
		r.wide[direction]++
		r.widest[direction] = max(r.widest[direction], f.N)
	}
	if len(p.Link) > wire.EtherLen {
		r.tagged[direction]++
	}
	if r.kind.link == wire.EtherLen {
		return nil, frame.Span{Buf: f.Buf, Len: uint32(f.N)}
	}
	return r.relink(direction, &p, f.Buf)
}

func (r *relay) relink(direction int, p *wire.Packet, b *frame.Buf) ([]byte, frame.Span) {
	var ether []byte
	if direction == 1 {
		ether = append(make([]byte, 12), 8, 0)
		if p.Key.Family == 6 {
			ether = append(ether[:12], 0x86, 0xdd)
		}
	}
	dst := make([]byte, wire.MaxHeaders)
	n, rest := p.Relink(dst, b, ether)
	return dst[:n], rest
}

// exchange sends n octets each way over one connection from host to the
// address of peer, and compares hashes.
func exchange(t testing.TB, host, peer *testnet.Namespace, address netip.Addr, n int64) {
	t.Helper()
	l, err := peer.Listen("tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	result := make(chan error, 1)
	var there [2]hash.Hash
	go func() {
		c, err := l.Accept()
		if err == nil {
			there, err = both(c, n)
		}
		result <- err
	}()
	c, err := host.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	here, err := both(c, n)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if sum(here[0]) != sum(there[1]) || sum(here[1]) != sum(there[0]) {
		t.Error("what was sent is not what arrived")
	}
}

func sum(h hash.Hash) string { return fmt.Sprintf("%x", h.Sum(nil)) }

// both sends and receives n octets on c at once, and returns the hashes of
// what was sent and received.
func both(c net.Conn, n int64) (h [2]hash.Hash, err error) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	h = [2]hash.Hash{sha256.New(), sha256.New()}
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(c, h[0]), &pattern{}, n)
		if err == nil {
			err = c.(*net.TCPConn).CloseWrite()
		}
		sent <- err
	}()
	got, err := io.Copy(h[1], c)
	if err == nil && got != n {
		err = fmt.Errorf("received %d octets of %d", got, n)
	}
	if e := <-sent; err == nil {
		err = e
	}
	return h, err
}

// pattern is octets that repeat with no power of two as their period.
type pattern struct{ at uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.at * 2654435761 >> 13)
		p.at++
	}
	return len(b), nil
}

// exchangeAll is exchange with every address, and checks that super-segments
// went both ways.
func (r *relay) exchangeAll(t *testing.T, host, peer *testnet.Namespace, addresses ...netip.Addr) {
	t.Helper()
	for _, a := range addresses {
		exchange(t, host, peer, a, 16<<20)
	}
	r.stop.Store(true)
	err := <-r.done
	if r.done <- err; err != nil {
		t.Fatal(err)
	}
	for i, from := range []string{"socket", "wire"} {
		if r.wide[i] == 0 || r.widest[i] < 60000 {
			t.Errorf("%d super-segments from the %s, the widest of %d octets", r.wide[i], from, r.widest[i])
		}
	}
}

func TestSuperSegmentsPassBetweenWireAndSocket(t *testing.T) {
	n := testnet.New(t)
	r := newRelay(t, n.Host, n.HostIf, uplinkKind{link: wire.EtherLen})
	r.exchangeAll(t, n.Host, n.Peer, n.PeerIP4, n.PeerIP6)
}

func TestSuperSegmentsPassInAVLAN(t *testing.T) {
	n := testnet.New(t)
	in(t, n.Peer, func() error { tagTCP(t, index(t, n.PeerIf)); return nil })
	r := newRelay(t, n.Host, n.HostIf, uplinkKind{wire.EtherLen, true})
	r.exchangeAll(t, n.Host, n.Peer, n.PeerIP4, n.PeerIP6)
	if r.tagged[0] == 0 || r.tagged[1] == 0 {
		t.Errorf("frames with tags: %d", r.tagged)
	}
}

// addTUN makes a TUN in ns, called tun0, with the offloads of a TAP.
func addTUN(t testing.TB, ns *testnet.Namespace, addresses ...netip.Addr) *os.File {
	t.Helper()
	var file *os.File
	in(t, ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, err = makeTun(fd, "tun0", unix.IFF_TUN)
		file = os.NewFile(uintptr(fd), "tun0") // not before it has a queue to poll
		return err
	})
	if err := ns.Configure("tun0", addresses...); err != nil {
		t.Fatal(err)
	}
	return file
}

// cable copies packets from one TUN to another until one is closed.
func cable(from, to *os.File) {
	b := make([]byte, frame.Large)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if _, err := to.Write(b[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

func TestSuperSegmentsPassWithoutLinkHeader(t *testing.T) {
	host, peer := namespace(t), namespace(t)
	a4, b4 := netip.MustParseAddr("10.79.0.1"), netip.MustParseAddr("10.79.0.2")
	a6, b6 := netip.MustParseAddr("fd79::1"), netip.MustParseAddr("fd79::2")
	a, b := addTUN(t, host, a4, a6), addTUN(t, peer, b4, b6)
	go cable(a, b)
	go cable(b, a)
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	r := newRelay(t, host, "tun0", uplinkKind{})
	r.exchangeAll(t, host, peer, b4, b6)
}

func namespace(t testing.TB) *testnet.Namespace {
	t.Helper()
	ns, err := testnet.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// What the relay writes waits in the kernel's backlog of the CPU
// (net.core.netdev_max_backlog) until the uplink takes it in. A long burst
// must not overflow that.
func TestABurstIsInjectedWhole(t *testing.T) {
	n := testnet.New(t)
	pool := frame.NewPool(256 << 20)
	var tap *TAP
	var uplink *Packet
	in(t, n.Host, func() error {
		fd, _, ifindex, err := OpenTAP("toe%d")
		if err != nil {
			return err
		}
		steer(t, index(t, n.HostIf), ifindex, uplinkKind{link: wire.EtherLen})
		if tap, err = NewTAP(fd, pool); err != nil {
			return err
		}
		if fd, err = OpenPacketSocket(index(t, n.HostIf), -1, 0); err != nil {
			return err
		}
		uplink, err = NewPacket(fd, pool)
		return err
	})
	defer tap.Close()
	defer uplink.Close()
	const frames = 10000
	for i := range frames {
		say(t, tap, pool, ether(fmt.Sprint(i)))
		if i%batch == batch-1 || i == frames-1 {
			flush(t, tap, true)
		}
	}
	at := 0
	for _, got := range texts(t, uplink) {
		if got == ether(fmt.Sprint(at)) { // others are the kernel's own
			at++
		}
	}
	if at != frames {
		t.Errorf("%d of %d frames came in order", at, frames)
	}
}
