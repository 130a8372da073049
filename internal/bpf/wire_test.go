package bpf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/testnet"
)

// experimental is an Ethernet type that nobody uses (IEEE 802 local
// experimental 1).
const experimental = 0x88b5

// experiment is a frame of that type that carries one octet, behind a
// virtio-net header.
func experiment(octet byte) []byte {
	frame := make([]byte, 10+60)
	copy(frame[10:], "\xff\xff\xff\xff\xff\xff")
	binary.BigEndian.PutUint16(frame[10+12:], experimental)
	frame[10+14] = octet
	return frame
}

// listen opens a packet socket for one type of frame. It runs in its
// namespace.
func listen(t *testing.T, ifindex int, protocol uint16) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	patience := unix.NsecToTimeval(int64(5 * time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		t.Fatal(err)
	}
	bindPacket(t, fd, ifindex, protocol)
	return fd
}

func write(t *testing.T, fd int, frame []byte) {
	t.Helper()
	if _, err := unix.Write(fd, frame); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) listenAtPeer(t *testing.T, protocol uint16) (fd int) {
	t.Helper()
	err := r.Peer.Do(func() error {
		l, err := netlink.LinkByName(r.PeerIf)
		if err == nil {
			fd = listen(t, l.Attrs().Index, protocol)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestFencedDeviceIsShutOff(t *testing.T) {
	r := newRig(t)
	fd := r.listenAtPeer(t, experimental)
	r.set.Control().StaleAfter = uint64(time.Hour)
	r.beat()
	write(t, r.packet, experiment(1))
	r.set.Control().Fenced = 1
	// That the frame is dropped on egress, a packet socket tells so.
	if _, err := unix.Write(r.packet, experiment(2)); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("write to the wire: %v", err)
	}
	write(t, r.tap, experiment(2))
	r.beat()
	write(t, r.packet, experiment(3))
	for _, want := range []byte{1, 3} {
		frame := make([]byte, 100)
		if _, err := unix.Read(fd, frame); err != nil || frame[14] != want {
			t.Fatalf("frame %d came, %v, want %d", frame[14], err, want)
		}
	}
	if n := r.counters().Injected; n != 0 {
		t.Errorf("%d frames were injected", n)
	}
	write(t, r.tap, experiment(4))
	if n := r.counters().Injected; n != 1 {
		t.Errorf("%d frames were injected after the fence, want 1", n)
	}
}

// Programs after ours see the device's frames, without its mark.
func TestMarkIsClearedForOtherPrograms(t *testing.T) {
	r := newRig(t)
	r.beat()
	for name, tt := range map[string]struct {
		attach ebpf.AttachType
		fd     int
	}{
		"egress":  {ebpf.AttachTCXEgress, r.packet},
		"ingress": {ebpf.AttachTCXIngress, r.tap},
	} {
		t.Run(name, func(t *testing.T) {
			marks := r.attachMarkReader(t, tt.attach)
			r.beat()
			write(t, tt.fd, experiment(1))
			var seen [2]uint32
			eventually(t, "the next program sees the frame", func() bool {
				if err := marks.Lookup(uint32(0), &seen); err != nil {
					t.Fatal(err)
				}
				return seen[0] != 0
			})
			if seen[1] != 0 {
				t.Errorf("its mark is %#x", seen[1])
			}
		})
	}
}

// attachMarkReader attaches, as the last one at the uplink, a program that
// writes 1 and the mark of the last experimental frame into element 0.
func (r *rig) attachMarkReader(t *testing.T, at ebpf.AttachType) *ebpf.Map {
	t.Helper()
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { seen.Close() })
	const mark, protocol = 8, 16 // offsets in struct __sk_buff
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:    ebpf.SchedCLS,
		License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, protocol, asm.Word),
			asm.JNE.Imm(asm.R2, int32(experimental&0xff<<8|experimental>>8), "out"),
			asm.LoadMem(asm.R6, asm.R1, mark, asm.Word),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, seen.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.StoreMem(asm.R0, 4, asm.R6, asm.Word),
			asm.StoreImm(asm.R0, 0, 1, asm.Word),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	var l link.Link
	err = r.Host.Do(func() (err error) {
		l, err = link.AttachTCX(link.TCXOptions{Interface: r.uplink.Attrs().Index, Program: p, Attach: at, Anchor: link.Tail()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return seen
}

// What is nearly a segment of a steered flow passes to the kernel, and only
// what is one is kept from it; the device gets exactly that.
func TestFilterAndIngressAgreeOnTheWire(t *testing.T) {
	r := newRig(t)
	from := r.listenAtPeer(t, experimental) // to send only
	for _, id := range []flow.ID{steered4, steered6} {
		if err := r.set.Steer([]flow.Key{id.Key()}, []abi.HWID{1}); err != nil {
			t.Fatal(err)
		}
	}
	r.set.Control().StaleAfter = uint64(time.Hour)
	r.beat()
	buf := make([]byte, 2048)
	for _, v := range variants {
		before := r.counters()
		for _, edit := range []func([]byte) []byte{v.edit, func(f []byte) []byte { return f }} {
			frame := segment(v.id.Reverse())
			copy(frame, r.uplink.Attrs().HardwareAddr)
			write(t, from, edit(frame))
		}
		want := uint64(1) // the plain one that follows each
		if v.ours {
			want = 2
		}
		eventually(t, v.name+": the frames are kept from the kernel", func() bool {
			return r.counters().Dropped-before.Dropped >= want
		})
		got := uint64(0)
		for ; ; got++ {
			if _, err := unix.Read(r.packet, buf); err != nil {
				break
			}
		}
		if dropped := r.counters().Dropped - before.Dropped; got != want || dropped != want {
			t.Errorf("%s: the device got %d frames, the kernel was spared %d, want %d", v.name, got, dropped, want)
		}
	}
}

// Once the packet socket is closed, nothing is kept from the kernel, however
// fresh the heartbeat.
func TestWithoutPacketSocketAllIsTheKernels(t *testing.T) {
	r := newRig(t)
	r.beat()
	r.set.Control().StaleAfter = uint64(time.Hour)
	s, peer := r.connect(t, r.HostIP4)
	r.steer(t, s)
	if err := unix.Close(r.packet); err != nil {
		t.Fatal(err)
	}
	defer func() { r.packet = -1 }()
	if _, err := peer.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := s.Read(make([]byte, 1)); n != 1 {
		t.Error(err)
	}
}

// An uplink without link header, made of two TUNs and somebody who carries
// packets between them.
func TestUplinkWithoutLinkHeader(t *testing.T) {
	r := &rig{Net: testnet.New(t), linkHeader: 0}
	hosts, _ := r.AddTUNs(t, "l3")
	r.attach(t, "l3")
	if n := r.set.Control().LinkHeader; n != 0 {
		t.Fatalf("link header of %d octets", n)
	}
	r.start(t)
	for _, host := range hosts {
		s, peer := r.connect(t, host)
		before := r.counters()
		r.steer(t, s)
		exchange(t, s, peer, 8<<20)
		c := r.counters()
		if c.ToDevice == before.ToDevice || c.Injected == before.Injected || c.Dropped == before.Dropped || c.Fences != 0 {
			t.Errorf("%v: before %+v, after %+v", host, before, c)
		}
	}
}

// attached counts the tcx programs of an interface, in its namespace.
func attached(t *testing.T, ns *testnet.Namespace, ifindex int) (n int) {
	t.Helper()
	err := ns.Do(func() error {
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			found, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: at})
			if err != nil {
				return err
			}
			n += len(found.Programs)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestCloseLeavesNothing(t *testing.T) {
	n := testnet.New(t)
	before := descriptors(t)
	s, err := Load(Config{MaxConnections: 16, StaleAfter: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var ifindex int
	err = n.Host.Do(func() error {
		l, err := netlink.LinkByName(n.HostIf)
		if err != nil {
			return err
		}
		ifindex = l.Attrs().Index
		if err := s.AttachUplink(ifindex); err != nil {
			return err
		}
		if err := s.AttachUplink(ifindex); err == nil {
			t.Error("attached twice")
		}
		// Two host ports, one after the other; the uplink serves for both.
		for range 2 {
			if _, err := s.AttachHostPort(ifindex); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := attached(t, n.Host, ifindex); got != 3 {
		t.Errorf("%d programs are attached, want 3", got)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := attached(t, n.Host, ifindex); got != 0 {
		t.Errorf("%d programs are attached after Close", got)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestHoldUplink is run by the next test as a process of its own.
func TestHoldUplink(t *testing.T) {
	ifindex, err := strconv.Atoi(os.Getenv("TOEHOLD_TEST_UPLINK"))
	if err != nil {
		return
	}
	s, err := Load(Config{MaxConnections: 16, StaleAfter: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AttachUplink(ifindex); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("ready\n")
	select {}
}

func TestKilledProcessLeavesNothing(t *testing.T) {
	n := testnet.New(t)
	var ifindex int
	err := n.Host.Do(func() error {
		l, err := netlink.LinkByName(n.HostIf)
		if err == nil {
			ifindex = l.Attrs().Index
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	child := n.Host.Command(os.Args[0], "-test.run=^TestHoldUplink$")
	child.Env = append(os.Environ(), "TOEHOLD_TEST_UPLINK="+strconv.Itoa(ifindex))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Errorf("the child says %q, %v", line, err)
	}
	if got := attached(t, n.Host, ifindex); got != 2 {
		t.Errorf("%d programs are attached, want 2", got)
	}
	child.Process.Kill()
	child.Wait()
	eventually(t, "no program is attached", func() bool { return attached(t, n.Host, ifindex) == 0 })
}

func TestLoadRefusesNonsense(t *testing.T) {
	for _, c := range []Config{{}, {MaxConnections: 1}, {StaleAfter: 1}, {MaxConnections: 1, StaleAfter: -1}} {
		if s, err := Load(c); err == nil {
			s.Close()
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestAttachToNothing(t *testing.T) {
	s := loadSet(t)
	if err := s.AttachUplink(1 << 30); err == nil {
		t.Error("attached to an uplink that is not there")
	}
	if _, err := s.AttachHostPort(1 << 30); err == nil {
		t.Error("attached to a host port that is not there")
	}
}
