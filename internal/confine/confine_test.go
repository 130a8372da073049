package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	tryEnv = "TOEHOLD_TEST_TRY" // what a child is to try
	uid    = 65534
)

func TestMain(m *testing.M) {
	if name := os.Getenv(tryEnv); name != "" {
		os.Exit(child(name))
	}
	os.Exit(m.Run())
}

// child enters and tries.
func child(name string) int {
	held := []*os.File{os.Stdin}
	if err := Enter(64); err != nil {
		fmt.Println(err)
		return 1
	}
	err := attempts[name].try()
	runtime.KeepAlive(held)
	if err == nil {
		err = errors.New("done")
	}
	fmt.Print(err)
	return 0
}

// start is a child as a device is started.
func start(t *testing.T, name string) (said string, state *os.ProcessState) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(Environment(os.Environ()), tryEnv+"="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stdout = &out
	shed := make(chan error)
	go func() {
		runtime.LockOSThread() // ends with the goroutine
		err := Shed()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			err = cmd.Wait()
		}
		shed <- err
	}()
	err := <-shed
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState
}

func raw(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// said in the place of an errno
const (
	killed  = "killed"
	refused = "operation not permitted"
	done    = "done"
)

// attempts are what a confined process may try, and what comes of it.
var attempts = map[string]struct {
	try  func() error
	want string
}{
	"ptrace":            {func() error { return unix.PtraceSeize(os.Getppid()) }, killed},
	"process_vm_readv":  {func() error { _, err := unix.ProcessVMReadv(os.Getppid(), nil, nil, 0); return err }, killed},
	"process_vm_writev": {func() error { _, err := unix.ProcessVMWritev(os.Getppid(), nil, nil, 0); return err }, killed},
	"pidfd_open":        {func() error { _, err := unix.PidfdOpen(os.Getppid(), 0); return err }, killed},
	"pidfd_getfd":       {func() error { _, err := unix.PidfdGetfd(0, 0, 0); return err }, killed},
	"bpf":               {func() error { return raw(unix.SYS_BPF, 0, 0, 0) }, killed},
	"execve":            {func() error { return unix.Exec("/bin/true", []string{"true"}, nil) }, killed},
	"mount":             {func() error { return unix.Mount("", "/", "", unix.MS_REMOUNT, "") }, killed},
	"unshare":           {func() error { return unix.Unshare(unix.CLONE_NEWUSER) }, killed},
	"io_uring_setup":    {func() error { return raw(unix.SYS_IO_URING_SETUP, 1, 0) }, killed},
	"setuid":            {func() error { return raw(unix.SYS_SETRESUID, 0, 0, 0) }, killed},
	"open to write":     {func() error { _, err := unix.Open("/tmp/x", unix.O_WRONLY, 0); return err }, killed},
	"open to create":    {func() error { _, err := unix.Open("/tmp/x", unix.O_CREAT, 0o600); return err }, killed},
	"open to read":      {func() error { _, err := unix.Open("/proc/self/status", unix.O_RDONLY, 0); return err }, refused},
	"descriptors of another": {func() error {
		_, err := os.Open(fmt.Sprintf("/proc/%d/fd/0", os.Getppid()))
		return errors.Unwrap(err)
	}, refused},
	"socket":     {func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err }, refused},
	"setsockopt": {func() error { return unix.SetsockoptInt(0, unix.SOL_SOCKET, unix.SO_MARK, 1) }, refused},
	"bind":       {func() error { return unix.Bind(0, &unix.SockaddrLinklayer{}) }, refused},
	"ioctl":      {func() error { return unix.IoctlSetInt(0, unix.TIOCSTI, 0) }, refused},
	"kill":       {func() error { return unix.Kill(os.Getppid(), 0) }, refused},
	"tgkill":     {func() error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) }, refused},
	"fork by clone": {func() error {
		return raw(unix.SYS_CLONE, uintptr(unix.SIGCHLD))
	}, refused},
	"clone3": {func() error { return raw(unix.SYS_CLONE3, 0, 0) }, "function not implemented"},
	"memory that is code": {func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	}, refused},
	"more descriptors": {func() error {
		for {
			if _, err := unix.EpollCreate1(0); err != nil {
				return err
			}
		}
	}, "too many open files"},
	"higher limit": {func() error {
		return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1})
	}, refused},
	"threads, memory, timers and the collector": {func() error {
		var wait [8]chan int
		for i := range wait {
			wait[i] = make(chan int)
			go func() {
				runtime.LockOSThread()
				b := make([]byte, 1<<20)
				var s unix.Timespec
				s.Nsec = 1000
				unix.Nanosleep(&s, nil)
				wait[i] <- len(b)
			}()
		}
		for _, w := range wait {
			<-w
		}
		runtime.GC()
		s, err := Of(os.Getpid())
		if err == nil { // nobody may read /proc
			return fmt.Errorf("%+v", s)
		}
		return nil
	}, done},
}

func TestEntered(t *testing.T) {
	for name, a := range attempts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said, state := start(t, name)
			status := state.Sys().(syscall.WaitStatus)
			switch {
			case a.want == killed:
				if !status.Signaled() || status.Signal() != unix.SIGSYS {
					t.Errorf("it said %q and ended: %v", said, state)
				}
			case said != a.want || !state.Success():
				t.Errorf("it said %q, not %q, and ended: %v", said, a.want, state)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	got := Environment([]string{"AWS_SECRET=x", "GODEBUG=y", "PATH=/bin", "TZ=UTC", "TOEHOLD_SOCKET=/s", "HOME=/root"})
	if want := []string{"GODEBUG=y", "TZ=UTC", "TOEHOLD_SOCKET=/s"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// Only who has no privilege any more may enter: else a daemon could by mistake.
func TestRootDoesNotEnter(t *testing.T) {
	if err := Enter(64); err == nil {
		t.Fatal("it did")
	}
}

func TestSupported(t *testing.T) {
	if err := Supported(); err != nil {
		t.Error(err)
	}
	if err := available(0x12340000); err == nil {
		t.Error("the kernel has any action")
	}
}

func TestState(t *testing.T) {
	const good = "Uid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\nGroups:\t \nCapInh:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
	for _, tt := range []struct{ name, old, new, want string }{
		{"confined", "", "", "user 7, no capabilities, seccomp"},
		{"root", "Uid:\t7", "Uid:\t0", "NOT CONFINED: user 0"},
		{"root of the file system", "Uid:\t7\t7\t7\t7", "Uid:\t7\t7\t7\t0", "NOT CONFINED: user 7"},
		{"groups", "Groups:\t ", "Groups:\t4", "NOT CONFINED: user 7"},
		{"bounding", "CapBnd:\t0", "CapBnd:\t1", "NOT CONFINED: user 7, with capabilities"},
		{"privileges", "NoNewPrivs:\t1", "NoNewPrivs:\t0", "NOT CONFINED: user 7, without seccomp"},
		{"filter", "Seccomp:\t2", "Seccomp:\t0", "NOT CONFINED: user 7, without seccomp"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := State{NoNewPrivs: true, Filtered: true, Threads: 2}
			s.add(strings.Replace(good, tt.old, tt.new, 1))
			s.add(good)
			if s.String() != tt.want || s.Confined() != (tt.old == "") {
				t.Errorf("%s, %+v", &s, s)
			}
		})
	}
	if _, err := Of(1 << 30); err == nil {
		t.Error("a process that does not exist has a state")
	}
	s, err := Of(os.Getpid())
	if err != nil || s.Confined() {
		t.Errorf("%+v, %v", s, err)
	}
}
