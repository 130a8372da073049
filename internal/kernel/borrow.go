package kernel

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Borrow calls use with a descriptor of a socket that the owner has (FindOwners),
// taken by pidfd_getfd(2). It is closed afterwards, and soon: as long
// as it is open, the program's own close does not end the connection. It is an
// error when the owner has ended or has another file there now.
func Borrow(o Owner, inode uint64, use func(fd int) error) (err error) {
	fd, err := take(o)
	if err != nil {
		return fmt.Errorf("descriptor %d of process %d: %w", o.FD, o.PID, err)
	}
	defer func() { err = errors.Join(err, GiveBack(fd)) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Ino != inode || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("descriptor %d of process %d is not of that socket any more", o.FD, o.PID)
	}
	return use(fd)
}

// Take is Borrow for who keeps the descriptor for longer, and calls GiveBack.
func Take(o Owner, inode uint64) (int, error) {
	fd, err := take(o)
	if err != nil {
		return -1, fmt.Errorf("descriptor %d of process %d: %w", o.FD, o.PID, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != inode || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		unix.Close(fd)
		return -1, fmt.Errorf("descriptor %d of process %d is not of that socket any more", o.FD, o.PID)
	}
	return fd, nil
}

func take(o Owner) (int, error) {
	p, err := unix.PidfdOpen(o.PID, 0)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(p)
	fd, err := unix.PidfdGetfd(p, o.FD, 0)
	return fd, os.NewSyscallError("pidfd_getfd", err)
}

// GiveBack closes a descriptor of a program's socket. When the program has closed its
// own meanwhile, or was killed, and its socket lingers (SO_LINGER), that takes as long
// as the program has set: nobody waits for it then.
func GiveBack(fd int) error {
	if l, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER); err == nil && l.Onoff != 0 && l.Linger > 0 {
		go unix.Close(fd)
		return nil
	}
	return os.NewSyscallError("close", unix.Close(fd))
}
