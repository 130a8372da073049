package freeze

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestRestartCode(t *testing.T) {
	eintr, eagain := -int64(unix.EINTR), -int64(unix.EAGAIN)
	const nonblocking = 7
	for _, c := range []struct {
		name string
		want int
		regs unix.PtraceRegs
		rax  int64
	}{
		{"epoll_wait", restartNoHand, unix.PtraceRegs{Orig_rax: unix.SYS_EPOLL_WAIT}, eintr},
		{"epoll_wait that returns an event", 0, unix.PtraceRegs{Orig_rax: unix.SYS_EPOLL_WAIT}, 1},
		{"one that the kernel makes again itself", 0, unix.PtraceRegs{Orig_rax: unix.SYS_READ}, -restartSys},
		{"inside a call that goes on", 0, unix.PtraceRegs{Orig_rax: unix.SYS_CLONE}, -int64(unix.ENOSYS)},
		{"not in a call", 0, unix.PtraceRegs{Orig_rax: ^uint64(0)}, eintr},
		{"close", 0, unix.PtraceRegs{Orig_rax: unix.SYS_CLOSE}, eintr},
		{"close of a 32-bit program", 0, unix.PtraceRegs{Orig_rax: 6, Cs: user32}, eintr},
		{"number 3 of a 32-bit program, read", restartNoHand, unix.PtraceRegs{Orig_rax: 3, Cs: user32}, eintr},
		{"read that was to wait", restartSys, unix.PtraceRegs{Orig_rax: unix.SYS_READ}, eagain},
		{"readv that was to wait", restartSys, unix.PtraceRegs{Orig_rax: unix.SYS_READV}, eagain},
		{"read of what does not block", 0, unix.PtraceRegs{Orig_rax: unix.SYS_READ, Rdi: nonblocking}, eagain},
		{"recvfrom", restartSys, unix.PtraceRegs{Orig_rax: unix.SYS_RECVFROM, R10: unix.MSG_PEEK}, eagain},
		{"recvfrom with MSG_DONTWAIT", 0, unix.PtraceRegs{Orig_rax: unix.SYS_RECVFROM, R10: unix.MSG_DONTWAIT}, eagain},
		{"recvmsg", restartSys, unix.PtraceRegs{Orig_rax: unix.SYS_RECVMSG}, eagain},
		{"recvmsg with MSG_DONTWAIT", 0, unix.PtraceRegs{Orig_rax: unix.SYS_RECVMSG, Rdx: unix.MSG_DONTWAIT}, eagain},
		{"recvmmsg with MSG_DONTWAIT", 0, unix.PtraceRegs{Orig_rax: unix.SYS_RECVMMSG, R10: unix.MSG_DONTWAIT}, eagain},
		{"semtimedop whose time is up", 0, unix.PtraceRegs{Orig_rax: unix.SYS_SEMTIMEDOP}, eagain},
		{"write", 0, unix.PtraceRegs{Orig_rax: unix.SYS_WRITE}, eagain},
	} {
		c.regs.Rax = uint64(c.rax)
		if got := restartCode(&c.regs, func(fd int) bool { return fd != nonblocking }); got != c.want {
			t.Errorf("%s: %d, not %d", c.name, got, c.want)
		}
	}
}

func TestOpenFlags(t *testing.T) {
	for text, want := range map[string]uint64{
		"pos:\t0\nflags:\t02004002\nmnt_id:\t9\n": unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_RDWR,
		"flags:\t02\n": unix.O_RDWR,
	} {
		if got, ok := openFlags(text); !ok || got != want {
			t.Errorf("%q: %o, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "flags:\n", "flags:\t9\n", "pos:\t0\n"} {
		if got, ok := openFlags(text); ok {
			t.Errorf("%q: %o", text, got)
		}
	}
}
