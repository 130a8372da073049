package confine

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// allowed are the calls that a confined process may make with any arguments. All
// work on what it has: descriptors, its memory, its threads.
const allowed = `
	read write writev pread64 readv close
	recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg getsockopt getsockname
	epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2 poll ppoll
	munmap mremap madvise mincore brk
	futex set_robust_list rseq sched_yield sched_getaffinity membarrier
	rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall
	nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday
	getpid getppid gettid getuid geteuid getgid getegid getrlimit getrandom
	exit exit_group`

// hostile are those that nothing in the process can mean well by: it is killed by them.
// Others are refused with EPERM.
const hostile = `
	ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
	pidfd_open pidfd_getfd pidfd_send_signal
	execve execveat fork vfork unshare setns
	bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
	mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
	open_by_handle_at creat truncate rename renameat renameat2 unlink unlinkat link linkat symlink symlinkat
	mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown fchownat lchown setxattr lsetxattr fsetxattr
	init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff
	setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset
	keyctl add_key request_key settimeofday clock_settime clock_adjtime adjtimex iopl ioperm
	sethostname setdomainname quotactl quotactl_fd acct landlock_create_ruleset modify_ldt`

// absent are those that the C library does without when the kernel has not got them, which
// it is told so: their arguments are in memory, where no filter sees them.
const absent = "clone3 openat2"

// rules is the filter, for the process that calls.
func rules() (*seccomp.Policy, error) {
	here, err := arch.GetInfo("")
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	if unsafe.Sizeof(uintptr(0)) != 8 {
		return nil, fmt.Errorf("seccomp: %s is not known here", here.Name)
	}
	named := func(names string) (list []string) {
		for _, n := range strings.Fields(names) {
			if _, ok := here.SyscallNames[n]; ok { // not all architectures have all
				list = append(list, n)
			}
		}
		return list
	}
	when := func(name string, argument uint32, is seccomp.Operation, value uint64) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: name, Conditions: seccomp.ArgumentConditions{{Argument: argument, Operation: is, Value: value}}}
	}
	writing := uint64(unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC | unix.O_APPEND)
	kill := []seccomp.NameWithConditions{when("openat", 2, seccomp.BitsSet, writing)}
	if len(named("open")) > 0 {
		kill = append(kill, when("open", 1, seccomp.BitsSet, writing))
	}
	return &seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{
		{Action: seccomp.ActionAllow, Names: named(allowed), NamesWithCondtions: []seccomp.NameWithConditions{
			when("clone", 0, seccomp.BitsSet, unix.CLONE_THREAD),
			when("mmap", 2, seccomp.BitsNotSet, unix.PROT_EXEC),
			when("mprotect", 2, seccomp.BitsNotSet, unix.PROT_EXEC),
			when("prctl", 0, seccomp.Equal, unix.PR_SET_VMA), // Go names its memory
			when("tgkill", 0, seccomp.Equal, uint64(os.Getpid())),
		}},
		{Action: seccomp.ActionKillProcess, Names: named(hostile), NamesWithCondtions: kill},
		{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: named(absent)},
	}}, nil
}

// available asks whether the kernel has an action.
func available(action uint32) error {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return fmt.Errorf("seccomp action %#x: %w", action, errno)
	}
	return nil
}

// known reports whether a variable, as NAME=VALUE, is one that may be given on.
func known(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return strings.HasPrefix(name, "GO") || strings.HasPrefix(name, "TOEHOLD_") || name == "TZ"
}
