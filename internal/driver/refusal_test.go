package driver_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/control"
	"toehold/internal/driver"
)

// onDescriptor runs f on the descriptor of a connection.
func onDescriptor(t testing.TB, c any, f func(fd int) error) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil || ferr != nil {
		t.Fatalf("%v, %v", err, ferr)
	}
}

// refused checks that the connection is refused for the reason given, stays
// in the kernel and works.
func (r *rig) refused(p *pair, reason string) {
	r.t.Helper()
	res := r.offload(p.selector())
	if len(res.Moved) != 0 || reasons(res) != reason || res.Refused[0].Detail == "" {
		r.t.Errorf("it was moved %+v and refused %+v, want %s", res.Moved, res.Refused, reason)
	}
	if d := r.device(); d.Connections != 0 {
		r.t.Errorf("%d connections stay on the device", d.Connections)
	}
	for _, c := range r.list(p.selector()) {
		// A subflow has no descriptor, so nothing is remembered of it.
		if c.Place != driver.InKernel || c.Reason != reason && reason != "mptcp" {
			r.t.Errorf("it is listed as %+v", c)
		}
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		reason string
		make   func(t *testing.T) *pair
		works  bool
	}{
		{"no-uplink", func(t *testing.T) *pair { return r.loopback("127.0.0.1:0") }, true},
		{"no-uplink", func(t *testing.T) *pair { return r.loopback("[::1]:0") }, true},
		{"no-uplink", func(t *testing.T) *pair { return r.loopback(r.HostIP4.String() + ":0") }, true},
		{"mptcp", func(t *testing.T) *pair { return r.multipath() }, true},
		{"tcp-md5", func(t *testing.T) *pair { return r.signed() }, true},
		{"urgent-data", func(t *testing.T) *pair { return r.urgent() }, false},
		{"ip-options", func(t *testing.T) *pair { return r.optional() }, true},
		{"not-established", func(t *testing.T) *pair { return r.halfClosed() }, false},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			r.t = t
			p := tt.make(t)
			r.refused(p, tt.reason)
			if tt.works {
				p.exchange(t, "as before")
			}
		})
	}
	r.t = t
}

func (r *rig) loopback(addr string) *pair {
	r.t.Helper()
	l, err := r.Host.Listen("tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	return r.connectTo(l, r.Host, 1)[0]
}

func (r *rig) multipath() *pair {
	r.t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	var l net.Listener
	err := r.Host.Do(func() (err error) {
		l, err = lc.Listen(ctx, "tcp", r.HostIP4.String()+":0")
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	var d net.Dialer
	d.SetMultipathTCP(true)
	var peer net.Conn
	if err := r.Peer.Do(func() (err error) { peer, err = d.Dial("tcp", l.Addr().String()); return err }); err != nil {
		r.t.Fatal(err)
	}
	host, err := l.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { host.Close(); peer.Close() })
	if ok, err := host.(*net.TCPConn).MultipathTCP(); !ok || err != nil {
		r.t.Fatalf("multipath TCP was not negotiated: %v", err)
	}
	return &pair{host: host, peer: peer}
}

// sign gives a socket the key for segments to and from addr (RFC 2385).
func sign(fd int, addr netip.Addr) error {
	s := unix.TCPMD5Sig{Keylen: 6}
	s.Addr.Family = unix.AF_INET
	a := addr.As4()
	copy(s.Addr.Data[2:], a[:]) // after the port
	copy(s.Key[:], "secret")
	return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &s)
}

func (r *rig) signed() *pair {
	r.t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // which cannot be signed
	var l net.Listener
	err := r.Host.Do(func() (err error) { l, err = lc.Listen(ctx, "tcp4", r.HostIP4.String()+":0"); return err })
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	onDescriptor(r.t, l, func(fd int) error { return sign(fd, r.PeerIP4) })
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = sign(int(fd), r.HostIP4) })
		if cerr != nil {
			return cerr
		}
		return err
	}}
	var peer net.Conn
	if err := r.Peer.Do(func() (err error) { peer, err = d.Dial("tcp4", l.Addr().String()); return err }); err != nil {
		r.t.Fatal(err)
	}
	host, err := l.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { host.Close(); peer.Close() })
	return &pair{host: host, peer: peer}
}

// urgent is a connection that has received an urgent octet.
func (r *rig) urgent() *pair {
	r.t.Helper()
	p := r.connect(1, false)[0]
	onDescriptor(r.t, p.peer, func(fd int) error { return unix.Sendto(fd, []byte("!"), unix.MSG_OOB, nil) })
	eventually(r.t, "the urgent octet arrives", func() (there bool) {
		onDescriptor(r.t, p.host, func(fd int) error {
			n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_OOB|unix.MSG_PEEK|unix.MSG_DONTWAIT)
			there = n == 1 && err == nil
			return nil
		})
		return there
	})
	return p
}

func (r *rig) optional() *pair {
	r.t.Helper()
	p := r.connect(1, false)[0]
	// Three no-operations and the end of the list (RFC 791).
	onDescriptor(r.t, p.host, func(fd int) error {
		return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x00")
	})
	return p
}

func (r *rig) halfClosed() *pair {
	r.t.Helper()
	p := r.connect(1, false)[0]
	if err := p.host.(*net.TCPConn).CloseWrite(); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// What is not there, or no more, is matched by no selector.
func TestNoMatch(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	for _, c := range []net.Conn{p.host, p.peer} {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	for _, s := range []driver.Selector{p.selector(), {PID: 1}, {ID: abi.MakeHWID(0, 1)}} {
		_, offload := r.client.Offload(ctx, s, driver.Options{})
		_, upload := r.client.Upload(ctx, s)
		_, show := r.client.Show(ctx, s)
		for what, err := range map[string]error{"offload": offload, "upload": upload, "show": show} {
			var e *control.Error
			if !errors.As(err, &e) || e.Kind != control.NoMatch || !strings.Contains(e.Message, s.String()) {
				t.Errorf("%s %s: %v", what, s, err)
			}
		}
	}
}

// A group that is named by where it is may be empty.
func TestEmptyGroups(t *testing.T) {
	r := newRig(t)
	for _, s := range []driver.Selector{{All: true}, {State: driver.OnDevice}, {All: true, State: driver.OnDevice}, {State: driver.InKernel}} {
		for _, res := range []driver.Result{r.offload(s), r.upload(s)} {
			if res.Moved == nil || res.Refused == nil || len(res.Moved)+len(res.Refused) != 0 {
				t.Errorf("%s: %+v", s, res)
			}
		}
		if conns := r.list(s); conns == nil || len(conns) != 0 {
			t.Errorf("%s lists %v", s, conns)
		}
	}
}

// What is no connection, or no full one, is not shown at all.
func TestListeners(t *testing.T) {
	r := newRig(t)
	l, err := r.Host.Listen("tcp", r.HostIP4.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if conns := r.list(driver.Selector{}); len(conns) != 0 {
		t.Errorf("a listener is listed as %+v", conns)
	}
	if res := r.offload(driver.Selector{All: true}); len(res.Moved)+len(res.Refused) != 0 {
		t.Errorf("a listener was moved or refused: %+v", res)
	}
}

// A CLOSE_WAIT connection, whose peer will send no more, can be moved.
func TestCloseWait(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	if err := p.peer.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the FIN arrives", func() bool {
		c := r.list(p.selector())
		return len(c) == 1 && c[0].State == "close-wait"
	})
	r.moved(r.offload(p.selector()), 1)
	if _, err := p.host.Write([]byte("goodbye")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 7)
	p.peer.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := p.peer.Read(got); err != nil || string(got[:n]) != "goodbye" {
		t.Errorf("%q, %v", got[:n], err)
	}
	r.moved(r.upload(p.selector()), 1)
}

// The peer does not read: what is sent and not acknowledged cannot be copied
// by the device, so the move does not end, is undone, and says why.
func TestPeerWindowClosed(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	// Fill the peer's window, and then some.
	p.host.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	sent := 0
	for buf := make([]byte, 1<<16); ; {
		n, err := p.host.Write(buf)
		if sent += n; err != nil {
			break
		}
	}
	res, err := r.client.Offload(ctx, p.selector(), driver.Options{Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	// With nothing in flight the device may own it even so; otherwise the
	// window is the reason.
	if len(res.Moved) == 0 && reasons(res) != "peer-window-closed" {
		t.Errorf("refused: %+v", res.Refused)
	}
	t.Logf("%d octets written; %+v", sent, res)
	p.peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	for buf := make([]byte, 1<<16); sent > 0; {
		n, err := p.peer.Read(buf)
		if sent -= n; err != nil {
			t.Fatalf("%d octets missing: %v", sent, err)
		}
	}
	p.exchange(t, "open again")
}

// A full device refuses, and takes one when another has left.
func TestDeviceFull(t *testing.T) {
	r := newRig(t, "--max-connections", "2")
	pairs := r.connect(3, false)
	res := r.offload(driver.Selector{All: true})
	if len(res.Moved) != 2 || reasons(res) != "device-full" {
		t.Fatalf("%+v", res)
	}
	for _, p := range pairs {
		p.exchange(t, "all the same")
	}
	if d := r.device(); d.Connections != 2 || d.Capacity != 2 || d.Refused["device-full"] != 1 {
		t.Errorf("the device is %+v", d)
	}
	on := r.list(driver.Selector{State: driver.OnDevice})[0]
	s := driver.Selector{Remote: driver.Endpoint{Addr: on.Remote.Addr(), Port: on.Remote.Port()}}
	r.moved(r.upload(s), 1)
	kernel := r.list(driver.Selector{State: driver.InKernel})
	if len(kernel) != 2 {
		t.Fatalf("in the kernel: %+v", kernel)
	}
	r.moved(r.offload(s), 1)
	if res := r.offload(s); reasons(res) != "already-on-device" || res.Refused[0].Detail == "" {
		t.Errorf("the second time: %+v", res)
	}
	r.moved(r.upload(driver.Selector{All: true}), 2)
	if res := r.upload(s); reasons(res) != "already-in-kernel" {
		t.Errorf("the second time home: %+v", res)
	}
}

// A client that gives up does not disturb the move.
func TestClientLeaves(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	short, cancel := context.WithTimeout(ctx, time.Microsecond)
	defer cancel()
	if _, err := r.client.Offload(short, p.selector(), driver.Options{}); err == nil {
		t.Error("an offload within a microsecond")
	}
	p.exchange(t, "whatever came of it")
	r.upload(driver.Selector{All: true})
	p.exchange(t, "in the kernel")
}
