package device

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Stores are recorded so: this test binary runs again, and in it the device's view of
// the shared memory is read-only while the device runs. Each store faults. The tracer
// makes the memory writable, has the one instruction run, sees what it has changed, and
// makes the memory read-only again. So a store is what the processor does, by whatever
// code the compiler has made.

// recordEnv names, to the process that is recorded, what it is to play.
const recordEnv = "DEVICE_TEST_RECORD"

// A recorder is the watcher in the process that is recorded.
type recorder struct {
	t      *testing.T
	s      *shared
	only   map[int]bool // nil: all
	closed bool         // the device's view is read-only
}

func (r *recorder) protect(closed bool) {
	if closed == r.closed {
		return
	}
	if !closed {
		r.say(pause)
	}
	r.closed = closed
	prot := everyProtect
	if closed {
		prot = unix.PROT_READ
	}
	if err := unix.Mprotect(r.s.device, prot); err != nil {
		panic(err)
	}
}

func (r *recorder) point(n int) {
	r.protect(r.only == nil || r.only[n])
	if r.closed {
		r.say(uint64(n) + 1)
	}
}

// say tells the tracer, by a store as any other.
func (r *recorder) say(v uint64) { *(*uint64)(unsafe.Pointer(&r.s.device[0])) = v }

func (r *recorder) left() { r.protect(false) }

// What a recorded process says beside points.
const (
	pause = ^uint64(0) - iota // what comes is not of the device, or not to be recorded
	over
)

// Descriptors of a recorded process.
const (
	memoryFD = 3 + iota
	tellFD
	goFD
)

// A tale is the first that a recorded process says.
type tale struct{ TID, Base, Gate uint64 }

// beRecorded has play played by a world whose stores the parent records.
func beRecorded(t *testing.T, only map[int]bool, play func(*shared, watcher)) {
	runtime.LockOSThread()
	s := mapShared(t, memoryFD)
	gate, err := unix.Mmap(-1, 0, page, everyProtect, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	copy(gate, []byte{0x0f, 0x05, 0xcc}) // syscall; int3
	if err := unix.Mprotect(gate, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		t.Fatal(err)
	}
	first := tale{uint64(unix.Gettid()), uint64(addressOf(s.device)), uint64(addressOf(gate))}
	if err := binary.Write(os.NewFile(tellFD, "tell"), binary.NativeEndian, first); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(goFD, make([]byte, 1)); n != 1 {
		t.Fatal("not recorded: ", err)
	}
	r := &recorder{t: t, s: s, only: only}
	play(s, r)
	r.protect(true)
	r.say(over)
}

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

// A tracer records one thread.
type tracer struct {
	tale
	tid    int
	memory []byte // its own view
	before [recordedPages * page]byte
	script script
	at     int // the point that was passed last, -1: the device does not run
	over   bool
}

// recordScript plays what is named in a process of its own, and returns its stores.
func recordScript(t *testing.T, test string, what ...int) script {
	t.Helper()
	s := newShared(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+test+"$", "-test.timeout=60s")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Env = append(os.Environ(), recordEnv+"="+fmt.Sprint(what), "GODEBUG=asyncpreemptoff=1", "GOGC=off")
	script, err := runRecorded(cmd, s)
	if err != nil {
		t.Fatalf("recording %v: %v\n%s", what, err, output.String())
	}
	return script
}

func runRecorded(cmd *exec.Cmd, s *shared) (script, error) {
	tellR, tellW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer tellR.Close()
	goR, goW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer goW.Close()
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	memory := os.NewFile(uintptr(fd), "memory")
	cmd.ExtraFiles = []*os.File{memory, tellW, goR}
	err = cmd.Start()
	memory.Close()
	tellW.Close()
	goR.Close()
	if err != nil {
		return nil, err
	}
	tr := &tracer{memory: s.host, script: script{}}
	if err := binary.Read(tellR, binary.NativeEndian, &tr.tale); err != nil {
		return nil, errors.Join(err, cmd.Wait())
	}
	err = tr.trace(goW)
	return tr.script, errors.Join(err, cmd.Wait())
}

func (tr *tracer) trace(begin *os.File) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tr.tid = int(tr.TID)
	err := tr.follow(begin)
	if err == nil {
		return unix.PtraceDetach(tr.tid)
	}
	unix.Kill(tr.tid, unix.SIGKILL)
	for ended := error(nil); ended == nil; { // its process ends after it
		_, ended = tr.wait()
	}
	return err
}

// follow has the thread begin, and handles its stops until it has said that it is over.
func (tr *tracer) follow(begin *os.File) error {
	const options = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACESYSGOOD
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tr.tid), 0, options, 0, 0); errno != 0 {
		return fmt.Errorf("seize: %w", errno)
	}
	if _, err := begin.Write([]byte{1}); err != nil {
		return err
	}
	for !tr.over {
		ws, err := tr.wait()
		if err == nil {
			err = tr.stopped(ws)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (tr *tracer) wait() (unix.WaitStatus, error) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(tr.tid, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err == nil && !ws.Stopped() {
			err = fmt.Errorf("it has ended: status %#x", uint32(ws))
		}
		return ws, err
	}
}

// stopped handles a stop, and has the thread go on.
func (tr *tracer) stopped(ws unix.WaitStatus) error {
	signal := ws.StopSignal()
	switch {
	case signal == unix.SIGTRAP|0x80:
		if err := tr.call(); err != nil {
			return err
		}
		signal = 0
	case signal == unix.SIGSEGV:
		at, err := tr.fault()
		if err != nil {
			return err
		}
		if at >= 0 {
			if err := tr.step(at); err != nil {
				return err
			}
			signal = 0
		}
	case signal == unix.SIGTRAP: // seized, or let go on
		signal = 0
	}
	if tr.over {
		return nil
	}
	return unix.PtraceSyscall(tr.tid, int(signal))
}

// fault is where in the memory the thread wanted to write, -1: elsewhere.
func (tr *tracer) fault() (int, error) {
	var info [128]byte
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GETSIGINFO, uintptr(tr.tid), 0, uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 {
		return -1, errno
	}
	at := binary.NativeEndian.Uint64(info[16:]) - tr.Base
	if at >= uint64(len(tr.memory)) {
		return -1, nil
	}
	return int(at), nil
}

// step has the thread make the store that it was kept from, at an offset.
func (tr *tracer) step(at int) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tr.tid, &regs); err != nil {
		return err
	}
	if err := tr.mprotect(regs, everyProtect); err != nil {
		return err
	}
	for from := regs.Rip; regs.Rip == from; { // again: a string instruction goes on
		first := at &^ (page - 1)
		span := tr.memory[first:min(first+len(tr.before), len(tr.memory))]
		copy(tr.before[:], span)
		if err := unix.PtraceSingleStep(tr.tid); err != nil {
			return err
		}
		if ws, err := tr.wait(); err != nil || ws.StopSignal() != unix.SIGTRAP {
			return fmt.Errorf("stepped to status %#x: %w", uint32(ws), err)
		}
		tr.changed(first, span)
		if err := unix.PtraceGetRegs(tr.tid, &regs); err != nil {
			return err
		}
		if next := regs.Rdi - tr.Base; regs.Rip == from && next < uint64(len(tr.memory)) {
			at = int(next)
		}
	}
	return tr.mprotect(regs, unix.PROT_READ)
}

// changed notes what the last instruction has changed in span, which begins at first.
func (tr *tracer) changed(first int, span []byte) {
	before := tr.before[:len(span)]
	if first == 0 {
		tr.said(binary.NativeEndian.Uint64(span))
		return
	}
	from, to := 0, len(span)
	for from < to && before[from] == span[from] {
		from++
	}
	for to > from && before[to-1] == span[to-1] {
		to--
	}
	tr.script[tr.at] = append(tr.script[tr.at], store{at: first + from, octets: bytes.Clone(span[from:to])})
}

func (tr *tracer) said(v uint64) {
	switch tr.at = -1; v {
	case over:
		tr.over = true
	case pause:
	default:
		tr.at = int(v - 1)
		tr.script[tr.at] = nil
	}
}

// mprotect has the thread set the protection of its view, and go on at regs.
func (tr *tracer) mprotect(regs unix.PtraceRegs, prot uint64) error {
	r := regs
	r.Rip, r.Rax, r.Orig_rax = tr.Gate, unix.SYS_MPROTECT, ^uint64(0)
	r.Rdi, r.Rsi, r.Rdx = tr.Base, uint64(len(tr.memory)), prot
	if err := unix.PtraceSetRegs(tr.tid, &r); err != nil {
		return err
	}
	if err := unix.PtraceCont(tr.tid, 0); err != nil {
		return err
	}
	ws, err := tr.wait()
	if err == nil && ws.StopSignal() != unix.SIGTRAP {
		err = fmt.Errorf("mprotect ends with status %#x", uint32(ws))
	}
	if err == nil {
		err = unix.PtraceGetRegs(tr.tid, &r)
	}
	if err == nil && r.Rax != 0 {
		err = fmt.Errorf("mprotect: %w", syscall.Errno(-r.Rax))
	}
	if err != nil {
		return err
	}
	return unix.PtraceSetRegs(tr.tid, &regs)
}

// call looks at a system call, as it begins and as it ends. There is one by which the
// device itself changes memory: it gives a ring back. A kernel that refuses that of
// memory which cannot be written has it done here.
func (tr *tracer) call() error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tr.tid, &regs); err != nil {
		return err
	}
	at, result := regs.Rdi-tr.Base, syscall.Errno(-regs.Rax)
	ends := result == 0 || result == unix.EACCES
	if regs.Orig_rax != unix.SYS_MADVISE || regs.Rdx != unix.MADV_REMOVE || at >= uint64(len(tr.memory)) || !ends || tr.at < 0 {
		return nil
	}
	tr.script[tr.at] = append(tr.script[tr.at], store{at: int(at), hole: int(regs.Rsi)})
	if result == 0 {
		return nil
	}
	if err := unix.Madvise(tr.memory[at:][:regs.Rsi], unix.MADV_REMOVE); err != nil {
		return err
	}
	regs.Rax = 0
	return unix.PtraceSetRegs(tr.tid, &regs)
}

// recorded is what this process is to play, and whether it is one that is recorded.
func recorded() (what []int, ok bool) {
	for _, s := range strings.Fields(strings.Trim(os.Getenv(recordEnv), "[]")) {
		n, _ := strconv.Atoi(s)
		what = append(what, n)
	}
	return what, what != nil
}
