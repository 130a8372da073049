package port

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

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
	stop        atomic.Bool
	done        chan error
	wide        [2]uint64 // super-segments seen from the socket, from the wire
	widest      [2]int
	bad         uint64 // frames that are no sound TCP
}

func newRelay(t testing.TB, n *testnet.Net) *relay {
	t.Helper()
	r := &relay{pool: frame.NewPool(256 << 20), done: make(chan error, 1)}
	var socket, tap, uplink, host int
	in(t, n.Host, func() (err error) {
		uplink = index(t, n.HostIf)
		if tap, _, host, err = OpenTAP("toe%d"); err != nil {
			return err
		}
		socket, err = OpenPacketSocket(uplink, wireFilter(t), testWire)
		return err
	})
	r.open(t, n, socket, tap)
	in(t, n.Host, func() error { steer(t, uplink, host); return nil })
	go func() { r.done <- r.run() }()
	t.Cleanup(func() { r.finish(t) })
	return r
}

func (r *relay) open(t testing.TB, n *testnet.Net, socket, tap int) {
	t.Helper()
	in(t, n.Host, func() error {
		p, err := NewPacket(socket, r.pool)
		if err != nil {
			return err
		}
		h, err := NewTAP(tap, r.pool)
		r.packet, r.tap = p, h
		return err
	})
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
	var p wire.Packet
	for _, f := range frames[:n] {
		if v := wire.Parse(f.Buf, f.N, wire.EtherLen, &p); v != wire.OK || !wire.VerifyChecksum(f.Buf, f.N, &p) {
			r.bad++
		}
		if p.Seg.Size > 0 {
			r.wide[direction]++
			r.widest[direction] = max(r.widest[direction], f.N)
		}
		for !to.Queue(nil, []frame.Span{{Buf: f.Buf, Len: uint32(f.N)}}) {
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

// exchange sends n octets each way over one connection from the host to the
// peer, and compares hashes.
func exchange(t testing.TB, net_ *testnet.Net, address netip.Addr, n int64) {
	t.Helper()
	l, err := net_.Peer.Listen("tcp", netip.AddrPortFrom(address, 0).String())
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
	c, err := net_.Host.Dial("tcp", l.Addr().String())
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

func TestSuperSegmentsPassBetweenWireAndSocket(t *testing.T) {
	n := testnet.New(t)
	r := newRelay(t, n)
	for _, address := range []netip.Addr{n.PeerIP4, n.PeerIP6} {
		t.Run(address.String(), func(t *testing.T) { exchange(t, n, address, 64<<20) })
	}
	t.Cleanup(func() {
		t.Logf("super-segments %d, widest %d; %d frames were not sound", r.wide, r.widest, r.bad)
	})
}
