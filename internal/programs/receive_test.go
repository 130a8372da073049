package programs

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// receiveBlocking reads what there is, and waits for more.
func receiveBlocking(fd int, n int64, into hash.Hash) error {
	return receiveEach(n, into, 70000, func(b []byte) (int, error) { return unix.Read(fd, b) })
}

// receiveEach calls read until n octets have come.
func receiveEach(n int64, into hash.Hash, size int, read func(b []byte) (int, error)) error {
	b := make([]byte, size)
	for n > 0 {
		got, err := retry(func() (int, error) { return read(b[:min(n, int64(size))]) })
		if err != nil {
			return err
		}
		if got <= 0 {
			return fmt.Errorf("the end came %d octets too soon", n)
		}
		into.Write(b[:got])
		n -= int64(got)
	}
	return nil
}

// receiveWaitAll asks for many octets at once and may not be given fewer.
func receiveWaitAll(fd int, n int64, into hash.Hash) error {
	return receiveEach(n, into, 300000, func(b []byte) (int, error) {
		got, _, err := unix.Recvfrom(fd, b, unix.MSG_WAITALL)
		if err == nil && got != len(b) {
			return got, fmt.Errorf("MSG_WAITALL for %d octets returned %d", len(b), got)
		}
		return got, err
	})
}

// receivePeek looks at octets before it takes them.
func receivePeek(fd int, n int64, into hash.Hash) error {
	seen := make([]byte, 5000)
	return receiveEach(n, into, 60000, func(b []byte) (int, error) {
		peeked, _, err := unix.Recvfrom(fd, seen[:min(len(seen), len(b))], unix.MSG_PEEK)
		if err != nil {
			return peeked, err
		}
		got, err := unix.Read(fd, b)
		if err == nil && (got < peeked || !bytes.Equal(seen[:peeked], b[:peeked])) {
			return got, fmt.Errorf("%d octets peeked are not the first of %d read", peeked, got)
		}
		return got, err
	})
}

var errPeek = errors.New("octets peeked are not the first of those read")

// receiveLowat wants to be woken for many octets only. The kernel wakes it for
// fewer when the window is nearly closed, so the mean is what counts.
func receiveLowat(fd int, n int64, into hash.Hash) error {
	const lowat = 30000
	wakes, octets := 0, n
	err := receiveEach(n, into, 1<<20, func(b []byte) (int, error) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, min(lowat, len(b))); err != nil {
			return 0, err
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != nil {
			return 0, err
		}
		wakes++
		return unix.Read(fd, b)
	})
	if mean := octets / int64(max(wakes, 1)); err == nil && mean < lowat {
		err = fmt.Errorf("SO_RCVLOWAT of %d woke for %d octets in the mean", lowat, mean)
	}
	// Back to the default, or the end would not wake anybody.
	return firstError(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1))
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// receiveSplice moves pages to a pipe, as proxies do.
func receiveSplice(fd int, n int64, into hash.Hash) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	return receiveEach(n, into, 60000, func(b []byte) (int, error) {
		got, err := unix.Splice(fd, nil, int(w.Fd()), nil, len(b), unix.SPLICE_F_MOVE)
		if err != nil || got == 0 {
			return int(got), err
		}
		return io.ReadFull(r, b[:got])
	})
}

// receiveScattered reads into several buffers at once.
func receiveScattered(fd int, n int64, into hash.Hash) error {
	return receiveEach(n, into, 90000, func(b []byte) (int, error) {
		cut := len(b) / 3
		got, _, _, _, err := unix.RecvmsgBuffers(fd, [][]byte{b[:cut], b[cut : 2*cut], b[2*cut:]}, nil, 0)
		return got, err
	})
}

// receiveEpoll is edge-triggered: it reads until there is nothing, and an
// edge that does not come is a program that hangs.
func receiveEpoll(fd int, n int64, into hash.Hash) error {
	edge, err := newEdge(fd, unix.EPOLLIN|unix.EPOLLRDHUP)
	if err != nil {
		return err
	}
	defer edge.close()
	return receiveEach(n, into, 50000, func(b []byte) (int, error) {
		for {
			got, err := unix.Read(fd, b)
			if err != unix.EAGAIN {
				return got, err
			}
			if err := edge.wait(); err != nil {
				return 0, err
			}
		}
	})
}

// An edge waits for one descriptor by edge-triggered epoll.
type edge struct{ epoll int }

func newEdge(fd int, events uint32) (*edge, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	event := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)}
	return &edge{epoll}, unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &event)
}

// edgeTimeout bounds the wait for an edge, in ms.
const edgeTimeout = 20000

func (e *edge) wait() error {
	var events [1]unix.EpollEvent
	n, err := retry(func() (int, error) { return unix.EpollWait(e.epoll, events[:], edgeTimeout) })
	if err == nil && n == 0 {
		err = fmt.Errorf("no edge came in %d ms", edgeTimeout)
	}
	return err
}

func (e *edge) close() { unix.Close(e.epoll) }

// receiveGo is Go's net package, and its poller.
func receiveGo(fd int, n int64, into hash.Hash) error {
	return withConn(fd, func(c net.Conn) error {
		_, err := io.CopyN(into, c, n)
		return err
	})
}

func withConn(fd int, f func(net.Conn) error) error {
	c, err := fileConn(fd)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(c)
}
