package driver

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/handover"
)

// An operation on a program that cannot be frozen takes nothing, and closes no
// descriptor: not the one with number 0 either, which may be anybody's.
func TestOperationOnATracedProgram(t *testing.T) {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := os.NewFile(uintptr(socket), "S")
	var st unix.Stat_t
	if err := unix.Fstat(socket, &st); err != nil {
		t.Fatal(err)
	}
	program := exec.Command("sleep", "60")
	program.ExtraFiles = []*os.File{s}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	defer program.Wait()
	defer program.Process.Kill()
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(program.Process.Pid), 0, 0, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	open := func() (fds []string) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries[:len(entries)-1] { // the last is the directory's
			fds = append(fds, e.Name())
		}
		return fds
	}
	p := newPatient(&channel{id: 7, fd: -1, inode: st.Ino, thawed: make(chan struct{})})
	var ends []handover.Rebuilt
	o := &operation{log: slog.New(slog.DiscardHandler), patients: []*patient{p}, rebuilt: func(e []handover.Rebuilt) { ends = e }}
	if err := findOwners([]*channel{{inode: st.Ino}}); err != nil { // what that opens stays open
		t.Fatal(err)
	}
	before := open()
	o.run()
	if after := open(); len(after) != len(before) {
		t.Errorf("open before %v, after %v", before, after)
	}
	if _, err := unix.FcntlInt(0, unix.F_GETFD, 0); errors.Is(err, unix.EBADF) {
		t.Error("descriptor 0 is closed")
	}
	if len(ends) != 1 || ends[0].HWID != 7 || ends[0].Lost || ends[0].Reason != abi.Traced {
		t.Errorf("ends: %+v", ends)
	}
}
