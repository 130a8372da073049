package programs

import (
	"hash"
	"io"

	"golang.org/x/sys/unix"
)

// A level waits for one descriptor by level-triggered epoll.
type level struct{ epoll int }

func newLevel(fd int, events uint32) (*level, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	event := unix.EpollEvent{Events: events, Fd: int32(fd)}
	return &level{epoll}, unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &event)
}

// until repeats a call until it need not wait.
func (l *level) until(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EAGAIN {
			return n, err
		}
		var events [1]unix.EpollEvent
		if _, err := retry(func() (int, error) { return unix.EpollWait(l.epoll, events[:], edgeTimeout) }); err != nil {
			return 0, err
		}
	}
}

func (l *level) close() { unix.Close(l.epoll) }

// receiveLevel waits before it reads, and reads as much as is there into several
// buffers.
func receiveLevel(fd int, n int64, into hash.Hash) error {
	l, err := newLevel(fd, unix.EPOLLIN)
	if err != nil {
		return err
	}
	defer l.close()
	return receiveEach(n, into, 90000, func(b []byte) (int, error) {
		cut := len(b) / 3
		return l.until(func() (int, error) {
			got, _, _, _, err := unix.RecvmsgBuffers(fd, [][]byte{b[:cut], b[cut:]}, nil, 0)
			return got, err
		})
	})
}

// sendLevel writes several buffers at once.
func sendLevel(fd int, n int64, from io.Reader) error {
	l, err := newLevel(fd, unix.EPOLLOUT)
	if err != nil {
		return err
	}
	defer l.close()
	return sendEach(n, from, 100000, func(b []byte) (int, error) {
		cut := len(b) / 3
		return l.until(func() (int, error) { return unix.Writev(fd, [][]byte{b[:cut], b[cut:]}) })
	})
}

// receivePeekLevel looks at what is there before it takes it, and asks how much
// there is.
func receivePeekLevel(fd int, n int64, into hash.Hash) error {
	l, err := newLevel(fd, unix.EPOLLIN)
	if err != nil {
		return err
	}
	defer l.close()
	seen := make([]byte, 5000)
	return receiveEach(n, into, 60000, func(b []byte) (int, error) {
		peeked, err := l.until(func() (int, error) {
			got, _, err := unix.Recvfrom(fd, seen[:min(len(seen), len(b))], unix.MSG_PEEK)
			return got, err
		})
		if err != nil || peeked == 0 {
			return peeked, err
		}
		return l.until(func() (int, error) {
			got, err := unix.Read(fd, b)
			if err == nil && (got < peeked || string(seen[:peeked]) != string(b[:peeked])) {
				return got, errPeek
			}
			return got, err
		})
	})
}

// sendFileLevel has the kernel read a file into the socket, as web servers do.
func sendFileLevel(fd int, n int64, from io.Reader) error {
	l, err := newLevel(fd, unix.EPOLLOUT)
	if err != nil {
		return err
	}
	defer l.close()
	return sendFileBy(fd, n, from, l.until)
}
