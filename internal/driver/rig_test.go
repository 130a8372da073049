package driver_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"toehold/internal/cli"
	"toehold/internal/control"
	"toehold/internal/driver"
	"toehold/internal/testnet"
)

// The test binary is the toehold binary too: a daemon has to be a process of
// its own, all of whose threads are in the namespace, and starts devices from
// its own executable.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if mode := os.Getenv(fakeEnv); mode != "" && os.Args[1] == "device" {
			os.Exit(fakeDevice(mode))
		}
		switch os.Args[1] {
		case "daemon", "device", "list", "show", "offload", "upload", "device-status", "policy":
			os.Exit(cli.Main())
		}
	}
	os.Exit(m.Run())
}

// A rig is a network with a daemon on the host's end.
type rig struct {
	*testnet.Net
	t      testing.TB
	client *control.Client
	socket string
	cmd    *exec.Cmd
	errs   *lockedBuffer
	waited chan error
	env    []string // of the daemon, besides this process's
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newRig makes a network and starts a daemon in it; flags are more of its
// flags.
func newRig(t testing.TB, flags ...string) *rig {
	t.Helper()
	r := &rig{Net: testnet.New(t), t: t}
	r.start(flags...)
	return r
}

func (r *rig) start(flags ...string) {
	r.t.Helper()
	r.socket = filepath.Join(r.t.TempDir(), "control.sock")
	if err := r.launch(r.socket, flags...); err != nil {
		r.t.Fatalf("daemon: %v\n%s", err, r.errs)
	}
	r.client = control.NewClient(r.socket)
	r.t.Cleanup(func() {
		if r.t.Failed() && r.cmd != nil {
			r.report()
		}
		r.client.Close()
		r.stop()
		if r.t.Failed() {
			r.t.Logf("the daemon said:\n%s", r.errs)
		}
	})
}

// launch starts a daemon and waits until it is ready or has ended.
func (r *rig) launch(socket string, flags ...string) error {
	// This machine may be so busy that a device is late for its heartbeat.
	args := append([]string{"daemon", "--uplink", r.HostIf, "--socket", socket, "--stale-after", "500ms"}, flags...)
	r.cmd = r.Host.Command("/proc/self/exe", args...)
	// A binary with the race detector else sleeps for a second at its end.
	r.cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), r.env...)
	r.errs = new(lockedBuffer)
	r.cmd.Stderr = r.errs
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	ready := make(chan bool, 1)
	r.waited = make(chan error, 1)
	go func() {
		s := bufio.NewScanner(out)
		for s.Scan() {
			if s.Text() == "ready" {
				ready <- true
			}
		}
		close(ready)
		r.waited <- r.cmd.Wait()
	}()
	select {
	case ok := <-ready:
		if ok {
			return nil
		}
		return fmt.Errorf("it ended before it was ready: %w", <-r.waited)
	case <-time.After(15 * time.Second):
		r.cmd.Process.Kill()
		return fmt.Errorf("not ready in time")
	}
}

// stop ends the daemon and waits for it.
func (r *rig) stop() {
	r.t.Helper()
	if r.cmd == nil {
		return
	}
	r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-r.waited:
		if err != nil {
			r.t.Errorf("the daemon ended with %v", err)
		}
	case <-time.After(15 * time.Second):
		r.t.Errorf("the daemon did not end in time")
		r.cmd.Process.Kill()
		<-r.waited
	}
	r.cmd = nil
}

// kill ends the daemon as nothing should.
func (r *rig) kill() {
	r.cmd.Process.Kill()
	<-r.waited
	r.cmd = nil
}

// A pair is the two ends of one connection: ours at the host, and the peer's.
type pair struct {
	host, peer net.Conn
	changed    func(level, name, value int) // is told of options of the host's end that are set; nil: nobody is
}

func (p *pair) selector() driver.Selector {
	l, r := addrOf(p.host.LocalAddr()), addrOf(p.host.RemoteAddr())
	return driver.Selector{Local: driver.Endpoint{Addr: l.Addr(), Port: l.Port()}, Remote: driver.Endpoint{Addr: r.Addr(), Port: r.Port()}}
}

func addrOf(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// connect makes n connections from peer to host, by IPv6 if six.
func (r *rig) connect(n int, six bool) []*pair {
	r.t.Helper()
	addr := r.HostIP4
	if six {
		addr = r.HostIP6
	}
	l, err := r.Host.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	return r.connectTo(l, r.Peer, n)
}

func (r *rig) connectTo(l net.Listener, from *testnet.Namespace, n int) []*pair {
	r.t.Helper()
	pairs := make([]*pair, n)
	for i := range pairs {
		peer, err := from.Dial("tcp", l.Addr().String())
		if err != nil {
			r.t.Fatal(err)
		}
		host, err := l.Accept()
		if err != nil {
			r.t.Fatal(err)
		}
		pairs[i] = &pair{host: host, peer: peer}
		r.t.Cleanup(func() { host.Close(); peer.Close() })
	}
	return pairs
}

var ctx = context.Background()

func (r *rig) offload(s driver.Selector) driver.Result {
	r.t.Helper()
	res, err := r.client.Offload(ctx, s, driver.Options{})
	if err != nil {
		r.t.Fatalf("offload %s: %v", s, err)
	}
	return res
}

func (r *rig) upload(s driver.Selector) driver.Result {
	r.t.Helper()
	res, err := r.client.Upload(ctx, s)
	if err != nil {
		r.t.Fatalf("upload %s: %v", s, err)
	}
	return res
}

// moved fails the test unless n connections were moved and none refused.
func (r *rig) moved(res driver.Result, n int) {
	r.t.Helper()
	if len(res.Moved) != n || len(res.Refused) != 0 {
		r.t.Fatalf("%d moved, want %d; refused: %+v", len(res.Moved), n, res.Refused)
	}
}

// exchange sends text both ways and checks that it arrives.
func (p *pair) exchange(t testing.TB, text string) {
	t.Helper()
	for _, way := range []struct {
		name     string
		from, to net.Conn
	}{{"to the peer", p.host, p.peer}, {"from the peer", p.peer, p.host}} {
		deadline := time.Now().Add(10 * time.Second)
		way.from.SetDeadline(deadline)
		way.to.SetDeadline(deadline)
		if _, err := way.from.Write([]byte(text)); err != nil {
			t.Fatalf("%s: %v", way.name, err)
		}
		got := make([]byte, len(text))
		for n := 0; n < len(got); {
			m, err := way.to.Read(got[n:])
			if err != nil {
				t.Fatalf("%s, after %d of %d octets: %v", way.name, n, len(got), err)
			}
			n += m
		}
		if string(got) != text {
			t.Fatalf("%s: %q arrived as %q", way.name, text, got)
		}
	}
}

// eventually waits for something that happens by itself.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came that %s", what)
		}
	}
}

func (r *rig) list(s driver.Selector) []driver.Connection {
	r.t.Helper()
	conns, err := r.client.List(ctx, s)
	if err != nil {
		r.t.Fatalf("list %s: %v", s, err)
	}
	return conns
}

func (r *rig) device() driver.Device {
	r.t.Helper()
	devices, err := r.client.Devices(ctx)
	if err != nil || len(devices) != 1 {
		r.t.Fatalf("devices: %+v, %v", devices, err)
	}
	return devices[0]
}

// reasons lists the reasons of refusals.
func reasons(res driver.Result) string {
	var all []string
	for _, f := range res.Refused {
		all = append(all, f.Reason)
	}
	return strings.Join(all, " ")
}

// report logs what daemon and kernel think, for a test that is about to fail.
func (r *rig) report() {
	r.t.Helper()
	for _, c := range r.list(driver.Selector{State: driver.OnDevice}) {
		l, _ := driver.ParseEndpoint(c.Local.String())
		p, _ := driver.ParseEndpoint(c.Remote.String())
		d, err := r.client.Show(ctx, driver.Selector{Local: l, Remote: p})
		r.t.Logf("%v %v\n kernel %+v\n socket %+v\n hardware %+v\n%v", c.Local, c.Remote, d.Kernel, d.Socket, d.Hardware, err)
	}
	r.t.Logf("%+v", r.device())
	var events []string
	r.client.Events(ctx, false, func(e driver.Event) error {
		events = append(events, fmt.Sprintf("%s %s %s %s %s %s", e.Time.Format("05.000"), e.Kind, e.ID, e.Remote, e.Reason, e.Detail))
		return nil
	})
	r.t.Logf("the last events:\n%s", strings.Join(events[max(0, len(events)-40):], "\n"))
}
