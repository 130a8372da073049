// Package freeze stops whole processes for a moment without their noticing, by
// ptrace(2): every thread is seized and interrupted, each call that this cut
// short is put back, and later all are let go on.
//
// What the stopped programs and their parents see is time that has passed:
//   - No call returns EINTR on account of the freeze, nor EAGAIN from a blocking
//     read of a socket in a sockmap. A signal that arrives meanwhile is delivered
//     once, afterwards, and cuts a call short as it would have without us.
//   - The timeouts of epoll_wait, of sigtimedwait, of semtimedop and of sockets
//     with SO_RCVTIMEO or SO_SNDTIMEO begin anew: nothing tells when they had
//     begun. Those of poll, select, futex and nanosleep do not.
//   - A blocking call that has moved a part of its octets returns that part, as
//     with any signal: write and send of more than fits, recv with MSG_WAITALL.
//   - A stopped process stays stopped, and its parent is told nothing.
//
// When the tracing process dies, the kernel detaches all that it traced: they go
// on by themselves, with their calls put back and their signals.
package freeze

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrTraced: another process traces one of them, and only one can.
	ErrTraced = errors.New("traced already, by a debugger or the like: detach that first")
	// ErrTime: a thread did not stop in time; what had stopped goes on.
	ErrTime = errors.New("did not stop in time")
	// ErrUnsupported: calls cannot be put back on this kind of processor.
	ErrUnsupported = errors.New("processes can be frozen on x86-64 only")
)

// Frozen is a set of processes that stand still until Thaw, which must be called.
type Frozen struct {
	asked   []int
	pids    []int // that are held, in order; fixed once Freeze has returned
	tracer  int   // the thread that a part is still attached to, 0 for none
	thaw    chan struct{}
	thawing sync.Once
	done    chan struct{} // the tracer has let go; err and tracer are written before
	err     error
}

// Freeze stops every thread of the processes, and processes that they fork while
// this is going on. On an error nothing is stopped. A process that has ended is
// no error, see Gone. within bounds the time that it may take; on ErrTime add up
// to 10 ms, so that threads about to stop do not notice either.
func Freeze(within time.Duration, pids ...int) (*Frozen, error) {
	if !supported {
		return nil, ErrUnsupported
	}
	if slices.Contains(pids, os.Getpid()) {
		return nil, fmt.Errorf("process %d cannot freeze itself", os.Getpid())
	}
	f := &Frozen{asked: slices.Clone(pids), thaw: make(chan struct{}), done: make(chan struct{})}
	held := make(chan error, 1)
	go f.serve(time.Now().Add(within), held)
	if err := <-held; err != nil {
		return nil, errors.Join(err, f.Thaw())
	}
	return f, nil
}

// Thaw lets all go on, and returns when nothing is attached any more. More calls
// wait for the same, and return the same.
func (f *Frozen) Thaw() error {
	f.thawing.Do(func() { close(f.thaw) })
	<-f.done
	if f.tracer != 0 {
		return errors.Join(f.err, awaitEnd(f.tracer))
	}
	return f.err
}

// Pids names the processes that were stopped, those forked meanwhile too.
func (f *Frozen) Pids() []int { return f.pids }

// Gone says that a process which Freeze was asked for had ended by then.
func (f *Frozen) Gone(pid int) bool {
	return slices.Contains(f.asked, pid) && !slices.Contains(f.pids, pid)
}

// serve is the tracer: to the kernel that is one thread, which alone may ask
// anything of what it has attached.
func (f *Frozen) serve(deadline time.Time, held chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// Go parks its first thread where others would end, and what that had
		// attached would stay so. It is kept busy here, so the next is another.
		go f.serve(deadline, held)
		<-f.done
		runtime.UnlockOSThread()
		return
	}
	t := newTracer(deadline, f.asked)
	err := t.hold()
	if err == nil {
		f.pids = t.held()
		held <- nil
		<-f.thaw
	}
	f.err = t.release()
	if t.attached {
		f.tracer = t.self // still locked: the thread ends with this goroutine
	} else {
		runtime.UnlockOSThread()
	}
	close(f.done)
	if err != nil {
		held <- err
	}
}

// awaitEnd waits until a thread of this process has ended, with which the kernel
// lets go of what it traced.
func awaitEnd(tid int) error {
	path := fmt.Sprintf("/proc/self/task/%d", tid)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Microsecond) {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("thread %d, which froze processes, does not end; they may stand still until this process ends", tid)
		}
	}
}
