package driver

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// A claim keeps other daemons off an uplink: a listening socket whose name is
// in the abstract namespace, which each network namespace has of its own and
// which ends with the process.
type claim int

// claimUplink takes the uplink for this process. The error for one that is
// taken names the holder.
func claimUplink(name string, ifindex int) (claim, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("uplink %s: %w", name, err)
	}
	at := &unix.SockaddrUnix{Name: claimName(ifindex)}
	if err = unix.Bind(fd, at); err == nil {
		// Listening is what gives a peer our pid.
		err = unix.Listen(fd, 1)
	}
	if err == nil {
		return claim(fd), nil
	}
	unix.Close(fd)
	if errors.Is(err, unix.EADDRINUSE) {
		return -1, fmt.Errorf("uplink %s is served already by %s", name, holder(at))
	}
	return -1, fmt.Errorf("uplink %s: %w", name, err)
}

func claimName(ifindex int) string { return fmt.Sprintf("@toehold/uplink/%d", ifindex) }

// holder names the process that listens on a claim.
func holder(at *unix.SockaddrUnix) string {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return "another process"
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, at); err != nil {
		return "another process"
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Pid == 0 {
		return "a process of another pid namespace"
	}
	return strings.TrimSpace(fmt.Sprintf("process %d", cred.Pid))
}

func (c claim) release() {
	if c >= 0 {
		unix.Close(int(c))
	}
}
