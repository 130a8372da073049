package bpf

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
	"toehold/internal/testnet"
)

// staleAfter is long, since a busy machine may not let the passer run for a
// while; tests of what happens then use staleSoon.
const (
	staleAfter = 10 * time.Second
	staleSoon  = 50 * time.Millisecond
)

// A rig is a Set on the uplink of a testnet, with a host port, a packet
// socket, and as its device a passer, which only forwards frames.
type rig struct {
	*testnet.Net
	set        *Set
	uplink     netlink.Link
	linkHeader int
	packet     int
	tap        int
	hostPort   netlink.Link

	stop    chan struct{}
	passing sync.WaitGroup
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{Net: testnet.New(t), linkHeader: 14}
	r.attach(t, r.HostIf)
	return r
}

// attach loads a Set and puts it on an interface of the host.
func (r *rig) attach(t *testing.T, uplink string) {
	t.Helper()
	r.set = loadSet(t)
	err := r.Host.Do(func() (err error) {
		if r.uplink, err = netlink.LinkByName(uplink); err != nil {
			return err
		}
		if err := r.set.AttachUplink(r.uplink.Attrs().Index); err != nil {
			return err
		}
		r.tap, r.hostPort = openTAP(t, "hostport")
		r.packet = openPacket(t, r.uplink.Attrs().Index, r.set.Filter())
		_, err = r.set.AttachHostPort(r.hostPort.Attrs().Index)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func loadSet(t testing.TB) *Set {
	t.Helper()
	s, err := Load(Config{MaxConnections: 1024, StaleAfter: staleAfter})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the set: %v", err)
		}
	})
	return s
}

// openTAP runs in the namespace in which the TAP is to be.
func openTAP(t *testing.T, name string) (int, netlink.Link) {
	t.Helper()
	fd := openTun(t, name, unix.IFF_TAP)
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetTxQLen(l, 10000), netlink.LinkSetUp(l)); err != nil {
		t.Fatal(err)
	}
	return fd, l
}

func openTun(t *testing.T, name string, kind uint16) int {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(kind | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads); err != nil {
		t.Fatal(err)
	}
	return fd
}

func openPacket(t *testing.T, ifindex, filter int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{unix.SOL_SOCKET, unix.SO_ATTACH_BPF, filter},
		{unix.SOL_SOCKET, unix.SO_MARK, abi.MarkWire},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64 << 20},
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 64 << 20},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			t.Fatalf("option %d: %v", o.name, err)
		}
	}
	bindPacket(t, fd, ifindex, unix.ETH_P_ALL)
	return fd
}

func bindPacket(t *testing.T, fd, ifindex int, protocol uint16) {
	t.Helper()
	address := &unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: ifindex}
	if err := unix.Bind(fd, address); err != nil {
		t.Fatal(err)
	}
}

// beat writes the heartbeat once and clears the fence.
func (r *rig) beat() {
	atomic.StoreUint64(&r.set.Pulse().Heartbeat, uint64(mono.Now()))
	atomic.StoreUint32(&r.set.Control().Fenced, 0)
}

// start runs the passer until halt or the end of the test.
func (r *rig) start(t *testing.T) {
	r.stop = make(chan struct{})
	r.beat()
	r.passing.Go(r.pass)
	t.Cleanup(r.halt)
}

func (r *rig) halt() {
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	r.passing.Wait()
}

// pass forwards frames both ways as they are, and keeps the heart beating.
func (r *rig) pass() {
	buf := make([]byte, 10+14+1<<16)
	wait := []unix.PollFd{{Fd: int32(r.packet), Events: unix.POLLIN}, {Fd: int32(r.tap), Events: unix.POLLIN}}
	for {
		select {
		case <-r.stop:
			return
		default:
		}
		atomic.StoreUint64(&r.set.Pulse().Heartbeat, uint64(mono.Now()))
		forward(r.packet, r.tap, buf, 14-r.linkHeader)
		forward(r.tap, r.packet, buf, r.linkHeader-14)
		unix.Poll(wait, 5)
	}
}

// forward passes on what waits at from. Frames grow by more octets of link
// header, all zero but the type, or lose them when more is negative.
func forward(from, to int, buf []byte, more int) {
	for range 64 {
		n, err := unix.Read(from, buf[14:])
		if err != nil || n < 10 {
			return
		}
		frame := buf[14 : 14+n]
		if more > 0 {
			frame = addEthernet(buf[:14+n])
		}
		if more < 0 {
			copy(frame[14:], frame[:10])
			frame = frame[14:]
			moveChecksum(frame, -14)
		}
		for {
			_, err := unix.Write(to, frame)
			if !errors.Is(err, unix.EAGAIN) { // ENOBUFS: the device is fenced
				break
			}
			unix.Poll([]unix.PollFd{{Fd: int32(to), Events: unix.POLLOUT}}, 1)
		}
	}
}

// addEthernet puts an Ethernet header between the virtio-net header, which
// starts at 14, and the packet.
func addEthernet(buf []byte) []byte {
	copy(buf, buf[14:24])
	clear(buf[10:24])
	binary.BigEndian.PutUint16(buf[22:], unix.ETH_P_IP)
	if buf[24]>>4 == 6 {
		binary.BigEndian.PutUint16(buf[22:], unix.ETH_P_IPV6)
	}
	moveChecksum(buf, 14)
	return buf
}

// moveChecksum adds by to the offsets of a virtio-net header.
func moveChecksum(h []byte, by int) {
	for _, at := range []int{2, 6} { // hdr_len, csum_start
		if v := binary.NativeEndian.Uint16(h[at:]); v != 0 {
			binary.NativeEndian.PutUint16(h[at:], uint16(int(v)+by))
		}
	}
}

// connect makes a connection from the peer to the host: S is the first.
func (r *rig) connect(t *testing.T, host netip.Addr) (s, peer *net.TCPConn) {
	t.Helper()
	return connect(t, r.Host, r.Peer, host)
}

func connect(t testing.TB, server, client *testnet.Namespace, address netip.Addr) (s, peer *net.TCPConn) {
	t.Helper()
	l, err := server.Listen("tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := client.Dial("tcp", l.Addr().String())
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

func keyOf(c net.Conn) flow.Key {
	return flow.Make(c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()).Key()
}

func (r *rig) steer(t *testing.T, s net.Conn) {
	t.Helper()
	if err := r.set.Steer([]flow.Key{keyOf(s)}, []abi.HWID{abi.MakeHWID(0, 1)}); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) unsteer(t *testing.T, s net.Conn) {
	t.Helper()
	if err := r.set.Unsteer([]flow.Key{keyOf(s)}); err != nil {
		t.Fatal(err)
	}
}

// counters copies what the programs have counted.
func (r *rig) counters() (c abi.Control) {
	from := r.set.Control()
	c.Fenced = atomic.LoadUint32(&from.Fenced)
	c.ToDevice = atomic.LoadUint64(&from.ToDevice)
	c.Injected = atomic.LoadUint64(&from.Injected)
	c.Dropped = atomic.LoadUint64(&from.Dropped)
	c.Bypassed = atomic.LoadUint64(&from.Bypassed)
	c.Fences = atomic.LoadUint64(&from.Fences)
	return c
}

func TestLayoutsAgree(t *testing.T) {
	s := loadSet(t)
	for _, tt := range []struct {
		name        string
		size, want  uint32
		entries, is uint32
	}{
		{"pulse", s.steer.steerMaps.Pulse.ValueSize(), uint32(unsafe.Sizeof(abi.Pulse{})), s.steer.steerMaps.Pulse.MaxEntries(), 1},
		{"control", s.steer.steerMaps.Control.ValueSize(), uint32(unsafe.Sizeof(abi.Control{})), s.steer.steerMaps.Control.MaxEntries(), 1},
		{"blocks", s.steer.Blocks.ValueSize(), abi.BlockSize, s.steer.Blocks.MaxEntries(), 1024},
		{"flows, value", s.steer.Flows.ValueSize(), uint32(unsafe.Sizeof(abi.FlowEntry{})), s.steer.Flows.MaxEntries(), 1024},
		{"flows, key", s.steer.Flows.KeySize(), uint32(unsafe.Sizeof(flow.Key{})), s.steer.Flows.MaxEntries(), 1024},
	} {
		if tt.size != tt.want || tt.entries != tt.is {
			t.Errorf("%s: %d octets in C, %d in Go; %d entries, want %d", tt.name, tt.size, tt.want, tt.entries, tt.is)
		}
	}
}
