package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
)

// A Screen tells which sockets can be bypassed: whose programs would not see
// the difference, and could be frozen for the way home. It looks at each
// process once, so one Screen is for sockets that are asked for together. The
// zero Screen is ready to be used, by one goroutine.
type Screen struct {
	processes map[int]refusal
}

// A refusal is why something cannot be bypassed; reason None: it can.
type refusal struct {
	reason abi.Reason
	detail string
}

// Bypassable says why a socket, of which fd is a descriptor and owners are all
// (FindAllOwners), cannot be bypassed; None: it can.
func (s *Screen) Bypassable(fd int, owners []Owner) (reason abi.Reason, detail string) {
	if len(owners) == 0 {
		return abi.NoOwner, ""
	}
	for _, check := range []func(int) refusal{established, nonBlocking, plainReads, plainSends, noZeroCopy, plainQueue} {
		if r := check(fd); r.reason != abi.None {
			return r.reason, r.detail
		}
	}
	for _, o := range owners {
		if r := s.process(o.PID); r.reason != abi.None {
			return r.reason, r.detail
		}
	}
	return abi.None, ""
}

// unreadable is the refusal of what cannot be found out.
func unreadable(what string, err error) refusal {
	return refusal{abi.InternalError, fmt.Sprintf("%s: %v", what, err)}
}

func established(fd int) refusal {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return unreadable("TCP_INFO", err)
	}
	if info.State != unix.BPF_TCP_ESTABLISHED {
		return refusal{abi.NotEstablished, "one side has said FIN"}
	}
	return refusal{}
}

// nonBlocking looks at the file's status, which all descriptors of the socket
// that were duplicated share.
func nonBlocking(fd int) refusal {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return unreadable("F_GETFL", err)
	}
	if flags&unix.O_NONBLOCK == 0 {
		return refusal{abi.BlockingSocket, ""}
	}
	return refusal{}
}

// plainReads refuses what a sockmap's reads do not obey (tcp_bpf_recvmsg).
func plainReads(fd int) refusal {
	for _, o := range []struct {
		option, most int
		name         string
	}{{unix.SO_RCVLOWAT, 1, "SO_RCVLOWAT"}, {unix.SO_PEEK_OFF, -1, "SO_PEEK_OFF"}} {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.option)
		if err != nil {
			return unreadable(o.name, err)
		}
		if got > o.most {
			return refusal{abi.LowWaterMark, fmt.Sprintf("%s is %d", o.name, got)}
		}
	}
	return refusal{}
}

// plainSends refuses a limit of the program's own to what is unsent: most of that
// is not in the socket. 0 stands for the namespace's (tcp_notsent_lowat), which
// nobody counts on.
func plainSends(fd int) refusal {
	got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
	if err != nil {
		return unreadable("TCP_NOTSENT_LOWAT", err)
	}
	if got != 0 && got != -1 {
		return refusal{abi.LowWaterMark, fmt.Sprintf("TCP_NOTSENT_LOWAT is %d", uint32(got))}
	}
	return refusal{}
}

func noZeroCopy(fd int) refusal {
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY)
	if err != nil {
		return unreadable("SO_ZEROCOPY", err)
	}
	if on != 0 {
		return refusal{abi.ZeroCopy, ""}
	}
	return refusal{}
}

// plainQueue refuses what S's TCP alone does with its queue.
func plainQueue(fd int) refusal {
	for _, o := range []struct {
		level, option, mask int
		name                string
	}{
		{unix.IPPROTO_TCP, unix.TCP_CORK, -1, "TCP_CORK"}, {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, -1, "TCP_USER_TIMEOUT"},
		{unix.SOL_SOCKET, unix.SO_BUF_LOCK, lockSend, "SO_SNDBUF"},
	} {
		got, err := unix.GetsockoptInt(fd, o.level, o.option)
		if err != nil {
			return unreadable(o.name, err)
		}
		if got&o.mask != 0 {
			return refusal{abi.SocketOption, o.name + " is set"}
		}
	}
	return refusal{}
}

func (s *Screen) process(pid int) refusal {
	if r, ok := s.processes[pid]; ok {
		return r
	}
	if s.processes == nil {
		s.processes = make(map[int]refusal)
	}
	r := freezable(filepath.Join("/proc", strconv.Itoa(pid)), pid)
	s.processes[pid] = r
	return r
}

// freezable looks at what would keep a process from being stopped by ptrace,
// or let it go on while its threads stand still. Neither an io_uring whose
// descriptor was closed after the ring was registered shows, nor a tracer that
// comes later.
func freezable(proc string, pid int) refusal {
	tracer, err := tracerOf(filepath.Join(proc, "status"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return refusal{abi.NoOwner, fmt.Sprintf("process %d has ended", pid)}
	case err != nil:
		return unreadable("status of process "+strconv.Itoa(pid), err)
	case tracer != "0":
		return refusal{abi.Traced, fmt.Sprintf("process %d is traced by %s", pid, tracer)}
	}
	descriptors, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return unreadable("descriptors of process "+strconv.Itoa(pid), err)
	}
	for _, d := range descriptors {
		if to, err := os.Readlink(filepath.Join(proc, "fd", d.Name())); err == nil && to == "anon_inode:[io_uring]" {
			return refusal{abi.IOUring, fmt.Sprintf("process %d, descriptor %s", pid, d.Name())}
		}
	}
	return refusal{}
}

// tracerOf reads the field TracerPid.
func tracerOf(status string) (string, error) {
	text, err := os.ReadFile(status)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if tracer, ok := strings.CutPrefix(line, "TracerPid:"); ok {
			return strings.TrimSpace(tracer), nil
		}
	}
	return "", errors.New("it has no TracerPid")
}
