package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// portion is how much is put into a queue at a time: tcp_send_rcvq takes
// sixteen pages at once.
const portion = 64 << 10

func (r *Rebuild) fillReceive(fd int) error {
	if err := setTCP(fd, unix.TCP_REPAIR_QUEUE, receiveQueue); err != nil {
		return err
	}
	return r.fill(fd, r.Unread, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE)
}

func (r *Rebuild) fillSend(fd int) error {
	if err := setTCP(fd, unix.TCP_REPAIR_QUEUE, sendQueue); err != nil {
		return err
	}
	return r.fill(fd, r.Sent, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE)
}

// mostBuffer bounds what a buffer is raised to, in octets.
const mostBuffer = 1 << 30

// fill sends all on a socket, and raises the buffer, which is read and set by
// these two options, whenever it is full.
func (r *Rebuild) fill(fd int, pieces [][]byte, size, force int) error {
	for _, p := range pieces {
		for len(p) > 0 {
			n, err := unix.SendmsgN(fd, p[:min(len(p), portion)], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			switch {
			case err == nil:
				p = p[n:]
			case full(err):
				err = r.raise(fd, size, force)
			case errors.Is(err, unix.EINTR):
				err = nil
			}
			if err != nil {
				return fmt.Errorf("%d octets are left of a piece: %w", len(p), err)
			}
		}
	}
	return nil
}

// full: the send buffer says EAGAIN, the receive buffer ENOBUFS or ENOMEM
// (tcp_send_rcvq).
func full(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM)
}

// raise doubles a buffer: the kernel sets it to twice the number given
// (__sock_set_rcvbuf).
func (r *Rebuild) raise(fd, size, force int) error {
	now, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, size)
	if err != nil {
		return err
	}
	if now >= mostBuffer {
		return fmt.Errorf("%w with %d octets of buffer", unix.ENOBUFS, now)
	}
	r.raised = true
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, max(now, portion))
}

// Finish ends repair mode, sends what is unsent, says the program's FIN if it
// was said, and gives the buffers their sizes and tuning back. When the peer is
// behind the socket, and no device, probe asks the peer how far it is: without
// that, what was sent waits for a timer of a second or more. With a device that
// knows, probe is false, and not a segment goes out but what is unsent.
//
// After an error that is Lost, the connection is reset, since octets of it are
// missing; after another it goes on with an option that is not as it was.
func Finish(fd int, r *Rebuild, probe bool) error {
	off := unix.TCP_REPAIR_OFF_NO_WP
	if probe {
		off = unix.TCP_REPAIR_OFF
	}
	var errs []error
	for _, step := range []struct {
		name  string
		vital bool
		do    func() error
	}{
		{"end TCP_REPAIR", true, func() error { return setTCP(fd, unix.TCP_REPAIR, off) }},
		{"SO_REUSEADDR", false, func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, r.reuse) }},
		{"send what is unsent", true, func() error { return r.fill(fd, r.Unsent, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE) }},
		{"TCP_NOTSENT_LOWAT", false, func() error { return setTCP(fd, unix.TCP_NOTSENT_LOWAT, r.NotSentLowat) }},
		{"shutdown", true, func() error { return r.shutdown(fd) }},
		{"buffer sizes", false, func() error { return r.settle(fd) }},
	} {
		switch err := step.do(); {
		case err != nil && step.vital:
			return &RebuildError{step.name, true, errors.Join(err, disconnect(fd))}
		case err != nil:
			errs = append(errs, &RebuildError{Step: step.name, Err: err})
		}
	}
	return errors.Join(errs...)
}

func (r *Rebuild) shutdown(fd int) error {
	switch {
	case r.ShutRead && r.ShutWrite:
		return unix.Shutdown(fd, unix.SHUT_RDWR)
	case r.ShutRead:
		return unix.Shutdown(fd, unix.SHUT_RD)
	case r.ShutWrite:
		return unix.Shutdown(fd, unix.SHUT_WR)
	}
	return nil
}

// settle gives the buffers back. One that the kernel tunes keeps room for what
// the peer was promised beside what is unread, or the peer's octets would be
// thrown away.
func (r *Rebuild) settle(fd int) error {
	if !r.raised {
		return nil
	}
	rcv := r.rcvBuf
	if r.bufLock&lockReceive == 0 {
		const share = 2 // a window is half its buffer, before anything is measured (TCP_DEFAULT_SCALING_RATIO)
		rcv = max(rcv, share*(total(r.Unread)+int(r.RcvWnd)))
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, r.sndBuf/2),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rcv/2),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, r.bufLock))
}

// Bits of SO_BUF_LOCK: SOCK_SNDBUF_LOCK and SOCK_RCVBUF_LOCK.
const (
	lockSend    = 1
	lockReceive = 2
)
