package bench

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls without Go's scheduler being told, for threads that are alone:
// so a measured program costs what one in C does.

// rawIO is read or write.
func rawIO(call uintptr, fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

// epollWait waits as long as the timeout says; nil: without end.
func epollWait(epoll int, events []unix.EpollEvent, timeout *time.Duration) (int, error) {
	var at *unix.Timespec
	if timeout != nil {
		ts := unix.NsecToTimespec(max(int64(*timeout), 0))
		at = &ts
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(unsafe.Pointer(at)), 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
