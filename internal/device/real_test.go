package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/port"
	"toehold/internal/shm"
	"toehold/internal/testnet"
)

// A station is the device's real loop on a real uplink, and the driver's steps
// one by one.
type station struct {
	*testnet.Net
	t         testing.TB
	addresses [2]netip.Addr // of the host: IPv4, IPv6
	set       *bpf.Set
	socket    int // to the device
	batch     uint32
	ended     chan error
	stop      context.CancelFunc
}

func newStation(t testing.TB) *station {
	t.Helper()
	n := testnet.New(t)
	return newStationOn(t, n, n.HostIf, etherLen, [2]netip.Addr{n.HostIP4, n.HostIP6})
}

// newStationOn uses an interface of the host that has these addresses.
func newStationOn(t testing.TB, n *testnet.Net, uplinkName string, linkHeader int, addresses [2]netip.Addr) *station {
	t.Helper()
	s := &station{Net: n, t: t, addresses: addresses, ended: make(chan error, 1)}
	set, err := bpf.Load(bpf.Config{MaxConnections: 256, StaleAfter: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set.Close() })
	s.set = set
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.socket = pair[0]
	var packet, tap int
	err = s.Host.Do(func() error {
		uplink, err := netlink.LinkByName(uplinkName)
		if err != nil {
			return err
		}
		index := uplink.Attrs().Index
		if err := set.AttachUplink(index); err != nil {
			return err
		}
		if packet, err = port.OpenPacketSocket(index, set.Filter(), abi.MarkWire); err != nil {
			return err
		}
		var hostPort int
		if tap, _, hostPort, err = port.OpenTAP("th%d"); err != nil {
			return err
		}
		_, err = set.AttachHostPort(hostPort)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rings, err := shm.MakeRings(256)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(rings) })
	s.start(Config{Socket: pair[1], Rings: rings, Uplink: packet, HostPort: tap, Control: set.ControlFD(), Pulse: set.PulseFD(), Blocks: set.BlocksFD(),
		LinkHeader: linkHeader, MaxConnections: 256, Memory: 256 << 20, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	return s
}

func (s *station) start(c Config) {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() { s.ended <- s.Host.Do(func() error { return Run(ctx, c) }) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-s.ended; err != nil && !errors.Is(err, ErrFenced) {
			s.t.Errorf("the device ended with %v", err)
		}
		unix.Close(s.socket)
		unix.Close(c.Socket)
	})
	if h, _ := s.hear(); h.Type != abi.Hello {
		s.t.Fatalf("the device's first word is of type %d", h.Type)
	}
}

func (s *station) hear() (abi.Header, []byte) {
	s.t.Helper()
	msg := make([]byte, abi.MaxMessage)
	tv := unix.Timeval{Sec: 10}
	unix.SetsockoptTimeval(s.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	n, err := unix.Read(s.socket, msg)
	for err == unix.EINTR {
		n, err = unix.Read(s.socket, msg)
	}
	if err != nil {
		s.t.Fatalf("no answer of the device: %v", err)
	}
	h, octets, err := abi.ParseHeader(msg[:n])
	if err != nil {
		s.t.Fatal(err)
	}
	return h, octets
}

// ask sends a message and waits for its answers; notices are put aside.
func ask[E abi.Entries](s *station, t abi.Type, entries ...E) []abi.Answer {
	s.t.Helper()
	s.batch++
	if err := unix.Send(s.socket, abi.Append(nil, t, s.batch, entries), 0); err != nil {
		s.t.Fatal(err)
	}
	var answers []abi.Answer
	for len(answers) < len(entries) {
		h, octets := s.hear()
		if h.Type == abi.Notice {
			continue
		}
		if h.Type != t+1 || h.Batch != s.batch {
			s.t.Fatalf("answer of type %d to batch %d, want type %d to %d", h.Type, h.Batch, t+1, s.batch)
		}
		more, err := abi.Parse(answers, h, octets)
		if err != nil {
			s.t.Fatal(err)
		}
		answers = more
	}
	return answers
}

// offload carries a connection to the device as the driver does.
func (s *station) offload(id flow.ID) (abi.HWID, abi.Answer) {
	s.t.Helper()
	a := ask(s, abi.Admit, abi.Offer{Key: id.Key(), MSS: 1448})[0]
	if a.Reason != abi.None {
		s.t.Fatalf("not admitted: %v", a.Reason)
	}
	if err := s.set.Steer([]flow.Key{id.Key()}, []abi.HWID{a.HWID}); err != nil {
		s.t.Fatal(err)
	}
	var k [1]abi.KernelState
	if err := s.Host.Do(func() error { return s.set.Probe([]flow.Key{id.Key()}, k[:]) }); err != nil {
		s.t.Fatal(err)
	}
	part := &s.set.Blocks()[a.HWID.Index()].Kernel
	shm.Publish(&part.Sequence, func() { part.HWID, part.Key, part.State = a.HWID, id.Key(), k[0] })
	owned := ask(s, abi.Own, abi.Command{HWID: a.HWID})[0]
	if owned.Reason != abi.None {
		s.t.Fatalf("not owned: %v", owned.Reason)
	}
	return a.HWID, owned
}

func (s *station) upload(id flow.ID, hw abi.HWID) abi.Answer {
	s.t.Helper()
	a := ask(s, abi.Pass, abi.Command{HWID: hw})[0]
	if a.Reason != abi.None {
		s.t.Fatalf("not passing: %v", a.Reason)
	}
	if err := s.set.Unsteer([]flow.Key{id.Key()}); err != nil {
		s.t.Fatal(err)
	}
	ask(s, abi.Release, abi.Command{HWID: hw})
	return a
}

// connect makes a connection of the kernel's, peer to host.
func (s *station) connect(v6 bool) (host, peer *net.TCPConn, id flow.ID) {
	s.t.Helper()
	ip := s.addresses[0]
	if v6 {
		ip = s.addresses[1]
	}
	l, err := s.Host.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	p, err := s.Peer.Dial("tcp", l.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	h, err := l.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { p.Close(); h.Close() })
	local := netip.MustParseAddrPort(h.LocalAddr().String())
	remote := netip.MustParseAddrPort(h.RemoteAddr().String())
	return h.(*net.TCPConn), p.(*net.TCPConn), flow.Make(local, remote)
}

// stream sends n random octets from one end to the other and compares hashes;
// the result comes when the receiver has seen the end.
func stream(t testing.TB, from, to *net.TCPConn, n int64) <-chan error {
	done := make(chan error, 1)
	sum := make(chan [32]byte, 1)
	go func() {
		h := sha256.New()
		var seed [32]byte
		seed[0] = byte(n)
		src := io.LimitReader(rand.NewChaCha8(seed), n)
		buf := make([]byte, 128<<10)
		_, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(from, h)}, src, buf)
		if err == nil {
			err = from.CloseWrite()
		}
		if err != nil {
			t.Errorf("send: %v", err)
		}
		sum <- [32]byte(h.Sum(nil))
	}()
	go func() {
		h := sha256.New()
		got, err := io.Copy(struct{ io.Writer }{h}, to)
		switch want := <-sum; {
		case err != nil:
			done <- err
		case got != n || !bytes.Equal(h.Sum(nil), want[:]):
			done <- errors.New("the octets received differ from those sent")
		default:
			done <- nil
		}
	}()
	return done
}

func wait(t testing.TB, what string, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	case <-time.After(30 * time.Second):
		buf := make([]byte, 1<<16)
		t.Fatalf("%s: no end after 30 s\n%s", what, buf[:runtime.Stack(buf, false)])
	}
}

// A bulk transfer both ways goes on while the connection moves to the device
// and back, over and over.
func TestRealConnectionMovesUnderTraffic(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		s := newStation(t)
		host, peer, id := s.connect(v6)
		const n = 600 << 20
		up, down := stream(t, host, peer, n), stream(t, peer, host, n)
		moves := 0
		for deadline := time.Now().Add(1500 * time.Millisecond); time.Now().Before(deadline); moves++ {
			hw, owned := s.offload(id)
			passed := s.upload(id, hw)
			if moves < 3 {
				t.Logf("owned with %d octets held, stall %d ns; home with %d octets held, stall %d ns",
					owned.Bytes, owned.StallNS, passed.Bytes, passed.StallNS)
			}
		}
		wait(t, "host to peer", up)
		wait(t, "peer to host", down)
		t.Logf("IPv6 %v: %d moves", v6, moves)
	}
}

// The same where frames have no link header.
func TestRealConnectionWithoutLinkHeader(t *testing.T) {
	n := testnet.New(t)
	addresses, _ := n.AddTUNs(t, "l3")
	s := newStationOn(t, n, "l3", 0, addresses)
	for _, v6 := range []bool{false, true} {
		host, peer, id := s.connect(v6)
		up, down := stream(t, host, peer, 100<<20), stream(t, peer, host, 100<<20)
		for range 20 {
			hw, _ := s.offload(id)
			s.upload(id, hw)
		}
		s.offload(id)
		wait(t, "host to peer", up)
		wait(t, "peer to host", down)
	}
	if c := s.set.Control(); c.ToDevice == 0 || c.Injected == 0 || c.Fences != 0 {
		t.Errorf("the frames did not go by the device: %+v", *c)
	}
}

// An idle connection moves, carries a few octets, and comes home.
func TestRealIdleConnection(t *testing.T) {
	s := newStation(t)
	host, peer, id := s.connect(false)
	for range 20 {
		hw, _ := s.offload(id)
		for _, pair := range [][2]*net.TCPConn{{host, peer}, {peer, host}} {
			if _, err := pair[0].Write([]byte("over the device")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 15)
			pair[1].SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.ReadFull(pair[1], buf); err != nil || string(buf) != "over the device" {
				t.Fatalf("read %q, %v", buf, err)
			}
		}
		s.upload(id, hw)
	}
}

// Both sides close while the device has the connection.
func TestRealClose(t *testing.T) {
	s := newStation(t)
	host, peer, id := s.connect(false)
	s.offload(id)
	up, down := stream(t, host, peer, 5<<20), stream(t, peer, host, 3<<20)
	wait(t, "host to peer", up)
	wait(t, "peer to host", down)
}
