package programs

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendBlocking writes, and is stopped by the kernel while its buffer is full.
func sendBlocking(fd int, n int64, from io.Reader) error {
	return sendEach(n, from, 200000, func(b []byte) (int, error) { return unix.Write(fd, b) })
}

// sendEach calls write until n octets have gone.
func sendEach(n int64, from io.Reader, size int, write func(b []byte) (int, error)) error {
	b := make([]byte, size)
	for n > 0 {
		piece := b[:min(n, int64(size))]
		if _, err := io.ReadFull(from, piece); err != nil {
			return err
		}
		n -= int64(len(piece))
		for len(piece) > 0 {
			sent, err := retry(func() (int, error) { return write(piece) })
			if err != nil {
				return err
			}
			piece = piece[sent:]
		}
	}
	return nil
}

// sendMore says of each odd piece that more will follow.
func sendMore(fd int, n int64, from io.Reader) error {
	turn := 0
	return sendEach(n, from, 7777, func(b []byte) (int, error) {
		turn++
		return unix.SendmsgN(fd, b, nil, nil, unix.MSG_MORE*(turn&1))
	})
}

// sendZeroCopy leaves its pages with the kernel until it is told that they
// are free; every send must be told of.
func sendZeroCopy(fd int, n int64, from io.Reader) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1); err != nil {
		return err
	}
	var sends uint32
	err := sendEach(n, from, 1<<20, func(b []byte) (int, error) {
		sent, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_ZEROCOPY)
		if err == nil {
			sends++
			err = awaitCompletion(fd, sends-1)
		}
		return sent, err
	})
	return err
}

// awaitCompletion waits until the kernel says that send number last is done.
func awaitCompletion(fd int, last uint32) error {
	control := make([]byte, 512)
	for {
		ready, err := retry(func() (int, error) { return unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, edgeTimeout) })
		if err != nil {
			return err
		}
		if ready == 0 {
			return fmt.Errorf("send %d by MSG_ZEROCOPY was never completed", last)
		}
		_, n, _, _, err := unix.Recvmsg(fd, nil, control, unix.MSG_ERRQUEUE)
		if err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return err
		}
		done, err := completed(control[:n])
		if err != nil || done == last {
			return err
		}
	}
}

// completed reads the highest number in a completion (struct
// sock_extended_err, ee_data).
func completed(control []byte) (uint32, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 {
		return 0, fmt.Errorf("%d messages in a completion: %w", len(messages), err)
	}
	data := messages[0].Data
	if len(data) < int(unsafe.Sizeof(unix.SockExtendedErr{})) {
		return 0, errors.New("a completion too short")
	}
	e := (*unix.SockExtendedErr)(unsafe.Pointer(&data[0]))
	if e.Origin != unix.SO_EE_ORIGIN_ZEROCOPY {
		return 0, fmt.Errorf("the error queue has %v from %d", unix.Errno(e.Errno), e.Origin)
	}
	return e.Data, nil
}

// sendSplice moves pages from a pipe into the socket.
func sendSplice(fd int, n int64, from io.Reader) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	return sendEach(n, from, 60000, func(b []byte) (int, error) {
		if _, err := w.Write(b); err != nil {
			return 0, err
		}
		for left := len(b); left > 0; {
			moved, err := unix.Splice(int(r.Fd()), nil, fd, nil, left, unix.SPLICE_F_MOVE)
			if err != nil && err != unix.EINTR {
				return 0, err
			}
			left -= int(max(moved, 0))
		}
		return len(b), nil
	})
}

// sendFile has the kernel read a file into the socket.
func sendFile(fd int, n int64, from io.Reader) error {
	return sendFileBy(fd, n, from, retry)
}

// sendFileBy repeats the call in a way of its caller.
func sendFileBy(fd int, n int64, from io.Reader, call func(func() (int, error)) (int, error)) error {
	f, err := os.CreateTemp("", "toehold-program-")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	if _, err := io.CopyN(f, from, n); err != nil {
		return err
	}
	for offset := int64(0); offset < n; {
		_, err := call(func() (int, error) { return unix.Sendfile(fd, int(f.Fd()), &offset, int(n-offset)) })
		if err != nil {
			return err
		}
	}
	return nil
}

// sendEpoll is edge-triggered: it writes until the kernel takes no more.
func sendEpoll(fd int, n int64, from io.Reader) error {
	edge, err := newEdge(fd, unix.EPOLLOUT)
	if err != nil {
		return err
	}
	defer edge.close()
	return sendEach(n, from, 100000, func(b []byte) (int, error) {
		for {
			sent, err := unix.Write(fd, b)
			if err != unix.EAGAIN {
				return sent, err
			}
			if err := edge.wait(); err != nil {
				return 0, err
			}
		}
	})
}

// sendGo is Go's net package, and its poller.
func sendGo(fd int, n int64, from io.Reader) error {
	return withConn(fd, func(c net.Conn) error {
		_, err := io.CopyN(struct{ io.Writer }{c}, from, n)
		return err
	})
}
