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
	defer func() { err = errors.Join(err, os.NewSyscallError("close", unix.Close(fd))) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Ino != inode || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("descriptor %d of process %d is not of that socket any more", o.FD, o.PID)
	}
	return use(fd)
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
