package bpf

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDoctorFindsThisMachineWell(t *testing.T) {
	checks := Doctor()
	if len(checks) < 15 {
		t.Errorf("%d checks only", len(checks))
	}
	for _, c := range checks {
		if !c.OK || c.Fix != "" {
			t.Errorf("%s: %s (fix: %s)", c.Name, c.Detail, c.Fix)
		}
	}
}

// Every check that fails says why and what to do, in one line each.
func TestDoctorWithoutPrivileges(t *testing.T) {
	checks := make(chan []Check)
	go func() {
		runtime.LockOSThread() // capabilities are the thread's, which ends
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(&header, &make([]unix.CapUserData, 2)[0]); err != nil {
			t.Error(err)
		}
		checks <- Doctor()
	}()
	failed := make(map[string]bool)
	for _, c := range <-checks {
		failed[c.Name] = !c.OK
		if c.OK != (c.Fix == "") || !c.OK && c.Detail == "" || strings.Contains(c.Detail+c.Fix, "\n") {
			t.Errorf("%+v", c)
		}
	}
	for _, name := range []string{
		"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "memlock",
		"mmapable BPF arrays", "steering programs", "tcx", "BPF socket filter on a packet socket",
		"packet socket with virtio-net header", "TAP with virtio-net header",
		"iterator over TCP sockets", "socket lookup in a test run", "bypass",
	} {
		if !failed[name] {
			t.Errorf("%s does not fail without privileges", name)
		}
	}
	if failed["kernel"] {
		t.Error("the kernel's release needs no privilege")
	}
}

// Who may not even try is told to become root, and nothing of the kernel.
func TestVerdict(t *testing.T) {
	f := feature{fix: "buy another"}
	for _, tt := range []struct {
		err  error
		uid  int
		root bool
	}{
		{unix.EPERM, 1000, true},
		{fmt.Errorf("open: %w", unix.EACCES), 1000, true},
		{&MissingFeature{"maps", "5.8", unix.EPERM}, 1000, true},
		{unix.EPERM, 0, false},
		{unix.ENOSYS, 1000, false},
	} {
		detail, fix := f.verdict(tt.err, tt.uid)
		if root := strings.HasPrefix(fix, "run as root"); root != tt.root || !root && (fix != f.fix || detail != tt.err.Error()) {
			t.Errorf("%v for user %d: %q, %q", tt.err, tt.uid, detail, fix)
		}
	}
}
