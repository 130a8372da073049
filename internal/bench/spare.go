package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/rig"
	"toehold/internal/testnet"
)

// How busy a processor is, is measured by what is left of it: a thread of the
// class SCHED_IDLE, pinned to it, reads the clock without end. Where two
// readings are close together, nobody else ran between them; where they are
// not, somebody did: a program, a soft interrupt, an interrupt, the scheduler,
// or another guest of the machine.
//
// The kernel's own accounts will not do. Without VIRT_CPU_ACCOUNTING_GEN they
// are sampled by the tick, and without IRQ_TIME_ACCOUNTING a soft interrupt
// counts as whatever it interrupted, the idle thread too, so neither
// /proc/stat nor a thread's CPU time tells. And a processor that nobody uses
// halts, which makes waking it up cost a virtual machine more than the request;
// this one never does, wherever the connections are.

// apart is how far two readings are apart when somebody else ran between them.
// A reading takes 20 to 50 ns, the smallest interrupt of a virtual machine a
// microsecond.
const apart = 300 * time.Nanosecond

// spareName is the first argument of the process with that thread, then follows
// the processor. Descriptor 3 is the memory that it counts in.
const spareName = "bench-spare"

// spareSize is a page.
const spareSize = 4096

// countSpare is that process. It ends when it is killed.
func countSpare(args []string) error {
	if len(args) != 1 {
		return errors.New("which processor?")
	}
	memory, err := unix.Mmap(3, 0, spareSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the count: %w", err)
	}
	cpu, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	err = errors.Join(pin(0, cpu), unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0))
	if err != nil {
		return fmt.Errorf("become the idle thread of processor %d: %w", cpu, err)
	}
	count := spareCount(memory)
	for begin, last := time.Now(), time.Duration(0); ; {
		now := time.Since(begin)
		if d := now - last; d < apart {
			atomic.AddInt64(count, int64(d))
		}
		last = now
	}
}

func spareCount(memory []byte) *int64 { return (*int64)(unsafe.Pointer(&memory[0])) }

// A spare tells how much of a processor nobody used.
type spare struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	memory []byte
}

// startSpare starts the count, in a namespace only because commands have one.
func startSpare(ctx context.Context, ns *testnet.Namespace, cpu int) (*spare, error) {
	fd, err := unix.MemfdCreate(spareName, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), spareName)
	defer f.Close()
	if err := f.Truncate(spareSize); err != nil {
		return nil, err
	}
	s := &spare{ended: make(chan struct{})}
	if s.memory, err = unix.Mmap(fd, 0, spareSize, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	s.cmd = rig.Command(ns, "/proc/self/exe", spareName, strconv.Itoa(cpu))
	s.cmd.ExtraFiles, s.cmd.Stderr = []*os.File{f}, os.Stderr
	s.cmd.Env = append(os.Environ(), quietRuntime...)
	if err := rig.Run(s.cmd); err != nil {
		return nil, errors.Join(err, unix.Munmap(s.memory))
	}
	go func() { s.cmd.Wait(); close(s.ended) }()
	if err := s.await(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// quietRuntime keeps Go's runtime from sending signals to threads that do not
// yield.
var quietRuntime = []string{"GODEBUG=asyncpreemptoff=1", "GOGC=off"}

// await returns when it counts.
func (s *spare) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	for s.count() == 0 {
		select {
		case <-s.ended:
			return fmt.Errorf("the count of idle time ended: %s", s.cmd.ProcessState)
		default:
		}
		if err := wait(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("the count of idle time does not begin: %w", err)
		}
	}
	return nil
}

// count is for how long nobody used the processor, since the start.
func (s *spare) count() time.Duration {
	return time.Duration(atomic.LoadInt64(spareCount(s.memory)))
}

func (s *spare) stop() error {
	s.cmd.Process.Signal(syscall.SIGKILL)
	<-s.ended
	return unix.Munmap(s.memory)
}
