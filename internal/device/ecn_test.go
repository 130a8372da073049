package device

import (
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/frame"
	"toehold/internal/testnet"
	"toehold/internal/wire"
)

// markOneIn makes the peer's end of the wire mark one frame in so many of those
// that are ECN-capable, as a queue that fills up does: those that come in, and
// those that go out.
func markOneIn(t *testing.T, n *testnet.Net, oneIn int32) {
	t.Helper()
	const next = -1 // TCX_NEXT
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.FnGetPrandomU32.Call(),
			asm.Mod.Imm32(asm.R0, oneIn),
			asm.JNE.Imm32(asm.R0, 0, "out"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, 14+40), // of a frame that is captured too, whose headers must be copied
			asm.FnSkbPullData.Call(),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.FnSkbEcnSetCe.Call(),
			asm.Mov.Imm(asm.R0, next).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	err = n.Peer.Do(func() error {
		l, err := netlink.LinkByName(n.PeerIf)
		if err != nil {
			return err
		}
		for _, direction := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			attached, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: l.Attrs().Index, Attach: direction})
			if err != nil {
				return err
			}
			t.Cleanup(func() { attached.Close() })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// negotiateECN makes connections between the namespaces ECN-capable.
func negotiateECN(t *testing.T, n *testnet.Net) {
	t.Helper()
	for _, ns := range []*testnet.Namespace{n.Host, n.Peer} {
		err := ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_ecn", []byte("1"), 0) })
		if err != nil {
			t.Fatal(err)
		}
	}
}

// markedIn is how many marked segments a namespace's IP, of either family, has
// taken in.
func markedIn(t *testing.T, ns *testnet.Namespace) int {
	t.Helper()
	n := 0
	err := ns.Do(func() error {
		four, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		six, err := os.ReadFile("/proc/thread-self/net/snmp6")
		if err != nil {
			return err
		}
		n = counter(t, "Ip6InCEPkts", strings.Fields(string(six))) + table(t, string(four), "IpExt:", "InCEPkts")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// counter is the word after a name.
func counter(t *testing.T, name string, words []string) int {
	t.Helper()
	i := slices.Index(words, name)
	if i < 0 {
		t.Fatalf("no %s", name)
	}
	n, err := strconv.Atoi(words[i+1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// table reads from a line of numbers what the line of names before it calls so.
func table(t *testing.T, text, group, name string) int {
	t.Helper()
	var names []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0] != group:
		case names == nil:
			names = words
		default:
			return counter(t, name, []string{name, words[slices.Index(names, name)]})
		}
	}
	t.Fatalf("no %s", group)
	return 0
}

func tcpInfo(t *testing.T, c *net.TCPConn) *unix.TCPInfo {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	var failed error
	if err := raw.Control(func(fd uintptr) {
		info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return info
}

// A tally counts what the peer's interface sees come in.
type tally struct {
	data, capable, cwr, wrong atomic.Int64
}

// look reads the frames that come in at the peer until the test ends. Wrong are
// ECN-capable segments that must not be: without payload (RFC 3168, section
// 6.1.4).
func look(t *testing.T, n *testnet.Net, into *tally) {
	t.Helper()
	var fd int
	err := n.Peer.Do(func() (err error) {
		l, err := netlink.LinkByName(n.PeerIf)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL << 8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil { // super-segments fill it fast
			return err
		}
		tv := unix.Timeval{Usec: 50000}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-stopped; unix.Close(fd) })
	go func() {
		defer close(stopped)
		buf := frame.NewPool(1 << 20).Get(frame.Large)
		for {
			select {
			case <-stop:
				return
			default:
				into.next(fd, buf)
			}
		}
	}()
}

func (y *tally) next(fd int, buf *frame.Buf) {
	n, from, err := unix.Recvfrom(fd, buf.B[wire.VNetLen:], 0)
	if ll, ok := from.(*unix.SockaddrLinklayer); err != nil || !ok || ll.Pkttype == unix.PACKET_OUTGOING {
		return
	}
	var p wire.Packet
	if wire.Parse(buf, wire.VNetLen+n, etherLen, &p) != wire.OK || p.Seg.Flags&wire.SYN != 0 {
		return
	}
	switch {
	case p.Seg.Payload.Len == 0 && p.Seg.ECN != wire.NotECT:
		y.wrong.Add(1)
	case p.Seg.Payload.Len > 0:
		y.data.Add(1)
		if p.Seg.ECN != wire.NotECT {
			y.capable.Add(1)
		}
		if p.Seg.Flags&wire.CWR != 0 {
			y.cwr.Add(1)
		}
	}
}

// On a path that marks, a connection is offloaded: the peer hears of marks by
// ECE and is told of the device's reductions by CWR, S hears of marks too, and
// all of it goes on at home and when the connection has been moved in the
// middle.
func TestRealECN(t *testing.T) {
	const ecnSeen = 16 // TCPI_OPT_ECN_SEEN
	for _, v6 := range []bool{false, true} {
		s := newStation(t)
		negotiateECN(t, s.Net)
		host, peer, id := s.connect(v6)
		hw, _ := s.offload(id)
		if f := s.set.Blocks()[hw.Index()].Kernel.State.Flags; f&abi.FlagECN == 0 {
			t.Fatalf("flags %#x: ECN was not negotiated", f)
		}
		markOneIn(t, s.Net, 20)
		var seen tally
		look(t, s.Net, &seen)
		const n = 200 << 20
		up, down := stream(t, host, peer, n), stream(t, peer, host, n)
		for start := time.Now(); tcpInfo(t, peer).Delivered_ce == 0 || markedIn(t, s.Host) == 0 || seen.cwr.Load() == 0; time.Sleep(time.Millisecond) {
			if time.Since(start) > 20*time.Second {
				t.Fatalf("IPv6 %v: the peer was told of %d marked segments, S of %d, the peer of %d reductions", v6,
					tcpInfo(t, peer).Delivered_ce, markedIn(t, s.Host), seen.cwr.Load())
			}
		}
		for range 20 {
			s.upload(id, hw)
			hw, _ = s.offload(id)
		}
		s.upload(id, hw)
		wait(t, "host to peer", up)
		wait(t, "peer to host", down)
		switch {
		case tcpInfo(t, host).Options&ecnSeen == 0:
			t.Errorf("IPv6 %v: S has seen nothing of ECN", v6)
		case seen.wrong.Load() != 0:
			t.Errorf("IPv6 %v: %d segments without payload were ECN-capable", v6, seen.wrong.Load())
		case seen.capable.Load() < seen.data.Load()/2:
			t.Errorf("IPv6 %v: of %d segments with payload %d were ECN-capable", v6, seen.data.Load(), seen.capable.Load())
		}
		t.Logf("IPv6 %v: the peer was told of %d marked segments, S of %d, the peer of %d reductions", v6,
			tcpInfo(t, peer).Delivered_ce, markedIn(t, s.Host), seen.cwr.Load())
	}
}

// TestMarksReachTheProgram: in a world whose path marks, S hears that what the
// device has received was marked, and of the peer's answer to that.
func TestMarksReachTheProgram(t *testing.T) {
	worlds, answered := 0, 0
	for seed := range uint64(20) {
		w := newWorld(t, seed, faults{delay: time.Millisecond})
		if w.faults.mark == 0 {
			continue // ECN was not negotiated
		}
		w.faults.mark = 0.2
		id := w.admit()
		w.steered = true
		w.ownIt(id)
		w.fill(300000, 3000000)
		for !w.done() && len(w.program.got) < len(w.program.want) {
			w.step()
		}
		if n := w.program.conn.Stats().MarkedIn; n == 0 || w.device.find(id).place != abi.PlaceOwned {
			t.Errorf("%v: S was told of %d marked segments", w, n)
		}
		worlds++
		if echo, _ := w.program.conn.ECN(); !echo {
			answered++
		}
	}
	if worlds == 0 || answered == 0 {
		t.Errorf("in %d of %d worlds S knew at the end of the peer's CWR", answered, worlds)
	}
}
