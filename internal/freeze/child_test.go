package freeze

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Children are this test binary run again: childEnv names what to be. They tell
// how they do by a page of memory that both map, since anything else could itself
// be what a freeze disturbs.
const (
	childEnv = "FREEZE_TEST_CHILD"
	boardEnv = "FREEZE_TEST_BOARD"
)

// A board is what a child tells.
type board struct {
	ready  atomic.Int64 // 1: it is at work
	count  [80]atomic.Int64
	failed [80]atomic.Int64
	errno  [80]atomic.Int64
	pid    atomic.Int64 // of a process that the child has started
	tid    atomic.Int64 // of a thread to signal
	told   atomic.Int64 // what a parent was told of its child
	sem    atomic.Int64 // a set of semaphores to remove, plus 1
}

func mapBoard(path string) (*board, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := int(unsafe.Sizeof(board{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*board)(unsafe.Pointer(&mem[0])), nil
}

var children = map[string]func(*board){
	"calls":   makeCalls,
	"count":   func(b *board) { spinners(b, 2) },
	"threads": func(b *board) { parked(b) },
	"churn":   churn,
	"signals": takeSignals,
	"queue":   takeQueue,
	"parent":  beParent,
	"forks":   forkOften,
	"freezer": beFreezer,
	"leader":  endLeader,
	"execs":   execOften,
	"vfork":   vforkAndWait,
}

func TestMain(m *testing.M) {
	name := os.Getenv(childEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	b, err := mapBoard(os.Getenv(boardEnv))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	children[name](b)
	select {}
}

type child struct {
	*board
	cmd *exec.Cmd
	pid int
}

// start runs a child and waits until it is at work.
func start(t testing.TB, name string, args ...string) *child {
	t.Helper()
	path := t.TempDir() + "/board"
	b, err := mapBoard(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := childCommand(name, path, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if pid := int(b.pid.Load()); pid != 0 {
			unix.Kill(pid, unix.SIGKILL)
		}
		if id := b.sem.Load(); id != 0 {
			unix.Syscall(unix.SYS_SEMCTL, uintptr(id-1), 0, unix.IPC_RMID)
		}
	})
	eventually(t, "the child is at work", func() bool { return b.ready.Load() == 1 })
	return &child{b, cmd, cmd.Process.Pid}
}

func childCommand(name, board string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	// Without preemption by signals, an EINTR is the freeze's. For GOGC see ptr.
	cmd.Env = append(os.Environ(), childEnv+"="+name, boardEnv+"="+board, "GODEBUG=asyncpreemptoff=1", "GOGC=off")
	cmd.Stderr = os.Stderr
	return cmd
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func spinners(b *board, n int) {
	runtime.GOMAXPROCS(n + 1)
	for i := range n {
		go func() {
			for {
				b.count[i].Add(1)
			}
		}()
	}
	eventuallyStarted(b, n)
}

// eventuallyStarted says that the child is at work when all n slots count.
func eventuallyStarted(b *board, n int) {
	for i := range n {
		for b.count[i].Load() == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	b.ready.Store(1)
}

// parked has as many threads as its argument says, each blocked in a read.
func parked(b *board) {
	n, _ := strconv.Atoi(os.Args[1])
	for i := range n {
		go func() {
			runtime.LockOSThread()
			var p [2]int
			unix.Pipe2(p[:], 0)
			b.count[i].Add(1)
			var c [1]byte
			unix.Read(p[0], c[:])
		}()
	}
	eventuallyStarted(b, n)
}

// churn makes threads that end at once, as fast as it can.
func churn(b *board) {
	var live atomic.Int64
	go func() {
		for {
			if live.Add(1) > 8 {
				live.Add(-1)
				time.Sleep(50 * time.Microsecond)
				continue
			}
			go func() {
				runtime.LockOSThread() // the thread ends with the goroutine
				b.count[0].Add(1)
				live.Add(-1)
			}()
		}
	}()
	eventuallyStarted(b, 1)
}

// takeSignals counts the real-time signals that handlers are run for, by number.
func takeSignals(b *board) {
	c := make(chan os.Signal, 10000)
	for n := 40; n < 60; n++ {
		signal.Notify(c, syscall.Signal(n))
	}
	spinners(b, 1)
	for s := range c {
		b.count[s.(syscall.Signal)].Add(1)
	}
}

// takeQueue takes a queue of signals by one thread.
func takeQueue(b *board) {
	runtime.LockOSThread()
	set := block(40)
	b.tid.Store(int64(unix.Gettid()))
	b.ready.Store(1)
	for {
		sigtimedwait(set, nil, b, 0)
	}
}

func block(n int) *unix.Sigset_t {
	var set unix.Sigset_t
	set.Val[0] = 1 << (n - 1)
	unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
	return &set
}

func sigtimedwait(set *unix.Sigset_t, timeout *unix.Timespec, b *board, slot int) {
	_, _, e := unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(set)), 0, uintptr(unsafe.Pointer(timeout)), 8, 0, 0)
	b.note(slot, e)
}

// note counts a call; EINTR is what no call may return here.
func (b *board) note(slot int, e syscall.Errno) {
	switch e {
	case 0:
	default:
		b.failed[slot].Add(1)
		b.errno[slot].Store(int64(e))
	}
	b.count[slot].Add(1)
}

// beParent has a child, and notes all that it is told of it.
func beParent(b *board) {
	path := os.Getenv(boardEnv) + "-child"
	inner, err := mapBoard(path)
	if err != nil {
		panic(err)
	}
	cmd := childCommand("count", path)
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	b.pid.Store(int64(cmd.Process.Pid))
	c := make(chan os.Signal, 1000)
	signal.Notify(c, unix.SIGCHLD)
	go func() {
		for range c {
			b.count[0].Add(1)
		}
	}()
	for inner.ready.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	b.ready.Store(1)
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(cmd.Process.Pid, &ws, unix.WUNTRACED|unix.WCONTINUED, nil)
		if err == nil {
			b.told.Store(int64(ws))
			b.count[1].Add(1)
		}
		if err == unix.ECHILD {
			return
		}
	}
}

// forkOften starts processes that end at once.
func forkOften(b *board) {
	for {
		if err := exec.Command("/bin/true").Run(); err != nil {
			b.failed[0].Add(1)
		}
		b.count[0].Add(1)
		b.ready.Store(1)
	}
}

// beFreezer freezes the process that its argument names, and never thaws it.
func beFreezer(b *board) {
	pid, _ := strconv.Atoi(os.Args[1])
	if _, err := Freeze(10*time.Second, pid); err != nil {
		panic(err)
	}
	b.ready.Store(1)
}

// endLeader ends its first thread while another goes on. init has locked the
// first thread to main.
func endLeader(b *board) {
	started := make(chan bool)
	go func() {
		runtime.LockOSThread()
		close(started)
		spinOn(b)
	}()
	<-started
	unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
}

func init() {
	if os.Getenv(childEnv) == "leader" {
		runtime.LockOSThread()
	}
}

func spinOn(b *board) {
	for {
		b.count[0].Add(1)
		b.ready.Store(1)
		time.Sleep(100 * time.Microsecond)
	}
}

// execOften becomes itself again and again, from a thread that is not the first.
func execOften(b *board) {
	b.count[0].Add(1)
	b.ready.Store(1)
	for range 4 {
		go func() { runtime.LockOSThread(); select {} }()
	}
	go func() {
		runtime.LockOSThread()
		panic(syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	}()
}

// vforkAndWait has a thread that waits in the kernel, out of reach of signals,
// until its own child has ended.
func vforkAndWait(b *board) {
	go func() {
		runtime.LockOSThread()
		pid, _, _ := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_VFORK|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if pid == 0 {
			own, _, _ := unix.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
			b.pid.Store(int64(own))
			for {
				unix.RawSyscall(unix.SYS_PAUSE, 0, 0, 0)
			}
		}
		b.told.Store(int64(pid))
	}()
	for b.pid.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	spinOn(b)
}
