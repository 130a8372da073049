package device

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/frame"
)

// A Channel is the socket by which octets of a bypassed connection cross: what is
// given to it the program reads, and what the program sends is taken from it.
// Neither call waits: unix.EAGAIN says that there is nothing, or no room.
type Channel interface {
	// Watch has the device told of octets to take: Ready, when some have come.
	Watch(id abi.HWID) error
	// Take fills a, then b, and returns how many octets there were.
	Take(a, b []byte) (int, error)
	// Give returns how many octets of the pieces were taken.
	Give(pieces []frame.Span) (int, error)
	Close()
}

// maxGiven is the most pieces that are given at once.
const maxGiven = 64

// A socketChannel is a Channel that is a socket. Its system calls do not go by Go's
// poller, since the loop waits for it.
type socketChannel struct {
	fd int
	*waiting
}

// waiting is what all channels of a loop share.
type waiting struct {
	epoll  int
	iovecs [maxGiven]unix.Iovec
	header unix.Msghdr
}

func (w *waiting) message(n int) *unix.Msghdr {
	w.header = unix.Msghdr{Iov: &w.iovecs[0]}
	w.header.SetIovlen(n)
	return &w.header
}

// Watch implements Channel. The event's data is the hardware id, which has a
// generation, where those of other descriptors have none.
func (s *socketChannel) Watch(id abi.HWID) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(id.Index()), Pad: int32(id.Generation())}
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, s.fd, &ev)
}

// watched is the hardware id of an event, 0 when it is of no channel.
func watched(ev *unix.EpollEvent) abi.HWID {
	if ev.Pad == 0 {
		return 0
	}
	return abi.MakeHWID(uint32(ev.Fd), uint32(ev.Pad))
}

// Take implements Channel.
func (s *socketChannel) Take(a, b []byte) (int, error) {
	n := 0
	for _, part := range [2][]byte{a, b} {
		if len(part) > 0 {
			s.iovecs[n].Base = &part[0]
			s.iovecs[n].SetLen(len(part))
			n++
		}
	}
	return s.call(unix.SYS_RECVMSG, n)
}

// Give implements Channel.
func (s *socketChannel) Give(pieces []frame.Span) (int, error) {
	pieces = pieces[:min(len(pieces), maxGiven)]
	for i, p := range pieces {
		s.iovecs[i].Base = &p.Buf.B[p.Off]
		s.iovecs[i].SetLen(int(p.Len))
	}
	return s.call(unix.SYS_SENDMSG, len(pieces))
}

func (s *socketChannel) call(number uintptr, n int) (int, error) {
	done, _, errno := unix.RawSyscall(number, uintptr(s.fd), uintptr(unsafe.Pointer(s.message(n))), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if errno != 0 {
		return 0, errno
	}
	return int(done), nil
}

// Close implements Channel. Others have the socket too, so that it would not leave
// the epoll by itself.
func (s *socketChannel) Close() {
	unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, s.fd, nil)
	unix.Close(s.fd)
}
