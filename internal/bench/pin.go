package bench

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"toehold/internal/testnet"
)

// cores are the two processors of a measurement.
type cores struct {
	host  int // the program and the soft interrupts of its network
	other int // everything else: driver, device, the peer
}

// twoCores chooses them from those that this process may use. Interrupts of
// hardware mostly go to the first, so that is the other.
func twoCores() (c cores, err error) {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return c, err
	}
	if may.Count() < 2 {
		return c, errors.New("the CPU of requests is measured with the program on a processor of its own: two are needed, this process may use one")
	}
	for c.other = 0; !may.IsSet(c.other); c.other++ {
	}
	for cpu := c.other + 1; cpu < 8*len(may)*8; cpu++ {
		if may.IsSet(cpu) {
			c.host = cpu
		}
	}
	return c, nil
}

// pin lets a thread run on one processor alone; 0 is the calling one.
func pin(thread, cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(thread, &set)
}

// pinProcess lets this process run on one processor alone, and what it starts
// from now on, until it is undone.
func pinProcess(cpu int) (undo func() error, err error) {
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, err
	}
	set.Set(cpu)
	return func() error { return allThreads(&before) }, allThreads(&set)
}

// allThreads gives every thread a set. A thread that begins meanwhile has that
// of the one that made it, so they are looked at until there is no new one.
func allThreads(set *unix.CPUSet) error {
	for done := map[string]bool{}; ; {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		before := len(done)
		for _, t := range threads {
			id, _ := strconv.Atoi(t.Name())
			if err := unix.SchedSetaffinity(id, set); err != nil && err != unix.ESRCH {
				return err
			}
			done[t.Name()] = true
		}
		if len(done) == before {
			return nil
		}
	}
}

// pinName is the first argument of a process that pins itself and becomes a
// program: the processor, the program's path and its arguments follow.
const pinName = "bench-pinned"

func becomePinned(args []string) error {
	if len(args) < 2 {
		return errors.New("what, and on which processor?")
	}
	cpu, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := pin(0, cpu); err != nil {
		return fmt.Errorf("pin to processor %d: %w", cpu, err)
	}
	return syscall.Exec(args[1], args[1:], os.Environ())
}

// steer has one processor do the soft interrupts of what an interface
// receives; -1: the processor that it comes from (RPS,
// Documentation/networking/scaling.rst).
func steer(ns *testnet.Namespace, ifName string, cpu int) error {
	return ns.Do(func() error {
		// A sysfs shows the namespace that mounts it.
		fd, err := mountSysfs()
		if err != nil {
			return fmt.Errorf("sysfs: %w", err)
		}
		defer unix.Close(fd)
		queue := "class/net/" + ifName + "/queues/rx-0/rps_cpus"
		file, err := unix.Openat(fd, queue, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", queue, err)
		}
		defer unix.Close(file)
		if _, err := unix.Write(file, []byte(cpuMask(cpu))); err != nil {
			return fmt.Errorf("%s: %w", queue, err)
		}
		return nil
	})
}

// cpuMask is a set of one processor, or none, as sysfs has it.
func cpuMask(cpu int) string {
	if cpu < 0 {
		return "0"
	}
	return strconv.FormatUint(1<<(cpu%32), 16) + strings.Repeat(",00000000", cpu/32)
}

// mountSysfs mounts one nowhere.
func mountSysfs() (int, error) {
	context, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, err
	}
	return unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
}
