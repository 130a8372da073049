package driver_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/driver"
	"toehold/internal/testnet"
)

// info is what the program sees of its own socket.
func (p *pair) info(t testing.TB) (info *unix.TCPInfo) {
	t.Helper()
	raw, err := p.host.(interface {
		SyscallConn() (syscall.RawConn, error)
	}).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		info, inner = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil || inner != nil {
		t.Fatal(err, inner)
	}
	return info
}

// suffer sends from the host while the wire loses frames, and returns when all
// has arrived and been acknowledged.
func (r *rig) suffer(p *pair) {
	r.t.Helper()
	const octets = 20 << 20
	stop := r.Peer.Lose(r.t, r.PeerIf, 60, testnet.In)
	defer stop()
	go p.host.Write(make([]byte, octets))
	p.peer.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(p.peer, make([]byte, octets)); err != nil {
		r.t.Fatal(err)
	}
	stop()
	eventually(r.t, "all is acknowledged", func() bool { return p.info(r.t).Unacked == 0 })
}

func (r *rig) show(s driver.Selector) driver.Detail {
	r.t.Helper()
	d, err := r.client.Show(ctx, s)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// The windows that a loss has cut go along to the device, and those that a
// loss on the device has cut come home to the program's own socket.
func TestWindowsCross(t *testing.T) {
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			p := r.connect(1, six)[0]
			k := p.info(t)
			for n := 0; n < 20 && (k.Snd_ssthresh >= 0x7fffffff || k.Total_retrans == 0); n++ { // losses are at random
				r.suffer(p)
				k = p.info(t)
			}
			if k.Snd_ssthresh >= 0x7fffffff || k.Total_retrans == 0 {
				t.Fatalf("the kernel saw no loss: %+v", k)
			}
			r.moved(r.offload(p.selector()), 1)
			h := r.show(p.selector()).Hardware
			if h.Cwnd != k.Snd_cwnd || h.Ssthresh != k.Snd_ssthresh || h.RTT != k.Rtt {
				t.Errorf("device: cwnd %d, ssthresh %d, rtt %d; kernel had %d, %d, %d", h.Cwnd, h.Ssthresh, h.RTT, k.Snd_cwnd, k.Snd_ssthresh, k.Rtt)
			}
			both := r.show(p.selector())
			for n := 0; n < 20 && both.Hardware.Retransmits == 0; n++ {
				r.suffer(p)
				both = r.show(p.selector())
			}
			h = both.Hardware
			if s := both.Kernel; h.Retransmits == 0 || s.Cwnd == h.Cwnd && s.Ssthresh == h.Ssthresh {
				t.Fatalf("the device saw no loss, or the kernel did: %+v, kernel %+v", h, s)
			}
			r.moved(r.upload(p.selector()), 1)
			if s := p.info(t); s.Snd_cwnd != h.Cwnd || s.Snd_ssthresh != h.Ssthresh {
				t.Errorf("at home: cwnd %d, ssthresh %d; device had %d, %d", s.Snd_cwnd, s.Snd_ssthresh, h.Cwnd, h.Ssthresh)
			}
			p.exchange(t, "and it goes on")
		})
	}
}

// While the device has a connection the program's own window does not limit
// it, whatever losses have made of it; at home it has the device's.
func TestOwnWindowIsWide(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	r.suffer(p)
	r.moved(r.offload(p.selector()), 1)
	h := r.show(p.selector()).Hardware
	eventually(t, "the program's window is wide", func() bool { return r.show(p.selector()).Kernel.Cwnd >= max(8*h.Cwnd, 1024) })
	p.exchange(t, "and it goes on")
	h = r.show(p.selector()).Hardware
	r.moved(r.upload(p.selector()), 1)
	if s := p.info(t); s.Snd_cwnd != h.Cwnd || s.Snd_ssthresh != h.Ssthresh {
		t.Errorf("at home: cwnd %d, ssthresh %d; device had %d, %d", s.Snd_cwnd, s.Snd_ssthresh, h.Cwnd, h.Ssthresh)
	}
	p.exchange(t, "at home")
}

// A device that dies leaves the windows that it has published.
func TestWindowsOfADeadDevice(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	r.suffer(p)
	h := r.show(p.selector()).Hardware
	unix.Kill(r.device().PID, unix.SIGKILL)
	eventually(t, "the program's socket has them", func() bool {
		s := r.show(p.selector()).Kernel
		return s.Cwnd == h.Cwnd && s.Ssthresh == h.Ssthresh
	})
	p.exchange(t, "and it goes on")
}

// CUBIC's W_max goes along and comes home, also from a device that has died.
// S itself has seen none of the losses.
func TestPrivateStateOfCubicCrosses(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	var k driver.KernelPart
	eventually(t, "the kernel has a W_max", func() bool { // which a retransmission timeout unsets
		r.suffer(p)
		k = r.show(p.selector()).Kernel
		return k.WMax != 0
	})
	for range 3 {
		r.moved(r.offload(p.selector()), 1)
		if h := r.show(p.selector()).Hardware; h.WMax != k.WMax {
			t.Errorf("W_max %d on the device, the kernel had %d", h.WMax, k.WMax)
		}
		r.moved(r.upload(p.selector()), 1)
		if home := r.show(p.selector()).Kernel; home.WMax != k.WMax || home.Cwnd != k.Cwnd || home.Ssthresh != k.Ssthresh {
			t.Errorf("at home %+v, was %+v", home, k)
		}
	}
	for _, end := range []struct {
		name string
		home func()
	}{
		{"upload", func() { r.moved(r.upload(p.selector()), 1) }},
		{"death", func() { unix.Kill(r.device().PID, unix.SIGKILL) }},
	} {
		r.moved(r.offload(p.selector()), 1)
		var h *driver.HardwarePart
		eventually(t, "the device has a W_max of its own", func() bool {
			r.suffer(p)
			h = r.show(p.selector()).Hardware
			return h.Retransmits != 0 && h.WMax != 0
		})
		end.home()
		eventually(t, end.name+": the program's socket has the device's W_max", func() bool {
			k := r.show(p.selector()).Kernel
			return k.WMax == h.WMax && k.Ssthresh == h.Ssthresh && k.CongestionControl == "cubic"
		})
		p.exchange(t, "and it goes on")
	}
}

// BBR comes home with the model and the window that the device had. The
// program's own has had the model of a wide path meanwhile.
func TestModelOfBBRComesHome(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	p.use(t, "bbr")
	r.moved(r.offload(p.selector()), 1)
	r.suffer(p)
	time.Sleep(150 * time.Millisecond) // the model is published so often
	p.exchange(t, "what is published is the last")
	var d driver.Detail
	eventually(t, "the program's socket has the model of a wide path", func() bool {
		d = r.show(p.selector())
		k, h := d.Kernel, d.Hardware // h.Bandwidth is the most there was; on a busy machine the round trip may have been long since
		wide := uint64(k.Cwnd) * uint64(k.MSS) * 1_000_000 / uint64(max(h.RTT, 1))
		return h.Bandwidth != 0 && k.Cwnd >= max(4*h.Cwnd, 1024) && k.Bandwidth <= wide && wide-k.Bandwidth <= wide/100
	})
	r.moved(r.upload(p.selector()), 1)
	k, h := r.show(p.selector()).Kernel, d.Hardware
	if k.Bandwidth < h.Bandwidth-h.Bandwidth/50 || k.Bandwidth > h.Bandwidth+h.Bandwidth/50 || k.MinRTT > h.MinRTT || k.CongestionControl != "bbr" {
		t.Errorf("at home %+v, device had %+v", k, h)
	}
	p.exchange(t, "and it goes on")
}

// use gives the program's socket a congestion control.
func (p *pair) use(t testing.TB, name string) {
	t.Helper()
	raw, err := p.host.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		inner = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
	})
	if err != nil || inner != nil {
		t.Fatal(err, inner)
	}
}

// A connection keeps its congestion control on the device, and has another
// there when the operator wants so; at home it has its own again.
func TestCongestionControlCrosses(t *testing.T) {
	for _, tt := range []struct {
		name, control, device string
		flags                 []string
	}{
		{"own", "reno", "reno", nil},
		{"mapped", "reno", "cubic", []string{"--congestion-control", "reno=cubic"}},
		{"BBR mapped", "bbr", "cubic", []string{"--congestion-control", "bbr=cubic,*=reno"}},
		{"any", "bbr", "reno", []string{"--congestion-control", "*=reno"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.flags...)
			p := r.connect(1, false)[0]
			p.use(t, tt.control)
			r.moved(r.offload(p.selector()), 1)
			p.exchange(t, "on the device")
			d := r.show(p.selector())
			if d.Hardware.CongestionControl != tt.device || d.Kernel.CongestionControl != tt.control {
				t.Errorf("device %q, kernel %q", d.Hardware.CongestionControl, d.Kernel.CongestionControl)
			}
			r.moved(r.upload(p.selector()), 1)
			p.exchange(t, "at home")
			if d = r.show(p.selector()); d.Kernel.CongestionControl != tt.control {
				t.Errorf("at home %q", d.Kernel.CongestionControl)
			}
		})
	}
}

// A congestion control that the device does not have is refused. The device
// has all of this kernel's, so the operator's daemon has one more.
func TestUnknownCongestionControl(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	var lent string
	eventually(t, "the daemon's congestion control is there", func() bool { lent = lentControl(t, r.cmd.Process.Pid); return lent != "" })
	p.use(t, lent)
	res := r.offload(p.selector())
	if len(res.Refused) != 1 || res.Refused[0].Reason != "congestion-control" || !strings.Contains(res.Refused[0].Detail, "toehold_") {
		t.Errorf("%+v", res)
	}
	p.exchange(t, "it stays in the kernel")
	p.use(t, "cubic")
}

// lentControl is the congestion control of a daemon: in a container its name
// does not tell of which, and any will do.
func lentControl(t testing.TB, pid int) string {
	t.Helper()
	names, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	any := ""
	for _, name := range strings.Fields(string(names)) {
		switch {
		case name == fmt.Sprintf("toehold_%d", pid):
			return name
		case strings.HasPrefix(name, "toehold_n"):
			any = name
		}
	}
	return any
}

// S is told what the peer has selectively acknowledged to the device. The peer
// itself is cut off by then, so S cannot have heard it.
func TestSACKsComeHome(t *testing.T) {
	r := newRig(t)
	const octets = 4 << 20
	attempt := func() bool {
		p := r.connect(1, false)[0]
		r.moved(r.offload(p.selector()), 1)
		lossy := r.Peer.Lose(t, r.PeerIf, 8, testnet.In)
		go p.host.Write(make([]byte, octets))
		time.Sleep(30 * time.Millisecond)
		cut := r.Peer.Lose(t, r.PeerIf, 1, testnet.In)
		time.Sleep(5 * time.Millisecond)
		r.moved(r.upload(p.selector()), 1)
		sacked := p.info(t).Sacked
		cut()
		lossy()
		p.peer.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(p.peer, make([]byte, octets)); err != nil {
			t.Fatal(err)
		}
		return sacked > 0
	}
	for range 100 { // seldom something is missing when the wire is cut, on a busy machine
		if attempt() {
			return
		}
	}
	t.Error("S knew of no SACK in 100 attempts")
}
