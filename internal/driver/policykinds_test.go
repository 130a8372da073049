package driver_test

import (
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/driver"
)

var perKind = flag.Int("policy.connections", 2, "connections of each kind of condition")

// namespaceOf is the inode of the host's network namespace.
func (r *rig) namespaceOf() (inode uint64) {
	r.inHost(func() error {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		fmt.Sscanf(link, "net:[%d]", &inode)
		return err
	})
	return inode
}

// flow is the connection as the events name it.
func (p *pair) flow() string {
	return addrOf(p.host.LocalAddr()).String() + " " + addrOf(p.host.RemoteAddr()).String()
}

// option sets an option of a program's socket.
func (p *pair) option(t *testing.T, level, name, value int) {
	t.Helper()
	raw, err := p.host.(*net.TCPConn).SyscallConn()
	if err == nil {
		var failed error
		err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, name, value) })
		if err == nil {
			err = failed
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A policy with every kind of condition, on real connections: each goes to the
// device by the rule of its kind, and the events say so.
func TestPolicyOfEveryKind(t *testing.T) {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	kinds := []struct {
		name, when string
		mark, tos  int
	}{
		{name: "ports", when: `remote.port > 0`},
		{name: "addresses", when: fmt.Sprintf("local.addr == %q", r.HostIP4)},
		{name: "prefix", when: fmt.Sprintf(`remote.within("%s/24")`, r.PeerIP4.String()[:strings.LastIndexByte(r.PeerIP4.String(), '.')]+".0")},
		{name: "interface", when: fmt.Sprintf("interface == %q", r.HostIf)},
		{name: "process", when: fmt.Sprintf("process == %q", strings.TrimSpace(string(comm)))},
		{name: "executable", when: fmt.Sprintf("executable == %q", self)},
		{name: "uid", when: fmt.Sprintf("uid == %d", os.Geteuid())},
		{name: "cgroup", when: `cgroup.startsWith("/")`},
		{name: "netns", when: fmt.Sprintf("netns == %d", r.namespaceOf())},
		{name: "mark", when: "mark == 77", mark: 77},
		{name: "dscp", when: "dscp == 46", tos: 46 << 2},
		{name: "congestion", when: `congestion != ""`},
		{name: "place", when: `place == "kernel"`},
		{name: "octets", when: "bytes_sent > 3 && bytes_received > 3"},
		{name: "rate", when: "rate > 1"},
		{name: "rtt", when: `rtt > duration("0s") && rtt < duration("10s")`},
		{name: "retransmissions", when: "retransmissions < 0.9"},
		{name: "age", when: `age > duration("1ms") && age < duration("1h")`},
		{name: "idle", when: `idle < duration("1m")`},
		{name: "small-io", when: "small_io > 0.9"},
		{name: "offloads", when: "offloads == 0"},
	}
	var policy strings.Builder
	policy.WriteString("limits: {moves_per_second: 10000}\nrules:\n")
	pairs := make(map[string][]*pair)
	for _, k := range kinds {
		pairs[k.name] = r.connect(*perKind, false)
		p := pairs[k.name][0]
		fmt.Fprintf(&policy, "- name: %s\n  when: |\n    local.port == %d && %s\n  action: offload\n", k.name, addrOf(p.host.LocalAddr()).Port(), k.when)
		for _, p := range pairs[k.name] {
			if k.mark != 0 {
				p.option(t, unix.SOL_SOCKET, unix.SO_MARK, k.mark)
			}
			if k.tos != 0 {
				p.option(t, unix.IPPROTO_IP, unix.IP_TOS, k.tos)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, file, policy.String())
	if _, err := r.client.ApplyPolicy(ctx, file, []byte(policy.String())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.reportUnmoved(pairs) })
	var rules map[string][]string // by flow
	eventually(t, "all are on the device", func() bool {
		rules = r.offloadedBy()
		for _, all := range pairs {
			for _, p := range all {
				if len(rules[p.flow()]) == 0 {
					p.exchange(t, "some")
				}
			}
		}
		return len(rules) == len(kinds)**perKind
	})
	for _, k := range kinds {
		for _, p := range pairs[k.name] {
			if by := rules[p.flow()]; len(by) != 1 || by[0] != "policy: rule "+k.name {
				t.Errorf("%s: moved by %q", k.name, by)
			}
			p.exchange(t, "on the device")
		}
	}
	r.cmd.Process.Signal(syscall.SIGHUP) // without a file it changes nothing
}

// reportUnmoved logs, for a test that has failed, what the policy says of the
// connections that are still in the kernel.
func (r *rig) reportUnmoved(pairs map[string][]*pair) {
	if !r.t.Failed() {
		return
	}
	for kind, all := range pairs {
		for _, p := range all {
			if e, err := r.client.ExplainPolicy(ctx, p.selector()); err != nil || e.Place != driver.OnDevice {
				d, _ := r.client.Show(ctx, p.selector())
				r.t.Logf("%s: %+v, %v; history %+v", kind, e, err, d.History)
			}
		}
	}
}

// offloadedBy is reason and detail of every offload, by flow.
func (r *rig) offloadedBy() map[string][]string {
	r.t.Helper()
	all := make(map[string][]string)
	err := r.client.Events(ctx, false, func(e driver.Event) error {
		if e.Kind == driver.EventOffloaded {
			all[e.Local+" "+e.Remote] = append(all[e.Local+" "+e.Remote], e.Reason+": "+e.Detail)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}
