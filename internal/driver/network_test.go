package driver_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/cli"
	"toehold/internal/driver"
	"toehold/internal/testnet"
)

// The second network between the same namespaces.
const sideHost, sidePeer = "side-host", "side-peer"

var (
	sideHostIP = netip.MustParseAddr("10.78.0.1")
	sidePeerIP = netip.MustParseAddr("10.78.0.2")
)

// inHost runs f in the host's namespace.
func (r *rig) inHost(f func() error) {
	r.t.Helper()
	if err := r.Host.Do(f); err != nil {
		r.t.Fatal(err)
	}
}

// addSide joins the namespaces by another veth.
func (r *rig) addSide() {
	r.t.Helper()
	r.inHost(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = sideHost
		v := netlink.NewVeth(la)
		v.PeerName, v.PeerNamespace = sidePeer, netlink.NsFd(r.Peer.FD())
		return netlink.LinkAdd(v)
	})
	if err := errors.Join(r.Host.Configure(sideHost, sideHostIP), r.Peer.Configure(sidePeer, sidePeerIP)); err != nil {
		r.t.Fatal(err)
	}
}

func hostRoute(to netip.Addr, by string) (*netlink.Route, error) {
	l, err := netlink.LinkByName(by)
	if err != nil {
		return nil, err
	}
	return &netlink.Route{
		LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())},
	}, nil
}

// A route that turns away from the uplink takes its connections home.
func TestRouteChanges(t *testing.T) {
	r := newRig(t)
	r.addSide()
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	away := func(change func(*netlink.Route) error) {
		t.Helper()
		r.inHost(func() error {
			route, err := hostRoute(r.PeerIP4, sideHost)
			if err != nil {
				return err
			}
			return change(route)
		})
	}
	away(netlink.RouteAdd)
	r.kernelAgain(1, "route-changed")
	if res := r.offload(p.selector()); reasons(res) != "no-uplink" || !strings.Contains(res.Refused[0].Detail, sideHost) {
		t.Errorf("with the route away: %+v", res)
	}
	away(netlink.RouteDel)
	p.exchange(t, "back again")
	eventually(t, "it can be moved again", func() bool { return len(r.offload(p.selector()).Moved) == 1 })
	p.exchange(t, "on the device")
}

// A program that sets a mark by which its packets are routed elsewhere goes
// home, and is known by it from then on.
func TestMarkRoutesAway(t *testing.T) {
	const table, mark = 77, 7
	r := newRig(t)
	r.addSide()
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	r.inHost(func() error {
		rule := netlink.NewRule()
		rule.Table, rule.Mark = table, mark
		route, err := hostRoute(r.PeerIP4, sideHost)
		if err != nil {
			return err
		}
		route.Table = table
		return errors.Join(netlink.RouteAdd(route), netlink.RuleAdd(rule))
	})
	p.exchange(t, "without the mark")
	p.set(t, unix.SOL_SOCKET, unix.SO_MARK, mark)
	r.kernelAgain(1, "route-changed")
	if res := r.offload(p.selector()); reasons(res) != "no-uplink" || !strings.Contains(res.Refused[0].Detail, sideHost) {
		t.Errorf("with the mark: %+v", res)
	}
	p.set(t, unix.SOL_SOCKET, unix.SO_MARK, 0)
	eventually(t, "it can be moved again", func() bool { return len(r.offload(p.selector()).Moved) == 1 })
	p.exchange(t, "on the device")
}

// The peer's link address changes: the device follows the neighbour table.
func TestNeighbourChanges(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	p.exchange(t, "at the old address")
	mac := net.HardwareAddr{2, 0, 0, 0, 0x77, 1}
	err := r.Peer.Do(func() error {
		l, err := netlink.LinkByName(r.PeerIf)
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, mac)
	})
	if err != nil {
		t.Fatal(err)
	}
	r.inHost(func() error {
		l, err := netlink.LinkByName(r.HostIf)
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: r.PeerIP4.AsSlice(), HardwareAddr: mac,
		})
	})
	p.exchange(t, "at the new address")
	if c := r.list(p.selector()); len(c) != 1 || c[0].Place != driver.OnDevice {
		t.Errorf("it is %+v", c)
	}
}

// Two uplinks have a device each, and connections find theirs.
func TestTwoUplinks(t *testing.T) {
	r := &rig{Net: testnet.New(t), t: t}
	r.addSide()
	r.start("--uplink", sideHost)
	here := r.connect(2, true)
	l, err := r.Host.Listen("tcp", sideHostIP.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	there := r.connectTo(l, r.Peer, 3)
	seen := map[string]bool{}
	once := func(res driver.Result) {
		t.Helper()
		for _, m := range res.Moved {
			if seen[m.ID] {
				t.Errorf("hardware id %s names a second connection", m.ID)
			}
			seen[m.ID] = true
		}
	}
	res := r.offload(everything)
	r.moved(res, 5)
	once(res)
	for _, p := range append(here, there...) {
		p.exchange(t, "on its own device")
	}
	devices, err := r.client.Devices(ctx)
	if err != nil || len(devices) != 2 || devices[0].Connections != 2 || devices[1].Connections != 3 || devices[1].Device != sideHost {
		t.Errorf("%+v, %v", devices, err)
	}
	old := devices[0].PID
	if devices, err = r.client.RestartDevices(ctx); err != nil || devices[0].PID == old || devices[1].State != "running" {
		t.Errorf("restarted: %+v, %v", devices, err)
	}
	res = r.offload(there[0].selector())
	r.moved(res, 1)
	once(res)
	// One on a device, four in the kernel, of which those named are refused.
	res = r.upload(driver.Selector{Remote: driver.Endpoint{Addr: sidePeerIP}})
	r.moved(res, 1)
	r.moved(r.upload(everything), 0)
}

// ipsec is a policy for everything from host to peer, by IPv4.
func (r *rig) ipsec() *netlink.XfrmPolicy {
	host := func(a netip.Addr) *net.IPNet { return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)} }
	return &netlink.XfrmPolicy{
		Src: host(r.HostIP4), Dst: host(r.PeerIP4), Dir: netlink.XFRM_DIR_OUT,
		Tmpls: []netlink.XfrmPolicyTmpl{{
			Src: r.HostIP4.AsSlice(), Dst: r.PeerIP4.AsSlice(), Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TRANSPORT, Reqid: 1,
		}},
	}
}

// A connection to which an IPsec policy applies stays.
func TestPolicyApplies(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	policy := r.ipsec()
	r.inHost(func() error { return netlink.XfrmPolicyAdd(policy) })
	r.refused(p, "xfrm")
	r.inHost(func() error { return netlink.XfrmPolicyDel(policy) })
	r.moved(r.offload(p.selector()), 1)
	p.exchange(t, "without the policy")
}

// A connection that an IPsec policy comes to apply to goes home; others stay.
func TestPolicyComes(t *testing.T) {
	r := newRig(t)
	p, other := r.connect(1, false)[0], r.connect(1, true)[0]
	r.moved(r.offload(everything), 2)
	policy := r.ipsec()
	r.inHost(func() error { return netlink.XfrmPolicyAdd(policy) })
	r.kernelAgain(1, "xfrm")
	r.inHost(func() error { return netlink.XfrmPolicyDel(policy) })
	if r.placeOf(p) != driver.InKernel || r.placeOf(other) != driver.OnDevice {
		t.Errorf("it is in the place %s, and the other one %s", r.placeOf(p), r.placeOf(other))
	}
	p.exchange(t, "without the policy")
	other.exchange(t, "as ever")
}

// toehold runs a command of the binary against the daemon.
func (r *rig) toehold(args ...string) (out []byte, code int) {
	r.t.Helper()
	cmd := r.Host.Command("/proc/self/exe", append(args, "--socket", r.socket)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return out, cmd.ProcessState.ExitCode()
}

// The commands that scripts use, end to end.
func TestCommandLine(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	local := r.loopback("127.0.0.1:0")
	pid := strconv.Itoa(os.Getpid())
	remote := addrOf(p.peer.LocalAddr()).String()
	for _, tt := range []struct {
		args string
		code int
	}{
		{"offload --json --remote " + remote, cli.ExitDone},
		{"offload --json --remote " + remote, cli.ExitRefused}, // already there
		{"show --json --remote " + remote, cli.ExitDone},
		{"show --json --pid " + pid, cli.ExitUsage},
		{"offload --json --all", cli.ExitRefused}, // the one over loopback
		{"offload --pid 1", cli.ExitFailed},
		{"offload", cli.ExitUsage},
		{"upload --json --pid " + pid, cli.ExitDone},
		{"upload --json --all", cli.ExitDone}, // nothing is left to do
		{"upload --id 0-1", cli.ExitFailed},
		{"list --json", cli.ExitDone},
		{"device-status --json", cli.ExitDone},
	} {
		out, code := r.toehold(strings.Fields(tt.args)...)
		if code != tt.code {
			t.Errorf("%s: exit %d, want %d\n%s", tt.args, code, tt.code, out)
		}
		if len(out) > 0 && !json.Valid(out) {
			t.Errorf("%s: no JSON: %s", tt.args, out)
		}
	}
	p.exchange(t, "as before")
	local.exchange(t, "as before")
}

// Without a daemon everything is listed as the kernel's.
func TestListWithoutDaemon(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, true)[0]
	r.stop()
	out, code := r.toehold("list", "--json", "--pid", strconv.Itoa(os.Getpid()))
	var conns []driver.Connection
	if err := json.Unmarshal(out, &conns); err != nil || code != cli.ExitDone {
		t.Fatalf("exit %d, %v: %s", code, err, out)
	}
	if len(conns) != 1 || conns[0].Place != driver.InKernel || conns[0].Local != addrOf(p.host.LocalAddr()) || conns[0].PID != os.Getpid() || conns[0].FD == 0 {
		t.Errorf("%+v", conns)
	}
}

// nextHops is what the last event says of them.
func (r *rig) nextHops() (detail string) {
	r.t.Helper()
	err := r.client.Events(ctx, false, func(e driver.Event) error {
		if e.Kind == driver.EventNextHops {
			detail = e.Detail
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return detail
}

// A next hop that does not answer stops all connections that go by it; when it
// answers again, all go on.
func TestDeadNextHop(t *testing.T) {
	r := newRig(t)
	pairs := r.connect(20, false)
	r.moved(r.offload(everything), len(pairs))
	for _, p := range pairs {
		p.exchange(t, "at first")
	}
	a := r.arrivals(pairs[0])
	stop := r.Peer.Lose(t, r.PeerIf, 1, testnet.In)
	for _, p := range pairs {
		p.send(t, 100)
	}
	a.await("it is in flight", 0, func(s *seen) bool { return s.Seg.Payload.Len == 100 })
	r.setNeighbour(nil, netlink.NUD_FAILED)
	mac := r.peerLink()
	eventually(t, "the device is told", func() bool { return strings.Contains(r.nextHops(), mac.String()) })
	eventually(t, "the program's socket sends again", func() bool { return pairs[0].info(t).Total_retrans > 0 })
	quiet := a.now()
	time.Sleep(600 * time.Millisecond) // in which the device would, twice
	if n := a.now() - quiet; n != 0 {
		t.Errorf("%d frames were sent to nobody", n)
	}
	stop()
	r.setNeighbour(mac, netlink.NUD_PERMANENT)
	eventually(t, "the device is told that it answers", func() bool { return r.nextHops() == "all answer" })
	for _, p := range pairs {
		p.peer.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(p.peer, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		p.exchange(t, "at last")
	}
}

// A route whose MTU is smaller makes the segments smaller, and a larger one
// larger.
func TestMTUChanges(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	a := r.arrivals(p)
	for _, mtu := range []int{1000, 1400, 700} {
		r.inHost(func() error {
			route, err := hostRoute(r.PeerIP4, r.HostIf)
			if err != nil {
				return err
			}
			route.MTU, route.MTULock = mtu, true
			return netlink.RouteReplace(route)
		})
		want := uint32(mtu - 52)
		eventually(t, "segments are of the new size", func() bool {
			begin := a.now()
			go p.host.Write(make([]byte, 100000))
			p.peer.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadFull(p.peer, make([]byte, 100000)); err != nil {
				t.Fatal(err)
			}
			return a.largest(begin) == want
		})
	}
	r.onDevice(p)
}

// What is in flight is sent again to the peer's new link address.
func TestNeighbourChangesInFlight(t *testing.T) {
	r := newRig(t)
	r.keepNeighbour()
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	p.exchange(t, "at the old address")
	a := r.arrivals(p)
	r.Peer.Lose(t, r.PeerIf, 1, testnet.In)
	p.send(t, 100)
	a.await("it is in flight", 0, func(s *seen) bool { return s.Seg.Payload.Len == 100 })
	mac := [6]byte{2, 0, 0, 0, 0x77, 1}
	r.setNeighbour(mac[:], netlink.NUD_PERMANENT)
	a.await("it is sent to the new address", 0, func(s *seen) bool { return s.nextHop == mac })
	r.onDevice(p)
}
