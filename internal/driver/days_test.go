package driver_test

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/cli"
	"toehold/internal/driver"
)

// A stream sends random octets one way until it is told to stop, and compares
// the hashes of what went in and what came out.
type stream struct {
	from, to net.Conn
	stopped  chan struct{}
	sent     hash.Hash
	got      hash.Hash
	errs     chan error
	octets   int64
}

func newStream(from, to net.Conn) *stream {
	s := &stream{from: from, to: to, stopped: make(chan struct{}), sent: sha256.New(), got: sha256.New(), errs: make(chan error, 2)}
	go func() { s.errs <- s.send() }()
	go func() { s.errs <- s.receive() }()
	return s
}

func (s *stream) send() error {
	r := rand.NewChaCha8([32]byte{1})
	for buf := make([]byte, 1<<16); ; {
		select {
		case <-s.stopped:
			return s.from.(*net.TCPConn).CloseWrite()
		default:
		}
		r.Read(buf)
		s.sent.Write(buf)
		if _, err := s.from.Write(buf); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

func (s *stream) receive() error {
	n, err := io.Copy(s.got, s.to)
	s.octets = n
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	return nil
}

// stop ends the stream and checks that everything arrived.
func (s *stream) stop(t testing.TB) {
	t.Helper()
	close(s.stopped)
	for range 2 {
		select {
		case err := <-s.errs:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the stream does not end")
		}
	}
	if string(s.sent.Sum(nil)) != string(s.got.Sum(nil)) {
		t.Errorf("what arrived, %d octets, is not what was sent", s.octets)
	}
}

// streams fills connections with traffic both ways, half of it IPv6.
func (r *rig) streams(n int) (all []*stream) {
	r.t.Helper()
	for _, p := range append(r.connect(n/2, false), r.connect(n-n/2, true)...) {
		all = append(all, newStream(p.host, p.peer), newStream(p.peer, p.host))
	}
	return all
}

func stopAll(t testing.TB, all []*stream) {
	t.Helper()
	var total int64
	for _, s := range all {
		s.stop(t)
		total += s.octets
	}
	t.Logf("%d octets went through", total)
}

var everything = driver.Selector{All: true}

// Busy connections move back and forth and lose nothing.
func TestMoveBusy(t *testing.T) {
	r := newRig(t)
	all := r.streams(4)
	for range 5 {
		r.moved(r.offload(everything), 4)
		time.Sleep(30 * time.Millisecond) // traffic on the device
		r.moved(r.upload(everything), 4)
		time.Sleep(30 * time.Millisecond)
	}
	stopAll(t, all)
}

// kernelAgain waits until everything is the kernel's for the reason given.
func (r *rig) kernelAgain(n int, reason string) {
	r.t.Helper()
	eventually(r.t, "all is the kernel's, with the reason "+reason, func() bool {
		conns := r.list(driver.Selector{State: driver.InKernel})
		for _, c := range conns {
			if c.Reason != reason {
				return false
			}
		}
		return len(conns) == n
	})
}

// running waits until a device runs that is not the process given.
func (r *rig) running(not int) driver.Device {
	r.t.Helper()
	var d driver.Device
	eventually(r.t, "another device runs", func() bool {
		d = r.device()
		return d.State == "running" && d.PID != not
	})
	return d
}

// The device is killed, and stopped dead: the connections go on in the
// kernel, and another device takes its place.
func TestDeviceLost(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		signal       syscall.Signal
	}{
		{"killed", "device-died", syscall.SIGKILL},
		{"hung", "device-hung", syscall.SIGSTOP},
		{"ended", "device-died", syscall.SIGTERM},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			all := r.streams(4)
			for range 3 {
				old := r.running(0).PID
				r.moved(r.offload(everything), 4)
				time.Sleep(20 * time.Millisecond)
				if err := syscall.Kill(old, tt.signal); err != nil {
					t.Fatal(err)
				}
				r.kernelAgain(4, tt.reason)
				if d := r.running(old); d.Connections != 0 || d.Restarts == 0 {
					t.Errorf("the new device is %+v", d)
				}
			}
			r.moved(r.offload(everything), 4)
			stopAll(t, all)
		})
	}
}

// The device is replaced on request under live traffic.
func TestRestart(t *testing.T) {
	r := newRig(t)
	all := r.streams(2)
	r.moved(r.offload(everything), 2)
	old := r.device().PID
	devices, err := r.client.RestartDevices(ctx)
	if err != nil || len(devices) != 1 || devices[0].State != "running" || devices[0].PID == old {
		t.Fatalf("%+v, %v", devices, err)
	}
	r.kernelAgain(2, "device-stopped")
	r.moved(r.offload(everything), 2)
	stopAll(t, all)
}

// A daemon that is killed takes the device with it and leaves nothing: the
// kernel has every connection, and another daemon can start.
func TestDaemonKilled(t *testing.T) {
	r := newRig(t)
	all := r.streams(2)
	r.moved(r.offload(everything), 2)
	device := r.device().PID
	r.kill()
	eventually(t, "the device has ended", func() bool { return syscall.Kill(device, 0) != nil })
	r.clean()
	r.start()
	r.moved(r.offload(everything), 2)
	stopAll(t, all)
}

// A daemon that ends brings every connection home first.
func TestDaemonEnds(t *testing.T) {
	r := newRig(t)
	all := r.streams(2)
	r.moved(r.offload(everything), 2)
	r.stop()
	r.clean()
	stopAll(t, all)
	if !strings.Contains(r.errs.String(), "goes home") || strings.Contains(r.errs.String(), "WARN") {
		t.Errorf("it said %s", r.errs)
	}
}

// clean checks that no interface and no program is left in the namespace.
func (r *rig) clean() {
	r.t.Helper()
	eventually(r.t, "interfaces and programs are gone", func() bool {
		clean := false
		err := r.Host.Do(func() error {
			links, err := netlink.LinkList()
			if err != nil {
				return err
			}
			clean = true
			for _, l := range links {
				if name := l.Attrs().Name; name != "lo" && name != r.HostIf {
					clean = false
				}
			}
			return nil
		})
		if err != nil {
			r.t.Fatal(err)
		}
		return clean
	})
}

// A second daemon on the same uplink, or on the same socket, is refused, and
// told who is there.
func TestSecondDaemon(t *testing.T) {
	r := newRig(t)
	first := r.cmd.Process.Pid
	for _, tt := range []struct {
		name, socket, want string
	}{
		{"same uplink", filepath.Join(t.TempDir(), "s"), fmt.Sprintf("uplink %s is served already by process %d", r.HostIf, first)},
		{"same socket", r.socket, fmt.Sprintf("is served already by process %d", first)},
	} {
		second := &rig{Net: r.Net, t: t}
		if err := second.launch(tt.socket); err == nil {
			t.Errorf("%s: it started", tt.name)
			second.stop()
		}
		if said := second.errs.String(); !strings.Contains(said, tt.want) || strings.Count(said, "\n") != 1 {
			t.Errorf("%s: it said %q, want %q", tt.name, said, tt.want)
		}
	}
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	p.exchange(t, "the first goes on")
}

// An uplink that cannot be one is refused with its reason.
func TestNoSuchUplink(t *testing.T) {
	r := newRig(t)
	err := r.Host.Do(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = "downer"
		v := netlink.NewVeth(la)
		v.PeerName = "upper"
		return netlink.LinkAdd(v)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ uplink, want string }{
		{"nowhere", "uplink nowhere does not exist"},
		{"lo", "uplink lo is a loopback interface"},
		{"downer", "uplink downer is down"},
	} {
		second := &rig{Net: r.Net, t: t}
		second.Net.HostIf, tt.uplink = tt.uplink, second.Net.HostIf
		err := second.launch(filepath.Join(t.TempDir(), "s"))
		second.Net.HostIf = tt.uplink
		if err == nil {
			t.Error("it started")
			second.stop()
		}
		if said := second.errs.String(); !strings.Contains(said, tt.want) || strings.Count(said, "\n") != 1 {
			t.Errorf("it said %q, want %q", said, tt.want)
		}
	}
}

// The uplink goes down and comes up again; then it vanishes and one of the
// same name comes.
func TestUplinkGone(t *testing.T) {
	r := newRig(t)
	all := r.streams(2)
	r.moved(r.offload(everything), 2)
	set := func(f func(netlink.Link) error) {
		t.Helper()
		err := r.Host.Do(func() error {
			l, err := netlink.LinkByName(r.HostIf)
			if err != nil {
				return err
			}
			return f(l)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	set(netlink.LinkSetDown)
	r.kernelAgain(2, "uplink-gone")
	eventually(t, "the device is down", func() bool { return r.device().PID == 0 })
	if d := r.device(); d.State != "down" || d.Detail != "the uplink is gone: it is down" {
		t.Errorf("with the uplink down: %+v", d)
	}
	if _, err := r.client.RestartDevices(ctx); err == nil || !strings.Contains(err.Error(), r.HostIf+": the uplink is gone: it is down") {
		t.Errorf("restart with the uplink down: %v", err)
	}
	if res := r.offload(everything); len(res.Moved) != 0 || len(res.Refused) != 2 {
		t.Errorf("with the uplink down: %+v", res)
	}
	set(netlink.LinkSetUp)
	r.readdress()
	r.running(0)
	eventually(t, "the connections can be moved again", func() bool {
		r.offload(everything)
		return len(r.list(driver.Selector{State: driver.OnDevice})) == 2
	})
	stopAll(t, all)

	set(netlink.LinkDel)
	eventually(t, "the device is down", func() bool { return r.device().PID == 0 })
	if d := r.device(); d.State != "down" || d.Detail != "the uplink is gone: it was removed" {
		t.Errorf("with the uplink removed: %+v", d)
	}
	if res := r.offload(everything); len(res.Moved) != 0 || reasons(res) != strings.TrimPrefix(strings.Repeat(",uplink-gone", len(res.Refused)), ",") {
		t.Errorf("with the uplink removed: %+v", res)
	}
	err := r.Host.Do(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = r.HostIf
		v := netlink.NewVeth(la)
		v.PeerName, v.PeerNamespace = r.PeerIf, netlink.NsFd(r.Peer.FD())
		return netlink.LinkAdd(v)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Host.Configure(r.HostIf, r.HostIP4, r.HostIP6); err != nil {
		t.Fatal(err)
	}
	if err := r.Peer.Configure(r.PeerIf, r.PeerIP4, r.PeerIP6); err != nil {
		t.Fatal(err)
	}
	r.running(0)
	p := r.connect(1, false)[0]
	eventually(t, "a connection over the new one can be moved", func() bool { return len(r.offload(p.selector()).Moved) == 1 })
	p.exchange(t, "over the new one")
}

// readdress gives the uplink back what going down took: the IPv6 address, and
// the routes.
func (r *rig) readdress() {
	r.t.Helper()
	err := r.Host.Do(func() error {
		l, err := netlink.LinkByName(r.HostIf)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(r.HostIP6.String() + "/64")
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
		if err := netlink.AddrReplace(l, a); err != nil {
			return err
		}
		for _, cidr := range []string{r.HostIP4.String() + "/24", r.HostIP6.String() + "/64"} {
			_, network, err := net.ParseCIDR(cidr)
			if err != nil {
				return err
			}
			route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: network, Scope: netlink.SCOPE_LINK}
			if err := netlink.RouteReplace(route); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// The program ends while its connection is on the device, or on its way: the
// peer sees what it would from the kernel, and nothing stays behind.
func TestProgramEnds(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		name  string
		end   func(*net.TCPConn)
		reset bool
	}{
		{"close", func(c *net.TCPConn) { c.Close() }, false},
		{"shutdown", func(c *net.TCPConn) { c.CloseWrite() }, false},
		{"abort", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, true},
	} {
		for _, wait := range []time.Duration{0, 50 * time.Microsecond, 200 * time.Microsecond, 20 * time.Millisecond} {
			p := r.connect(1, false)[0]
			moved := make(chan struct{})
			go func() {
				defer close(moved)
				r.client.Offload(ctx, p.selector(), driver.Options{}) // whatever comes of it
			}()
			time.Sleep(wait)
			tt.end(p.host.(*net.TCPConn))
			p.peer.SetReadDeadline(time.Now().Add(5 * time.Second))
			_, err := p.peer.Read(make([]byte, 1))
			if tt.reset != (err != io.EOF) || os.IsTimeout(err) {
				t.Errorf("%s after %v: the peer gets %v", tt.name, wait, err)
			}
			<-moved
			p.peer.Close()
			p.host.Close()
		}
	}
	eventually(t, "the device has let go of everything", func() bool { return r.device().Connections == 0 })
}

// Both ends close while the connection is on the device: it is forgotten.
func TestCloseOnDevice(t *testing.T) {
	r := newRig(t)
	for _, p := range r.connect(4, true) {
		r.moved(r.offload(p.selector()), 1)
		p.exchange(t, "last words")
		p.peer.Close()
		if n, err := p.host.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("the program reads %d, %v", n, err)
		}
		p.host.Close()
	}
	eventually(t, "the device has let go of everything", func() bool { return r.device().Connections == 0 })
	ended := 0
	r.client.Events(ctx, false, func(e driver.Event) error {
		if e.Kind == driver.EventEnded {
			ended++
			if e.Reason != abi.Closed.String() {
				t.Errorf("ended for %s", e.Reason)
			}
		}
		return nil
	})
	if ended != 4 {
		t.Errorf("%d connections ended", ended)
	}
}

// descriptors counts the open descriptors of a process.
func descriptors(t testing.TB, pid int) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Moves and lost devices leave no descriptor and no interface behind.
func TestNoLeaks(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	r.moved(r.upload(p.selector()), 1)
	before := descriptors(t, r.cmd.Process.Pid)
	var wg sync.WaitGroup
	for range 5 {
		r.moved(r.offload(p.selector()), 1)
		old := r.device().PID
		wg.Go(func() { syscall.Kill(old, syscall.SIGKILL) })
		wg.Wait()
		r.running(old)
	}
	p.exchange(t, "still there")
	eventually(t, fmt.Sprintf("the daemon has %d descriptors again", before), func() bool {
		return descriptors(t, r.cmd.Process.Pid) <= before
	})
	if err := r.Host.Do(func() error {
		links, err := netlink.LinkList()
		if err == nil && len(links) != 3 {
			t.Errorf("%d interfaces instead of lo, uplink and host port", len(links))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// What happened is told, to those who ask and to those who follow.
func TestEvents(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	r.moved(r.upload(p.selector()), 1)
	var kinds []string
	if err := r.client.Events(ctx, false, func(e driver.Event) error { kinds = append(kinds, e.Kind); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(kinds, " "); got != "device-started offloaded uploaded" {
		t.Errorf("the events are %s", got)
	}
	d, err := r.client.Show(ctx, p.selector())
	if err != nil || len(d.History) != 2 || d.History[0].Kind != driver.EventOffloaded || d.History[1].Reason != "asked" || d.Hardware != nil {
		t.Errorf("its history is %+v, %v", d.History, err)
	}
	r.moved(r.offload(p.selector()), 1)
	d, err = r.client.Show(ctx, p.selector())
	if err != nil || d.Hardware == nil || d.Hardware.Place != "owned" || d.Offloads != 2 || d.Kernel.PathMTU != 1500 || d.PID != os.Getpid() {
		t.Errorf("it is %+v, %v", d, err)
	}
}

// Who is not root is told so, and nothing is touched.
func TestNotRoot(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command("/proc/self/exe", "daemon", "--uplink", "lo", "--socket", socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != cli.ExitFailed || !strings.Contains(string(out), "needs root") {
		t.Errorf("it ended with %v and said %q", err, out)
	}
}

// A second signal ends the daemon at once, and nothing is lost by it.
func TestSecondSignal(t *testing.T) {
	r := newRig(t, "--stale-after", "1m")
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	if err := syscall.Kill(r.device().PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.cmd.Process.Signal(syscall.SIGTERM)
	eventually(t, "it begins to end", func() bool { return strings.Contains(r.errs.String(), "goes home") })
	start := time.Now()
	r.cmd.Process.Signal(syscall.SIGTERM)
	<-r.waited
	r.cmd = nil
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
	p.exchange(t, "the kernel has it")
	r.clean()
}

// One busy connection moves back and forth many times, named by --all, so
// that it has to be found each time.
func TestMoveOften(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	for _, s := range []*stream{newStream(p.peer, p.host), newStream(p.host, p.peer)} {
		for range 100 {
			r.moved(r.offload(everything), 1)
			r.moved(r.upload(everything), 1)
		}
		s.stop(t)
	}
}

// Many connections move in one request.
func TestMoveMany(t *testing.T) {
	const n = 600 // more than two messages hold
	r := newRig(t)
	pairs := append(r.connect(n/2, false), r.connect(n/2, true)...)
	for range 2 {
		res := r.offload(everything)
		r.moved(res, n)
		t.Logf("offload: %dus each", res.Moved[0].Took)
		for _, p := range pairs[:20] {
			p.exchange(t, "on the device")
		}
		res = r.upload(everything)
		r.moved(res, n)
		t.Logf("upload: %dus each", res.Moved[0].Took)
	}
	for _, p := range pairs {
		p.exchange(t, "in the kernel")
	}
}
