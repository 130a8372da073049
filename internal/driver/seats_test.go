package driver_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/driver"
	"toehold/internal/testnet"
)

// onSocket runs f with a connection's descriptor.
func onSocket(t testing.TB, c net.Conn, f func(fd int) error) (err error) {
	t.Helper()
	raw, cerr := c.(*net.TCPConn).SyscallConn()
	if cerr != nil {
		t.Fatal(cerr)
	}
	if cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		t.Fatal(cerr)
	}
	return err
}

func tcpInfo(t testing.TB, c net.Conn) (info unix.TCPInfo) {
	t.Helper()
	err := onSocket(t, c, func(fd int) error {
		i, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err == nil {
			info = *i
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func wish(t testing.TB, c net.Conn, w abi.Wish) error {
	t.Helper()
	return onSocket(t, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_TCP, abi.OffloadOption, int(w)) })
}

// whereabouts is what the program of a connection is told.
func whereabouts(t testing.TB, c net.Conn) (o abi.SocketOffload, reason string) {
	t.Helper()
	length := uint32(unsafe.Sizeof(o))
	err := onSocket(t, c, func(fd int) error {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_TCP, abi.OffloadOption,
			uintptr(unsafe.Pointer(&o)), uintptr(unsafe.Pointer(&length)), 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := bytes.Cut(o.Reason[:], []byte{0})
	return o, string(name)
}

// send moves octets to the peer and waits until all are acknowledged, and the
// device has nothing more to say of them.
func (r *rig) send(p *pair, octets int) {
	r.t.Helper()
	p.host.SetDeadline(time.Now().Add(20 * time.Second))
	p.peer.SetDeadline(time.Now().Add(20 * time.Second))
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, p.peer, int64(octets))
		done <- err
	}()
	if _, err := p.host.Write(make([]byte, octets)); err != nil {
		r.t.Fatal(err)
	}
	if err := <-done; err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "all is acknowledged", func() bool {
		queued := -1
		onSocket(r.t, p.host, func(fd int) (err error) {
			queued, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
			return err
		})
		return queued == 0
	})
}

// A counted is what must never go back in TCP_INFO.
type counted struct{ retransmits, bytesRetrans, bytesSent, segsOut, acked uint64 }

func countedOf(i unix.TCPInfo) counted {
	return counted{uint64(i.Total_retrans), i.Bytes_retrans, i.Bytes_sent, uint64(i.Segs_out), i.Bytes_acked}
}

// grew fails the test if a counter went back.
func (now counted) grew(t *testing.T, step string, before counted) {
	t.Helper()
	if now.retransmits < before.retransmits || now.bytesRetrans < before.bytesRetrans || now.bytesSent < before.bytesSent ||
		now.segsOut < before.segsOut || now.acked < before.acked {
		t.Errorf("%s: %+v, before %+v", step, now, before)
	}
}

// A program's TCP_INFO says what the device's block says, over a wire that
// loses, and none of its counters jumps when the connection moves.
func TestTCPInfoTellsTheTruth(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	r.send(p, 100_000)
	last := countedOf(tcpInfo(t, p.host))
	before := uint64(0) // retransmits of the device, in the rounds before
	for round := range 2 {
		r.moved(r.offload(p.selector()), 1)
		stop := r.Peer.Lose(t, r.PeerIf, 12, testnet.In)
		start := countedOf(tcpInfo(t, p.host))
		start.grew(t, "offloaded", last)
		for tries := 0; tries < 50 && r.show(p.selector()).Hardware.Retransmits == 0; tries++ { // losses are at random
			r.send(p, 1<<20)
		}
		stop()
		r.send(p, 1000)
		i, h := r.steady(p)
		s := r.show(p.selector()).Kernel
		got := []uint64{uint64(i.Rtt), uint64(i.Rttvar), uint64(i.Rto), uint64(i.Snd_cwnd), uint64(i.Snd_ssthresh), uint64(i.Unacked), i.Bytes_acked, i.Bytes_received}
		want := []uint64{uint64(h.RTT), uint64(h.RTTVar), uint64(h.RTO), uint64(h.Cwnd), uint64(h.Ssthresh), 0, s.BytesSent, s.BytesReceived}
		for k := range got {
			if got[k] != want[k] {
				t.Errorf("round %d: TCP_INFO has %d, the device %d", round, got, want)
				break
			}
		}
		now := countedOf(i)
		now.grew(t, "on the device", start)
		sum := uint64(s.Retransmits) + before + h.Retransmits
		if before += h.Retransmits; now.retransmits != sum || h.Retransmits == 0 || now.bytesRetrans == 0 || i.Min_rtt == 0 || i.Delivery_rate == 0 {
			t.Errorf("%d retransmits of %d octets, want %d; %+v", now.retransmits, now.bytesRetrans, sum, i)
		}
		r.moved(r.upload(p.selector()), 1)
		last = countedOf(tcpInfo(t, p.host))
		last.grew(t, "home", now)
		if last.retransmits != now.retransmits || last.bytesRetrans != now.bytesRetrans {
			t.Errorf("home: %+v, on the device %+v", last, now)
		}
	}
}

// steady waits until the device says the same before and after TCP_INFO.
func (r *rig) steady(p *pair) (i unix.TCPInfo, h driver.HardwarePart) {
	r.t.Helper()
	eventually(r.t, "nothing moves", func() bool {
		before := r.show(p.selector()).Hardware
		i = tcpInfo(r.t, p.host)
		after := r.show(p.selector()).Hardware
		if before == nil || after == nil || *before != *after {
			return false
		}
		h = *after
		return true
	})
	return i, h
}

// A program asks for itself, and is told what became of it.
func TestProgramAsks(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, true)[0]
	if o, reason := whereabouts(t, p.host); o != (abi.SocketOffload{}) || reason != "" {
		t.Errorf("at first: %+v", o)
	}
	if err := wish(t, p.host, abi.WishNow); err != nil {
		t.Fatal(err)
	}
	r.programTold(p, abi.SeatDevice, "program-asked")
	c := r.list(p.selector())[0]
	if o, _ := whereabouts(t, p.host); o.HWID.String() != c.ID || o.Wish != abi.WishNow {
		t.Errorf("the program is told %+v, the operator %+v", o, c)
	}
	p.exchange(t, "on the device")
	if err := wish(t, p.host, abi.WishNever); err != nil {
		t.Fatal(err)
	}
	r.programTold(p, abi.SeatKernel, "program-forbids")
	if res := r.offload(p.selector()); reasons(res) != "program-forbids" {
		t.Errorf("an operator asks: %+v", res)
	}
	if err := wish(t, p.host, abi.WishAuto); err != nil {
		t.Fatal(err)
	}
	r.moved(r.offload(p.selector()), 1)
	r.programTold(p, abi.SeatDevice, "asked")
	r.moved(r.upload(p.selector()), 1)
	r.programTold(p, abi.SeatKernel, "asked")
	p.exchange(t, "in the kernel")
}

func (r *rig) programTold(p *pair, place abi.SeatPlace, reason string) {
	r.t.Helper()
	var o abi.SocketOffload
	var why string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if o, why = whereabouts(r.t, p.host); o.Place == place && why == reason {
			return
		}
	}
	r.t.Fatalf("it was told %+v, %q; want %d, %q", o, why, place, reason)
}

// What cannot be offloaded tells its program why; the loopback is nobody's
// uplink.
func TestProgramIsRefused(t *testing.T) {
	r := newRig(t)
	p := r.loopback("127.0.0.1:0")
	if err := wish(t, p.host, abi.WishNow); err != nil {
		t.Fatal(err)
	}
	r.programTold(p, abi.SeatKernel, "no-uplink")
}

// The operator may forbid it. When the daemon has gone, however it did, the
// option has too.
func TestOptionForbidden(t *testing.T) {
	r := newRig(t, "--forbid-socket-option")
	p := r.connect(1, false)[0]
	if err := wish(t, p.host, abi.WishNow); !errors.Is(err, os.ErrPermission) {
		t.Errorf("forbidden: %v", err)
	}
	r.moved(r.offload(p.selector()), 1)
	r.programTold(p, abi.SeatDevice, "asked")
	r.kill()
	eventually(t, "the option is gone", func() bool { return errors.Is(wish(t, p.host, abi.WishAuto), unix.ENOPROTOOPT) })
	p.exchange(t, "without a daemon")
}

// A rule that needs no more than what is known when a connection is
// established is carried out for new ones at once.
func TestPolicyAtEstablishment(t *testing.T) {
	r := newRig(t)
	_, err := r.client.ApplyPolicy(ctx, "at-once", []byte("rules:\n- name: at-once\n  when: remote.within(\"10.0.0.0/8\")\n  action: offload\n"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		since := time.Now()
		p := r.connect(1, false)[0]
		r.programTold(p, abi.SeatDevice, "policy")
		t.Logf("on the device after %v", time.Since(since))
		p.exchange(t, "on the device")
	}
}
