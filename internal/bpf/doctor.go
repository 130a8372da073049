package bpf

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/confine"
	"toehold/internal/flow"
)

// A Check is the verdict on one feature that the project needs.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // what was found, or the error
	Since  string `json:"since,omitempty"`  // first kernel that has it
	Fix    string `json:"fix,omitempty"`    // what to do; empty when OK
}

// A feature is something to check: try gives a detail, or what is wrong.
type feature struct {
	name, since, fix string
	try              func() (detail string, err error)
}

const (
	asRoot  = "run as root, or grant "
	upgrade = "needs Linux 6.6 or later"
)

var features = []feature{
	{"kernel", "6.6", upgrade, kernelRelease},
	{"CAP_NET_ADMIN", "", asRoot + "CAP_NET_ADMIN: interfaces, steering", capability(unix.CAP_NET_ADMIN)},
	{"CAP_NET_RAW", "", asRoot + "CAP_NET_RAW: packet sockets", capability(unix.CAP_NET_RAW)},
	{"CAP_BPF", "5.8", asRoot + "CAP_BPF: BPF programs and maps", capability(unix.CAP_BPF)},
	{"CAP_PERFMON", "5.8", asRoot + "CAP_PERFMON: reading sockets from BPF", capability(unix.CAP_PERFMON)},
	{"CAP_SYS_PTRACE", "", asRoot + "CAP_SYS_PTRACE: finding out which process holds a socket", capability(unix.CAP_SYS_PTRACE)},
	{"CAP_SETUID", "", asRoot + "CAP_SETUID, CAP_SETGID and CAP_SETPCAP: devices run as another user, without capabilities", capability(unix.CAP_SETUID)},
	{"CAP_SETPCAP", "", asRoot + "CAP_SETPCAP: devices run without capabilities", capability(unix.CAP_SETPCAP)},
	{"system call filters", "4.14", "use a kernel built with CONFIG_SECCOMP_FILTER: devices keep only the system calls that they need", func() (string, error) { return "", confine.Supported() }},
	{"BTF", "5.4", "use a kernel built with CONFIG_DEBUG_INFO_BTF=y (/sys/kernel/btf/vmlinux)", kernelBTF},
	{"memlock", "5.11", "raise the limit of locked memory: ulimit -l unlimited, LimitMEMLOCK=infinity", memlock},
	{"mmapable BPF arrays", "5.5", upgrade, mmapableArray},
	{"steering programs", "6.6", upgrade, loads},
	{"tcx", "6.6", "use a kernel of 6.6 or later, built with CONFIG_NET_XGRESS (CONFIG_NET_CLS_ACT)", tcx},
	{"BPF socket filter on a packet socket", "3.19", "use a kernel built with CONFIG_PACKET=y", attachFilter},
	{"packet socket with virtio-net header", "2.6.39", "use a kernel built with CONFIG_PACKET=y", packetOption(unix.PACKET_VNET_HDR)},
	{"packet socket that ignores outgoing frames", "4.20", upgrade, packetOption(unix.PACKET_IGNORE_OUTGOING)},
	{"TAP with virtio-net header", "2.6.27", "load the module tun, and see that /dev/net/tun exists and may be opened", tap},
	{"iterator over TCP sockets", "5.8", "use a kernel built with CONFIG_BPF_SYSCALL and BTF", iterator("tcp")},
	{"iterator over descriptors", "5.8", "use a kernel built with CONFIG_BPF_SYSCALL and BTF", iterator("task_file")},
	{"socket lookup in a test run", "5.17", upgrade, probes},
	{"socket options of programs", "6.6", "use a kernel built with CONFIG_CGROUP_BPF; without, TCP_INFO of a connection on the device tells of its hop to the device alone, and programs cannot ask to be offloaded", servesOptions},
	{"bypass", "6.3", "use a kernel built with CONFIG_BPF_STREAM_PARSER, CONFIG_CGROUP_BPF and BTF; without, connections on the device stay in shadow, which costs the program's processor more", opensChannels},
	{"congestion control in BPF", "6.4", "use a kernel built with CONFIG_BPF_JIT and BTF; without, connections come home with congestion windows that the kernel made up", lends},
}

// Doctor tries every feature and privilege that the project needs, and
// leaves nothing behind. tcx is tried on this namespace's loopback, with a
// program that lets everything pass.
func Doctor() []Check {
	checks := make([]Check, len(features))
	for i, f := range features {
		detail, err := f.try()
		checks[i] = Check{Name: f.name, OK: err == nil, Detail: detail, Since: f.since}
		if err != nil {
			checks[i].Detail, checks[i].Fix = f.verdict(err, os.Geteuid())
		}
	}
	return checks
}

// verdict is what was wrong and what to do about it, for this user. What only
// root may try says nothing of the kernel, nor do the libraries' guesses.
func (f *feature) verdict(err error, uid int) (detail, fix string) {
	for _, denied := range []error{unix.EPERM, unix.EACCES} {
		if errors.Is(err, denied) && uid != 0 {
			return denied.Error(), "run as root: this cannot be checked without"
		}
	}
	return oneLine(err), f.fix
}

// oneLine is the first line of an error; the verifier's go on for long.
func oneLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return "", fmt.Errorf("release %q: %w", release, err)
	}
	if major < 6 || major == 6 && minor < 6 {
		return "", fmt.Errorf("this is Linux %s", release)
	}
	return release, nil
}

// capability checks the calling thread's effective capabilities, of which
// CAP_SYS_ADMIN stands for the newer CAP_BPF and CAP_PERFMON.
func capability(number uint) func() (string, error) {
	return func() (string, error) {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			return "", err
		}
		has := func(n uint) bool { return data[n/32].Effective&(1<<(n%32)) != 0 }
		if has(number) || number >= unix.CAP_PERFMON && has(unix.CAP_SYS_ADMIN) {
			return "", nil
		}
		return "", errors.New("this process has not got it")
	}
}

func kernelBTF() (string, error) {
	_, err := btf.LoadKernelSpec()
	return "", err
}

// memlock: since 5.11, the memory of maps counts for the cgroup instead.
func memlock() (string, error) {
	if m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 1 << 20, MaxEntries: 64}); err == nil {
		return "64 MiB of map", m.Close()
	} else if errors.Is(err, unix.EPERM) {
		return "", err
	}
	return "", nil // what is wrong then is shown by the others
}

func mmapableArray() (string, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4096, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
	if err != nil {
		return "", err
	}
	defer m.Close()
	mem, err := unix.Mmap(m.FD(), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return "", err
	}
	return "", unix.Munmap(mem)
}

// withSet runs f with a small Set.
func withSet(f func(s *Set) error) (string, error) {
	s, err := Load(Config{MaxConnections: 1, StaleAfter: time.Second})
	if err != nil {
		return "", err
	}
	return "", errors.Join(f(s), s.Close())
}

func loads() (string, error) { return withSet(func(*Set) error { return nil }) }

func tcx() (string, error) {
	return withSet(func(s *Set) error { return s.AttachUplink(1) }) // lo is the first interface of any namespace
}

func probes() (string, error) {
	return withSet(func(s *Set) error {
		return s.Probe([]flow.Key{{Family: 4}}, make([]abi.KernelState, 1))
	})
}

func opensChannels() (string, error) { return withSet((*Set).OpenChannels) }

func lends() (string, error) {
	w, err := LoadWindows()
	if err != nil {
		return "", err
	}
	return "", w.Close()
}

func servesOptions() (string, error) {
	o, err := LoadOptions(1, 1)
	if err != nil {
		return "", err
	}
	return "", o.Close()
}

func withPacketSocket(f func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: it gets no frame
	if err != nil {
		return err
	}
	return errors.Join(f(fd), unix.Close(fd))
}

func attachFilter() (string, error) {
	return withSet(func(s *Set) error {
		return withPacketSocket(func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, s.Filter())
		})
	})
}

func packetOption(option int) func() (string, error) {
	return func() (string, error) {
		return "", withPacketSocket(func(fd int) error {
			return unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1)
		})
	}
}

func tap() (string, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	defer unix.Close(fd) // and the interface is gone
	request, err := unix.NewIfreq("doctor%d")
	if err != nil {
		return "", err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return "", fmt.Errorf("make a TAP: %w", err)
	}
	const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads); err != nil {
		return "", fmt.Errorf("super-segments through a TAP: %w", err)
	}
	return "", nil
}

// iterator tries to load and link the smallest program.
func iterator(target string) func() (string, error) {
	return func() (string, error) {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type:         ebpf.Tracing,
			AttachType:   ebpf.AttachTraceIter,
			AttachTo:     target,
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
			License:      "Dual BSD/GPL",
		})
		if err != nil {
			return "", err
		}
		defer p.Close()
		it, err := link.AttachIter(link.IterOptions{Program: p})
		if err != nil {
			return "", err
		}
		return "", it.Close()
	}
}
