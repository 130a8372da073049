package driver_test

import (
	"io"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/driver"
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
	stop := r.Peer.Lose(r.t, r.PeerIf, 60)
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
			r.suffer(p)
			k := p.info(t)
			if k.Snd_ssthresh >= 0x7fffffff || k.Total_retrans == 0 {
				t.Fatalf("the kernel saw no loss: %+v", k)
			}
			r.moved(r.offload(p.selector()), 1)
			h := r.show(p.selector()).Hardware
			if h.Cwnd != k.Snd_cwnd || h.Ssthresh != k.Snd_ssthresh || h.RTT != k.Rtt {
				t.Errorf("device: cwnd %d, ssthresh %d, rtt %d; kernel had %d, %d, %d", h.Cwnd, h.Ssthresh, h.RTT, k.Snd_cwnd, k.Snd_ssthresh, k.Rtt)
			}
			r.suffer(p)
			h = r.show(p.selector()).Hardware
			if s := p.info(t); h.Retransmits == 0 || s.Snd_cwnd == h.Cwnd && s.Snd_ssthresh == h.Ssthresh {
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

// A device that dies leaves the windows that it has published.
func TestWindowsOfADeadDevice(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	r.suffer(p)
	h := r.show(p.selector()).Hardware
	unix.Kill(r.device().PID, unix.SIGKILL)
	eventually(t, "the program's socket has them", func() bool {
		s := p.info(t)
		return s.Snd_cwnd == h.Cwnd && s.Snd_ssthresh == h.Ssthresh
	})
	p.exchange(t, "and it goes on")
}
