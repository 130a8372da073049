// Package confine takes from a process what it does not need: first the thread
// that starts it gives up capabilities for its children, then the process itself
// gives up, once it has opened all that it works with, what it could still ask of
// the kernel.
package confine

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// Enter leaves every thread of the process, now and later, what it has open, up to
// files descriptors, and the system calls of which allowed is the list. There is no
// way back. The process must have been started by a thread of Shed's, as a user that is not root.
func Enter(files uint64) error {
	if os.Geteuid() == 0 || os.Getuid() == 0 {
		return errors.New("a process of root's is not confined")
	}
	for _, l := range []struct {
		name     string
		resource int
		most     uint64
	}{
		{"RLIMIT_CORE", unix.RLIMIT_CORE, 0},
		{"RLIMIT_NICE", unix.RLIMIT_NICE, 0},
		{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, files},
	} {
		if err := lower(l.resource, l.most); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	// Neither ptrace nor /proc is anybody's but root's, also not others' of the same user.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_DUMPABLE: %w", err)
	}
	p, err := rules()
	if err != nil {
		return err
	}
	// With TSYNC the threads that there are get no_new_privs too (seccomp(2)).
	return seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: *p})
}

// lower sets both limits to most, or leaves them where they are less.
func lower(resource int, most uint64) error {
	var r unix.Rlimit
	if err := unix.Getrlimit(resource, &r); err != nil {
		return err
	}
	r.Cur, r.Max = min(r.Cur, most), min(r.Max, most)
	return unix.Setrlimit(resource, &r)
}

// Shed takes all capabilities from the bounding and the inheritable set of the calling thread,
// which keeps its own. So whatever it starts as another user has none and
// comes by none.
func Shed() error {
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > unix.CAP_AUDIT_READ {
			break // the kernel has no more
		}
		if err != nil {
			return fmt.Errorf("PR_CAPBSET_DROP (it needs CAP_SETPCAP): %w", err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// Supported says whether the kernel can do what Enter asks of it.
func Supported() error {
	for _, action := range []uint32{unix.SECCOMP_RET_KILL_PROCESS, unix.SECCOMP_RET_ERRNO} {
		if err := available(action); err != nil {
			return err
		}
	}
	_, err := rules()
	return err
}

// Environment is what of an environment a confined process is given: what Go's
// runtime and the project look at, and nothing that may be a secret.
func Environment(all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !known(s) })
}
