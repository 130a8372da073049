package freeze

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// grace is what threads that are about to stop are given when time is up, so
// that their calls are put back too.
const grace = 10 * time.Millisecond

// spin is how long threads are looked at without sleeping: most stop within it.
const spin = time.Millisecond

type thread struct {
	pid, tid int
	stopped  bool
	signal   int  // that it was about to be given when it stopped, 0 for none
	adopted  bool // what it was forking is held too
}

type tracer struct {
	self     int // thread id
	deadline time.Time
	pids     []int // to hold; grows when they fork
	threads  map[int]*thread
	// attached: something is left that only the end of this thread detaches.
	attached bool
}

func newTracer(deadline time.Time, pids []int) *tracer {
	return &tracer{self: unix.Gettid(), deadline: deadline, threads: map[int]*thread{},
		pids: slices.Compact(slices.Sorted(slices.Values(pids)))}
}

// held is which processes have threads that are stopped.
func (t *tracer) held() []int {
	var pids []int
	for _, th := range t.threads {
		pids = append(pids, th.pid)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// hold stops every thread. It has when, of all that a listing names, nothing is
// new, and everything that is held has stood still since before the listing: then
// there was nobody who could start another.
func (t *tracer) hold() error {
	for {
		changed, err := t.attach()
		if err != nil {
			return err
		}
		if !changed && t.still() {
			return nil
		}
		if err := t.await(); err != nil {
			return err
		}
	}
}

// attach seizes and interrupts each thread that is not held yet. changed says
// that there was one.
func (t *tracer) attach() (changed bool, err error) {
	for i := 0; i < len(t.pids); i++ {
		pid := t.pids[i]
		for _, tid := range tasks(pid) {
			if t.threads[tid] != nil {
				continue
			}
			new, err := t.seize(pid, tid)
			if err != nil {
				return false, fmt.Errorf("freeze process %d: thread %d: %w", pid, tid, err)
			}
			changed = changed || new
		}
	}
	return changed, nil
}

// seize says whether the thread is, or was until now, one to wait for.
func (t *tracer) seize(pid, tid int) (bool, error) {
	const options = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK
	err := ptrace(unix.PTRACE_SEIZE, tid, 0, options)
	switch {
	case err == unix.ESRCH:
		return true, nil
	case err == unix.EPERM:
		return t.seizeRefused(pid, tid)
	case err != nil:
		return false, os.NewSyscallError("ptrace seize", err)
	}
	t.threads[tid] = &thread{pid: pid, tid: tid}
	// One that ends just now cannot be interrupted; await sees its end.
	if err := ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0); err != nil && err != unix.ESRCH {
		return true, os.NewSyscallError("ptrace interrupt", err)
	}
	return true, nil
}

// seizeRefused finds why: EPERM is also the answer for a thread that has ended,
// and for one whose parent is held and which the kernel has attached by itself.
func (t *tracer) seizeRefused(pid, tid int) (bool, error) {
	s := statusOf(tid)
	switch {
	case s.ended():
		return false, nil
	case s.tracer == t.self:
		t.threads[tid] = &thread{pid: pid, tid: tid}
		return true, nil
	case s.tracer != 0:
		return false, fmt.Errorf("tracer %d: %w", s.tracer, ErrTraced)
	}
	return false, os.NewSyscallError("ptrace seize", unix.EPERM)
}

// await waits until all that is attached has stopped or ended.
func (t *tracer) await() error {
	pause := 20 * time.Microsecond
	for start := time.Now(); ; {
		running, err := t.poll()
		if running == nil || err != nil {
			return err
		}
		now := time.Now()
		if now.After(t.deadline) {
			return fmt.Errorf("freeze process %d: thread %d (state %s): %w",
				running.pid, running.tid, statusOf(running.tid).state, ErrTime)
		}
		if now.Sub(start) < spin {
			unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		t.recheck()
		sleep(pause)
		pause = min(2*pause, time.Millisecond)
	}
}

// poll looks at every thread that has not stopped, and returns one that goes on
// running.
func (t *tracer) poll() (running *thread, err error) {
	for _, th := range t.threads {
		if th.stopped {
			continue
		}
		if err := t.look(th); err != nil {
			return nil, fmt.Errorf("freeze process %d: thread %d: %w", th.pid, th.tid, err)
		}
		if t.threads[th.tid] == th && !th.stopped {
			running = th
		}
	}
	return running, nil
}

func (t *tracer) look(th *thread) error {
	seen, err := lookAt(th.tid)
	switch {
	case err == unix.ECHILD:
		t.forget(th)
	case err != nil:
		return os.NewSyscallError("waitid", err)
	case seen.ended():
		t.bury(th)
	case seen.stopped():
		return t.stop(th, seen)
	}
	return nil
}

// stop takes down how a thread stopped, and puts back its call.
func (t *tracer) stop(th *thread, seen sighting) error {
	switch seen.event() {
	case 0:
		th.signal = seen.signal()
	case unix.PTRACE_EVENT_CLONE, unix.PTRACE_EVENT_FORK, unix.PTRACE_EVENT_VFORK:
		t.adopt(th)
	}
	err := putBack(th.pid, th.tid)
	if err == unix.ESRCH { // killed since; to be looked at again
		return nil
	}
	th.stopped = err == nil
	return err
}

// adopt takes in what a held thread was starting, which the kernel has attached.
func (t *tracer) adopt(th *thread) {
	if th.adopted {
		return
	}
	tid, err := unix.PtraceGetEventMsg(th.tid)
	if err != nil || t.threads[int(tid)] != nil {
		return
	}
	th.adopted = true
	born := &thread{pid: th.pid, tid: int(tid)}
	if !isThread(th.pid, born.tid) {
		born.pid = born.tid
		t.pids = append(t.pids, born.pid)
	}
	t.threads[born.tid] = born
}

// bury takes note that a thread has ended. The first thread of a process is left
// to be waited for by its parent, which may be ourselves.
func (t *tracer) bury(th *thread) {
	if th.tid == th.pid {
		t.attached = true
	} else {
		unix.Wait4(th.tid, nil, unix.WALL|unix.WNOHANG, nil)
	}
	t.forget(th)
}

// forget drops a thread. It may have taken the first one's place (execve), so
// that what is known of the others of its process is not to be relied upon.
func (t *tracer) forget(th *thread) {
	delete(t.threads, th.tid)
	for _, other := range t.threads {
		if other.pid == th.pid {
			other.stopped, other.signal = false, 0
		}
	}
}

// recheck looks for what may keep a thread from stopping: in execve it waits until
// the others are buried, and those may have been stopped before it killed them. Of
// a first thread that has ended before the others waitid does not tell.
func (t *tracer) recheck() {
	t.still()
	for _, th := range t.threads {
		if !th.stopped && th.tid == th.pid && statusOf(th.tid).ended() {
			t.bury(th)
		}
	}
}

// still says that nothing has happened to the threads since they stopped. Those
// that something has happened to are to be looked at again.
func (t *tracer) still() bool {
	all := true
	for _, th := range t.threads {
		if th.stopped {
			seen, err := lookAt(th.tid)
			th.stopped = err == nil && seen.stopped()
		}
		all = all && th.stopped
	}
	return all
}

// release detaches everything, each thread with the signal that it was about to
// be given. What has been killed is detached by the end of the tracer's thread.
func (t *tracer) release() error {
	var errs []error
	for until := time.Now().Add(grace); ; {
		errs = append(errs, t.detachStopped())
		if len(t.threads) == 0 || time.Now().After(until) || t.stuck() {
			break
		}
		if _, err := t.poll(); err != nil {
			errs = append(errs, err)
			break
		}
		unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	t.attached = t.attached || len(t.threads) > 0
	return errors.Join(errs...)
}

func (t *tracer) detachStopped() error {
	var errs []error
	for tid, th := range t.threads {
		if !th.stopped {
			continue
		}
		delete(t.threads, tid)
		switch err := ptrace(unix.PTRACE_DETACH, tid, 0, uintptr(th.signal)); err {
		case nil:
		case unix.ESRCH:
			t.attached = true
		default:
			t.attached = true
			errs = append(errs, fmt.Errorf("thaw process %d: thread %d: %w", th.pid, tid, os.NewSyscallError("ptrace detach", err)))
		}
	}
	return errors.Join(errs...)
}

// stuck says that of the threads left none will stop soon: they wait in the
// kernel where no signal reaches them, and so no call of theirs is cut short.
func (t *tracer) stuck() bool {
	for tid := range t.threads {
		if s := statusOf(tid); s.state != "D" && !s.ended() {
			return false
		}
	}
	return true
}

// tasks lists the threads of a process; none if it has ended.
func tasks(pid int) []int {
	dir, err := os.Open("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // an error: it ended meanwhile
	tids := make([]int, 0, len(names))
	for _, name := range names {
		if tid, err := strconv.Atoi(name); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids
}

func isThread(pid, tid int) bool {
	return unix.Access(fmt.Sprintf("/proc/%d/task/%d", pid, tid), unix.F_OK) == nil
}
