package port

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/wire"
)

const vnetLen = wire.VNetLen

// mmsghdr is struct mmsghdr of 64-bit Linux.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// The calls below never block, so they do not tell Go's scheduler: that
// would cost more than many of them do, and could move the loop to the end
// of a queue. The memory they point to is held by the port's own arrays.

func recvmmsg(fd int, m *mmsghdr, n int) (int, unix.Errno) {
	r, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(m)),
		uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	return int(r), e
}

func sendmmsg(fd int, m *mmsghdr, n int) (int, unix.Errno) {
	r, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(m)),
		uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	return int(r), e
}

func read(fd int, b []byte) (int, unix.Errno) {
	r, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(r), e
}

func writev(fd int, v *unix.Iovec, n int) (int, unix.Errno) {
	r, _, e := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(v)), uintptr(n))
	return int(r), e
}

// outcome is what an errno means for a port.
type outcome uint8

const (
	again   outcome = iota // interrupted: the same once more
	blocked                // nothing to read, no room to write
	refused                // this frame, and no other
	gone                   // the interface, or the descriptor
)

func sort(e unix.Errno) outcome {
	switch e {
	case unix.EINTR:
		return again
	case unix.EAGAIN:
		return blocked
	case unix.ENXIO, unix.ENODEV, unix.EBADFD, unix.EBADF, unix.ENOTSOCK:
		return gone
	}
	return refused
}

// goneError is ErrGone with what the kernel said.
func goneError(call string, e error) error {
	return fmt.Errorf("%s: %w: %w", call, ErrGone, e)
}

var errPool = errors.New("the buffer pool's limit is too low for a port")

// shiftVNet moves the offsets in the virtio_net_hdr at b by n octets of link
// header that came in front of what they point to.
func shiftVNet(b []byte, n uint16) {
	var v wire.VNet
	v.Get(b)
	if v.Flags&wire.NeedsCsum != 0 {
		v.CsumStart += n
	}
	if v.HdrLen != 0 {
		v.HdrLen += n
	}
	v.Put(b)
}

// octetsOf is the memory that v describes.
func octetsOf(v unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }
