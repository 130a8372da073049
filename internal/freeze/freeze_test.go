package freeze

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func freeze(t testing.TB, pids ...int) *Frozen {
	t.Helper()
	f, err := Freeze(10*time.Second, pids...)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func thaw(t testing.TB, f *Frozen) {
	t.Helper()
	if err := f.Thaw(); err != nil {
		t.Fatal(err)
	}
}

// stands fails the test if a counter moves.
func (c *child) stands(t testing.TB) {
	t.Helper()
	before := c.sum()
	time.Sleep(3 * time.Millisecond)
	if after := c.sum(); after != before {
		t.Fatalf("process %d went on: it counted from %d to %d", c.pid, before, after)
	}
}

func (c *child) moves(t testing.TB) {
	t.Helper()
	before := c.sum()
	eventually(t, "the child counts on", func() bool { return c.sum() > before })
}

func (c *child) sum() (sum int64) {
	for i := range c.count {
		sum += c.count[i].Load()
	}
	return sum
}

func state(pid int) string { return statusOf(pid).state }

// Every kind of blocking call is cut short hundreds of times, and none shows.
func TestCallsGoOn(t *testing.T) {
	c := start(t, "calls")
	for range 1000 {
		thaw(t, freeze(t, c.pid))
	}
	for i, call := range calls {
		before := c.count[i].Load()
		eventually(t, call.name+" goes on", func() bool { return c.count[i].Load() > before })
		if n := c.failed[i].Load(); n != 0 {
			t.Errorf("%s: %d of %d calls failed, the last with errno %d", call.name, n, c.count[i].Load(), c.errno[i].Load())
		}
	}
}

func TestStandsStillUntilThaw(t *testing.T) {
	c := start(t, "count")
	for range 10 {
		f := freeze(t, c.pid)
		c.stands(t)
		thaw(t, f)
		thaw(t, f)
		c.moves(t)
	}
}

func TestSeveralProcessesAtOnce(t *testing.T) {
	all := []*child{start(t, "count"), start(t, "count"), start(t, "count")}
	f := freeze(t, all[0].pid, all[1].pid, all[2].pid, all[0].pid)
	for _, c := range all {
		c.stands(t)
	}
	if n := len(f.Pids()); n != 3 {
		t.Errorf("%d processes are held", n)
	}
	thaw(t, f)
	for _, c := range all {
		c.moves(t)
	}
}

// Signals that arrive before, during and after the stop have their handlers run
// once each. There is never more than one of a number under way, as Go's own
// handler does not count those.
func TestHandlersRunOnce(t *testing.T) {
	c := start(t, "signals")
	const first, last, rounds = 40, 59, 100
	for round := range int64(rounds) {
		for n := first; n < last; n += 2 {
			unix.Kill(c.pid, syscall.Signal(n))
		}
		f := freeze(t, c.pid)
		for n := first + 1; n <= last; n += 2 {
			unix.Kill(c.pid, syscall.Signal(n))
		}
		thaw(t, f)
		for n := first; n <= last; n++ {
			eventually(t, "handlers have run", func() bool { return c.count[n].Load() > round })
		}
	}
	for n := first; n <= last; n++ {
		if got := c.count[n].Load(); got != rounds {
			t.Errorf("signal %d was handled %d times, not %d", n, got, rounds)
		}
	}
}

func TestQueueOfSignalsIsComplete(t *testing.T) {
	c := start(t, "queue")
	const rounds, each = 20, 50
	for range rounds {
		f := freeze(t, c.pid)
		for range each {
			if err := unix.Tgkill(c.pid, int(c.tid.Load()), 40); err != nil {
				t.Fatal(err)
			}
		}
		c.stands(t)
		thaw(t, f)
	}
	eventually(t, "all signals are taken", func() bool { return c.count[0].Load() == rounds*each })
	if n := c.failed[0].Load(); n != 0 {
		t.Errorf("sigtimedwait failed %d times, the last with errno %d", n, c.errno[0].Load())
	}
}

func TestStoppedProcessStaysStopped(t *testing.T) {
	c := start(t, "count")
	unix.Kill(c.pid, unix.SIGSTOP)
	eventually(t, "it is stopped", func() bool { return state(c.pid) == "T" })
	for range 20 {
		thaw(t, freeze(t, c.pid))
	}
	eventually(t, "it is stopped again", func() bool { return state(c.pid) == "T" })
	c.stands(t)
	unix.Kill(c.pid, unix.SIGCONT)
	c.moves(t)
}

func TestStopAndContinueWhileFrozen(t *testing.T) {
	c := start(t, "count")
	f := freeze(t, c.pid)
	unix.Kill(c.pid, unix.SIGSTOP)
	thaw(t, f)
	eventually(t, "it is stopped", func() bool { return state(c.pid) == "T" })
	f = freeze(t, c.pid)
	unix.Kill(c.pid, unix.SIGCONT)
	c.stands(t)
	thaw(t, f)
	c.moves(t)
}

func TestKilledWhileFrozen(t *testing.T) {
	for name, process := range map[string]string{"of many threads": "count", "of one": "/bin/sleep"} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(process, "1000")
			if process == "count" {
				cmd = start(t, process).cmd
			} else if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			f := freeze(t, cmd.Process.Pid)
			cmd.Process.Kill()
			thaw(t, f)
			err := cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
				t.Errorf("its parent was told %v", err)
			}
		})
	}
}

// A process that stops itself or ends is still its parent's to know of, and of
// a freeze that hears nothing.
func TestParentIsToldNothing(t *testing.T) {
	c := start(t, "parent")
	pid := int(c.board.pid.Load())
	for range 200 {
		thaw(t, freeze(t, pid))
	}
	told := func(what string, n int64, is func(unix.WaitStatus) bool) {
		t.Helper()
		eventually(t, what+" is told", func() bool { return c.count[1].Load() >= n && c.count[0].Load() >= n })
		if ws := unix.WaitStatus(c.told.Load()); !is(ws) || c.count[1].Load() != n || c.count[0].Load() != n {
			t.Errorf("after it was %s its parent had been told %d times, by %d signals, the last %#x",
				what, c.count[1].Load(), c.count[0].Load(), ws)
		}
	}
	f := freeze(t, pid)
	unix.Kill(pid, unix.SIGSTOP)
	thaw(t, f)
	told("stopped", 1, unix.WaitStatus.Stopped)
	for range 20 {
		thaw(t, freeze(t, pid))
	}
	unix.Kill(pid, unix.SIGCONT)
	told("continued", 2, unix.WaitStatus.Continued)
	f = freeze(t, pid)
	unix.Kill(pid, unix.SIGKILL)
	thaw(t, f)
	told("killed", 3, unix.WaitStatus.Signaled)
}

func TestTracedAlready(t *testing.T) {
	free, taken := start(t, "count"), start(t, "count")
	f := freeze(t, taken.pid)
	_, err := Freeze(time.Second, free.pid, taken.pid)
	if !errors.Is(err, ErrTraced) {
		t.Errorf("the answer is %v", err)
	}
	free.moves(t)
	taken.stands(t)
	thaw(t, f)
	thaw(t, freeze(t, free.pid, taken.pid))
}

func TestGone(t *testing.T) {
	c := start(t, "count")
	ended := exec.Command("/bin/true")
	if err := ended.Start(); err != nil {
		t.Fatal(err)
	}
	zombie := ended.Process.Pid
	eventually(t, "it has ended", func() bool { return state(zombie) == "Z" })
	f := freeze(t, zombie, c.pid)
	if !f.Gone(zombie) || f.Gone(c.pid) || f.Gone(1) {
		t.Errorf("gone: %v, %v, %v", f.Gone(zombie), f.Gone(c.pid), f.Gone(1))
	}
	thaw(t, f)
	if err := ended.Wait(); err != nil {
		t.Errorf("its parent was told: %v", err)
	}
	f = freeze(t, zombie)
	if !f.Gone(zombie) || len(f.Pids()) != 0 {
		t.Errorf("held: %v", f.Pids())
	}
	thaw(t, f)
}

func TestNotItself(t *testing.T) {
	if f, err := Freeze(time.Second, os.Getpid()); err == nil {
		thaw(t, f)
		t.Fatal("it was frozen")
	}
}

// A thread that waits where no signal reaches it makes the freeze late; what had
// stopped then goes on, and that thread's call is whole.
func TestNotInTime(t *testing.T) {
	c := start(t, "vfork")
	for range 3 {
		_, err := Freeze(20*time.Millisecond, c.pid)
		if !errors.Is(err, ErrTime) {
			t.Fatalf("the answer is %v", err)
		}
		c.moves(t)
	}
	inner := int(c.board.pid.Load())
	thaw(t, freeze(t, inner))
	unix.Kill(inner, unix.SIGKILL)
	eventually(t, "the call returns", func() bool { return c.told.Load() == int64(inner) })
	thaw(t, freeze(t, c.pid))
}

// Processes whose threads come and go while they are frozen.
func TestRestlessProcesses(t *testing.T) {
	for _, name := range []string{"churn", "forks", "execs", "leader"} {
		t.Run(name, func(t *testing.T) {
			c := start(t, name)
			for range 20 {
				f := freeze(t, c.pid)
				if f.Gone(c.pid) {
					t.Fatal("it is gone")
				}
				c.stands(t)
				thaw(t, f)
				c.moves(t)
			}
			if n := c.failed[0].Load(); n != 0 {
				t.Errorf("it failed %d times", n)
			}
		})
	}
}

// The freezer is killed: what it held goes on, also with a signal that it had
// stopped at.
func TestDeathOfTheFreezer(t *testing.T) {
	c := start(t, "signals")
	for round := range int64(10) {
		freezer := start(t, "freezer", strconv.Itoa(c.pid))
		c.stands(t)
		for n := 40; n < 60; n++ {
			unix.Kill(c.pid, syscall.Signal(n))
		}
		freezer.cmd.Process.Kill()
		freezer.cmd.Wait()
		for n := 40; n < 60; n++ {
			eventually(t, "handlers have run", func() bool { return c.count[n].Load() == round+1 })
		}
	}
}

// Nothing of a freeze is left: descriptors, threads, goroutines.
func TestNothingIsLeft(t *testing.T) {
	c := start(t, "count")
	thaw(t, freeze(t, c.pid))
	open, threads, routines := entries("fd"), entries("task"), runtime.NumGoroutine()
	for range 100 {
		thaw(t, freeze(t, c.pid))
		if f, err := Freeze(-time.Second, c.pid); err == nil {
			thaw(t, f)
		} else if !errors.Is(err, ErrTime) {
			t.Fatal(err)
		}
	}
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= routines })
	if n := entries("fd"); n > open {
		t.Errorf("%d descriptors are open, not %d", n, open)
	}
	if n := entries("task"); n > threads+8 { // the runtime starts some itself
		t.Errorf("there are %d threads, not %d", n, threads)
	}
	if s := statusOf(c.pid); s.tracer != 0 {
		t.Errorf("%d still traces it", s.tracer)
	}
}

func entries(of string) int {
	names, _ := os.ReadDir("/proc/self/" + of)
	return len(names)
}

func BenchmarkFreeze(b *testing.B) {
	for _, threads := range []int{1, 8, 64} {
		b.Run(strconv.Itoa(threads), func(b *testing.B) {
			pid := 0
			if threads == 1 {
				cmd := exec.Command("/bin/sleep", "1000")
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				defer cmd.Wait()
				defer cmd.Process.Kill()
				pid = cmd.Process.Pid
			} else {
				// The runtime has some of its own besides.
				pid = start(b, "threads", strconv.Itoa(threads)).pid
			}
			var froze, whole []time.Duration
			for b.Loop() {
				from := time.Now()
				f := freeze(b, pid)
				froze = append(froze, time.Since(from))
				thaw(b, f)
				whole = append(whole, time.Since(from))
			}
			b.ReportMetric(float64(len(tasks(pid))), "threads")
			report(b, "freeze", froze)
			report(b, "whole", whole)
		})
	}
}

func report(b *testing.B, what string, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), what+"-p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), what+"-p99-µs")
}
