package driver_test

import (
	"bytes"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A capture is a packet socket on the uplink that takes everything, as
// tcpdump's does.
type capture struct{ fd int }

func (r *rig) capture() *capture {
	r.t.Helper()
	c := new(capture)
	err := r.Host.Do(func() (err error) {
		all := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8) // network order
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		l, err := netlink.LinkByName(r.HostIf)
		if err != nil {
			return err
		}
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index})
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { unix.Close(c.fd) })
	return c
}

// read adds what was captured since to the count of frames with this text,
// those that left and those that came.
func (c *capture) read(t *testing.T, text []byte, out, in *int) {
	t.Helper()
	buf := make([]byte, 1<<17)
	for {
		n, from, err := unix.Recvfrom(c.fd, buf, 0)
		switch {
		case err == unix.EAGAIN:
			return
		case err != nil:
			t.Fatal(err)
		case !bytes.Contains(buf[:n], text):
		case from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING:
			*out++
		default:
			*in++
		}
	}
}

// A capture on the uplink shows an offloaded connection's packets, both ways:
// what the device sends once, what the peer sends as it came and as the
// program's socket got it.
func TestCapture(t *testing.T) {
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			p := r.connect(1, six)[0]
			c := r.capture()
			r.moved(r.offload(p.selector()), 1)
			const text = "seen by whoever captures"
			p.exchange(t, text)
			out, in := 0, 0
			eventually(t, "both ways are captured", func() bool {
				c.read(t, []byte(text), &out, &in)
				return out >= 1 && in >= 2
			})
		})
	}
}
