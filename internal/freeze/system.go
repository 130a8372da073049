package freeze

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ptrace(request, tid int, addr, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func sleep(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	unix.Nanosleep(&ts, nil) // a signal may shorten it: no matter
}

// sighting is what waitid says of a thread: siginfo_t of <asm-generic/siginfo.h>,
// with the fields that SIGCHLD has, at the offsets of 64-bit processors.
type sighting struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

// CLD_ values of si_code.
const (
	cldExited  = 1
	cldKilled  = 2
	cldDumped  = 3
	cldTrapped = 4
	cldStopped = 5
)

func (s sighting) ended() bool {
	return s.pid != 0 && (s.code == cldExited || s.code == cldKilled || s.code == cldDumped)
}

func (s sighting) stopped() bool {
	return s.pid != 0 && (s.code == cldTrapped || s.code == cldStopped)
}

func (s sighting) signal() int { return int(s.status & 0x7f) }

// event is the ptrace event that the thread stopped for, 0 for a signal.
func (s sighting) event() int { return int(s.status >> 8 & 0xff) }

// lookAt asks what has become of a thread, without taking the answer away: a
// signal that it stopped with is then delivered even if the tracer dies (the
// kernel keeps it in exit_code, see ptrace_stop), and who ended stays to be
// waited for by its parent.
func lookAt(tid int) (sighting, error) {
	var s sighting
	const options = unix.WSTOPPED | unix.WEXITED | unix.WNOHANG | unix.WNOWAIT | unix.WALL
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(tid), uintptr(unsafe.Pointer(&s)), options, 0, 0)
		switch errno {
		case 0:
			return s, nil
		case unix.EINTR:
		default:
			return s, errno
		}
	}
}

// status is what /proc says of a thread; the zero value is of one that is gone.
type status struct {
	state  string // one letter, see proc(5)
	tracer int    // thread id, 0 for none
}

func (s status) ended() bool { return s.state == "" || s.state == "Z" || s.state == "X" }

func statusOf(tid int) (s status) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return s
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "State":
			fmt.Sscan(value, &s.state)
		case "TracerPid":
			fmt.Sscan(value, &s.tracer)
		}
	}
	return s
}
