package freeze

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const supported = true

// What the kernel's own calls return to have themselves made again, from
// <linux/errno.h>. Programs never see these: arch_do_signal_or_restart acts on
// them when the thread goes on, after it has looked for signals.
const (
	restartSys    = 512 // ERESTARTSYS: EINTR if a handler without SA_RESTART is run
	restartNoHand = 514 // ERESTARTNOHAND: EINTR if a handler is run
)

// Code segment of 32-bit programs (__USER32_CS), whose calls have other numbers.
const user32 = 0x23

// putBack sees to it that a stopped thread makes again a call that its stop has
// cut short. Most calls do by themselves. The others get the return value of those
// that do, so that it is the kernel that decides, at the very end: if the thread
// is given a signal with a handler meanwhile, the program sees what it would have.
func putBack(pid, tid int) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	again := restartCode(&regs, func(fd int) bool { return blockingSocket(pid, tid, fd) })
	if again == 0 {
		return nil
	}
	regs.Rax = uint64(-int64(again))
	return unix.PtraceSetRegs(tid, &regs)
}

// restartCode is the return value to give a call instead of its own, 0 for none.
func restartCode(regs *unix.PtraceRegs, blocking func(fd int) bool) int {
	if int64(regs.Orig_rax) < 0 { // not in a call, or a handler has returned
		return 0
	}
	switch int64(regs.Rax) {
	case -int64(unix.EINTR):
		if !closes(regs) {
			return restartNoHand
		}
	case -int64(unix.EAGAIN):
		// A blocking read of a socket in a sockmap, tcp_bpf_recvmsg.
		if waits(regs) && blocking(int(int32(regs.Rdi))) {
			return restartSys
		}
	}
	return 0
}

// closes: the descriptor is gone though the call was cut short, and may be
// another file's by now.
func closes(regs *unix.PtraceRegs) bool {
	if regs.Cs == user32 {
		return regs.Orig_rax == 6
	}
	return regs.Orig_rax == unix.SYS_CLOSE || regs.Orig_rax == unix.SYS_CLOSE_RANGE
}

// waits: a read that was not told to return at once.
func waits(regs *unix.PtraceRegs) bool {
	if regs.Cs == user32 {
		return false
	}
	switch regs.Orig_rax {
	case unix.SYS_READ, unix.SYS_READV:
		return true
	case unix.SYS_RECVFROM, unix.SYS_RECVMMSG:
		return regs.R10&unix.MSG_DONTWAIT == 0
	case unix.SYS_RECVMSG:
		return regs.Rdx&unix.MSG_DONTWAIT == 0
	}
	return false
}

func blockingSocket(pid, tid, fd int) bool {
	task := fmt.Sprintf("/proc/%d/task/%d", pid, tid)
	name, err := os.Readlink(fmt.Sprintf("%s/fd/%d", task, fd))
	if err != nil || !strings.HasPrefix(name, "socket:") {
		return false
	}
	text, err := os.ReadFile(fmt.Sprintf("%s/fdinfo/%d", task, fd))
	flags, ok := openFlags(string(text))
	return err == nil && ok && flags&unix.O_NONBLOCK == 0
}

// openFlags finds what F_GETFL would say in a file of /proc/PID/fdinfo.
func openFlags(text string) (flags uint64, ok bool) {
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, "flags:"); found {
			flags, err := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			return flags, err == nil
		}
	}
	return 0, false
}
