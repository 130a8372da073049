package bench

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// echoName is the first argument of the plainest server there is: one thread,
// an epoll, non-blocking sockets, read and write.
const echoName = "bench-echo"

// serveEcho sends back what it gets, until it is killed. The arguments are the
// address, IPv4, to listen on.
func serveEcho(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("where to listen?")
	}
	at, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	os.WriteFile("/proc/self/comm", []byte(echoName), 0)
	runtime.LockOSThread()
	e := echoes{waiting: map[int][]byte{}, room: make([]byte, 64<<10)}
	if err := e.listen(at); err != nil {
		return err
	}
	return e.loop()
}

type echoes struct {
	epoll, listener int
	waiting         map[int][]byte // of connections that do not take more now
	room            []byte
}

func (e *echoes) listen(at netip.AddrPort) (err error) {
	e.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(e.listener, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		return err
	}
	if err := unix.Listen(e.listener, 1024); err != nil {
		return err
	}
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	return e.watch(unix.EPOLL_CTL_ADD, e.listener, unix.EPOLLIN)
}

func (e *echoes) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(e.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (e *echoes) loop() error {
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := epollWait(e.epoll, events, nil)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, ev := range events[:max(n, 0)] {
			switch fd := int(ev.Fd); {
			case fd == e.listener:
				err = e.accept()
			case len(e.waiting[fd]) > 0:
				err = e.write(fd, e.waiting[fd])
			default:
				err = e.read(fd)
			}
			if err != nil && err != unix.EINTR {
				return err
			}
		}
	}
}

func (e *echoes) accept() error {
	fd, _, err := unix.Accept4(e.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err == unix.EAGAIN || err == unix.ECONNABORTED {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	return e.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
}

func (e *echoes) read(fd int) error {
	n, err := rawIO(unix.SYS_READ, fd, e.room)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return nil
	case err != nil || n == 0:
		delete(e.waiting, fd)
		return unix.Close(fd)
	}
	return e.write(fd, e.room[:n])
}

// write writes what a connection takes and keeps the rest.
func (e *echoes) write(fd int, b []byte) error {
	n, err := rawIO(unix.SYS_WRITE, fd, b)
	if err != nil && err != unix.EAGAIN && err != unix.EINTR {
		delete(e.waiting, fd)
		return unix.Close(fd)
	}
	had := len(e.waiting[fd]) > 0
	rest := b[max(n, 0):]
	switch {
	case len(rest) == 0 && had:
		delete(e.waiting, fd)
		return e.watch(unix.EPOLL_CTL_MOD, fd, unix.EPOLLIN)
	case len(rest) == 0:
		return nil
	case had:
		e.waiting[fd] = rest
		return nil
	}
	e.waiting[fd] = append([]byte(nil), rest...)
	return e.watch(unix.EPOLL_CTL_MOD, fd, unix.EPOLLOUT)
}
