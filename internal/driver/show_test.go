package driver_test

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/driver"
)

// setOption sets an option of one end, as its program may at any time.
func setOption(t *testing.T, c net.Conn, level, name, value int) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		if outer := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }); err == nil {
			err = outer
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestShowTellsOfTheSocket looks at a connection wherever it is, while its
// program changes options and leaves octets unread.
func TestShowTellsOfTheSocket(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	show := func() driver.Detail {
		t.Helper()
		d, err := r.client.Show(ctx, p.selector())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := show()
	if s := d.Socket; d.Place != driver.InKernel || d.Hardware != nil || !s.NoDelay || s.Cork || s.SndBuf == 0 || s.Shutdown != "none" || s.Linger != -1 || s.Mark != 0 {
		t.Errorf("in the kernel: %+v", s)
	}
	r.moved(r.offload(p.selector()), 1)
	for _, o := range []struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 0}, {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 30000}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60},
		{unix.SOL_SOCKET, unix.SO_MARK, 0x77}, {unix.SOL_SOCKET, unix.SO_RCVBUF, 40000}, {unix.IPPROTO_IP, unix.IP_TTL, 33},
	} {
		setOption(t, p.host, o.level, o.name, o.value)
	}
	if _, err := p.peer.Write(make([]byte, 1234)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was not read is shown", func() bool { return show().Socket.Unread == 1234 })
	d = show()
	if s := d.Socket; d.Place != driver.OnDevice || s.NoDelay || s.UserTimeout != 30000 || s.KeepTime != 60000 || s.Mark != 0x77 || s.RcvBuf != 80000 || s.TTL != 33 {
		t.Errorf("on the device: %+v", s)
	}
	if h := d.Hardware; h == nil || h.Place != "owned" || h.RcvNxt != d.Kernel.RcvNxt || h.SndUna != d.Kernel.SndUna || h.BytesReceived != 1234 {
		t.Errorf("the device has %+v, the kernel %+v", h, d.Kernel)
	}
	if m := d.History; len(m) != 1 || m[0].Kind != driver.EventOffloaded || m[0].Reason != "asked" || m[0].ID != d.ID {
		t.Errorf("its history: %+v", m)
	}
	if err := p.host.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is shut down", func() bool { return show().Socket.Shutdown == "write" })
}
