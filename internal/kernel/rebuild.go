package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/flow"
)

// A RebuildError says which step of a rebuild failed, and what that left.
type RebuildError struct {
	Step string
	Lost bool // the socket has no connection any more; false: it goes on with the one that it has
	Err  error
}

func (e *RebuildError) Error() string {
	after := "the socket keeps its connection"
	if e.Lost {
		after = "the socket has lost its connection"
	}
	return fmt.Sprintf("rebuild a socket: %s: %v (%s)", e.Step, e.Err, after)
}

func (e *RebuildError) Unwrap() error { return e.Err }

// Restore brings a socket whose program is frozen to the state of r, on the
// same descriptor: no epoll registration, descriptor number or owner changes.
// The calling thread is in the socket's network namespace. Nothing is sent; the
// socket is left in repair mode, in which it takes segments from the wire all
// the same, and sends again what was sent when a timer expires: Finish follows
// soon.
//
// After an error that is not Lost, TCP's queues are as they were, but octets
// that TakeUnread has taken are still the caller's. After one that is, the
// socket is closed, and if it had got so far, reset on both sides.
func Restore(fd int, r *Rebuild) error {
	if err := r.check(); err != nil {
		return &RebuildError{Step: "check what is to be restored", Err: err}
	}
	if err := r.reachable(); err != nil {
		return &RebuildError{Step: "find the route to the peer", Err: err}
	}
	clock, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_TIMESTAMP)
	if err == nil {
		err = setTCP(fd, unix.TCP_REPAIR, unix.TCP_REPAIR_ON)
	}
	if err != nil {
		return &RebuildError{Step: "TCP_REPAIR", Err: err}
	}
	if err := disconnect(fd); err != nil {
		return &RebuildError{Step: "connect(AF_UNSPEC)", Err: errors.Join(err, r.leave(fd))}
	}
	// No way back from here.
	for _, step := range []struct {
		name string
		do   func(int) error
	}{
		{"clear SO_ERROR", clearError},
		{"sequence numbers", r.number},
		{"TCP_MAXSEG", r.limit},
		{"bind", r.bind},
		{"connect", r.connect},
		{"TCP_REPAIR_OPTIONS", r.negotiate},
		{"TCP_TIMESTAMP", func(fd int) error { return r.stamp(fd, uint32(clock)) }},
		{"lift TCP_NOTSENT_LOWAT", func(fd int) error { return setTCP(fd, unix.TCP_NOTSENT_LOWAT, -1) }},
		{"receive queue", r.fillReceive},
		{"send queue", r.fillSend},
		{"TCP_REPAIR_WINDOW", r.window},
		{"options", r.putBack},
	} {
		if err := step.do(fd); err != nil {
			// Outside repair mode, this resets what has been connected.
			return &RebuildError{step.name, true, errors.Join(err, r.leave(fd), disconnect(fd))}
		}
	}
	return nil
}

// leave ends repair mode in silence.
func (r *Rebuild) leave(fd int) error {
	return errors.Join(setTCP(fd, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF_NO_WP),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, r.reuse))
}

func (r *Rebuild) check() error {
	switch {
	case r.family != unix.AF_INET && r.family != unix.AF_INET6:
		return fmt.Errorf("address family %d; Salvage describes a socket", r.family)
	case r.SndWnd > r.MaxWnd:
		return fmt.Errorf("SndWnd %d is above MaxWnd %d", r.SndWnd, r.MaxWnd)
	case int32(r.RcvWup-r.RcvNxt) > 0:
		return fmt.Errorf("RcvWup %d is after RcvNxt %d", r.RcvWup, r.RcvNxt)
	case int32(r.SndWL1-(r.RcvNxt+r.RcvWnd)) > 0:
		return fmt.Errorf("SndWL1 %d is after the receive window", r.SndWL1)
	case r.SndWscale > maxWscale || r.RcvWscale > maxWscale:
		return fmt.Errorf("window scales %d and %d", r.SndWscale, r.RcvWscale)
	}
	return nil
}

const maxWscale = 14 // RFC 7323, section 2.3

// reachable asks with another socket whether connect will find a route, from
// the same address: a socket whose program had bound it to a port alone takes
// its address from the route again.
func (r *Rebuild) reachable() error {
	fd, err := unix.Socket(r.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	foreign := foreignOptions[r.family]
	for _, o := range [...]struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, r.boundIf}, {unix.SOL_SOCKET, unix.SO_MARK, r.mark},
		{foreign[0].level, foreign[0].name, r.foreign[0]}, {foreign[1].level, foreign[1].name, r.foreign[1]},
	} {
		if o.value == 0 {
			continue
		}
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("socket option %d of level %d, %#x: %w", o.name, o.level, o.value, err)
		}
	}
	if err := unix.Bind(fd, r.address(netip.AddrPortFrom(r.Flow.Local.Addr(), 0))); err != nil {
		return fmt.Errorf("bind to %v: %w", r.Flow.Local.Addr(), err)
	}
	return unix.Connect(fd, r.address(r.Flow.Remote))
}

// Reachable says whether a socket could be rebuilt now: there is a route to its
// peer from its address.
func Reachable(fd int, id flow.ID) error {
	r := &Rebuild{Flow: id}
	if err := r.keepRoute(fd); err != nil {
		return err
	}
	return r.reachable()
}

// address is that of an end in the socket's own family.
func (r *Rebuild) address(a netip.AddrPort) unix.Sockaddr {
	if r.family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if a.Addr().IsLinkLocalUnicast() && a.Addr().Is6() {
		sa.ZoneId = uint32(r.boundIf)
	}
	return sa
}

// disconnect is connect(AF_UNSPEC), which says nothing to the peer in repair
// mode (tcp_disconnect).
func disconnect(fd int) error {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	if errno != 0 {
		return errno
	}
	return nil
}

// clearError reads the ECONNABORTED that the program is not to see.
func clearError(fd int) error {
	_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err
}

func (r *Rebuild) number(fd int) error {
	for queue, first := range map[int]uint32{receiveQueue: r.RcvNxt - uint32(total(r.Unread)), sendQueue: r.SndUna} {
		if err := setTCP(fd, unix.TCP_REPAIR_QUEUE, queue); err != nil {
			return err
		}
		if err := setTCP(fd, unix.TCP_QUEUE_SEQ, int(int32(first))); err != nil {
			return err
		}
	}
	return nil
}

func total(pieces [][]byte) (n int) {
	for _, p := range pieces {
		n += len(p)
	}
	return n
}

// limit has connect compute the size of segments from what the peer takes:
// TCP_REPAIR_OPTIONS alone comes too late for that.
func (r *Rebuild) limit(fd int) error {
	const least, most = 88, 32767 // TCP_MIN_MSS, MAX_TCP_WINDOW
	return setTCP(fd, unix.TCP_MAXSEG, int(min(max(r.MSS, least), most)))
}

// bind gives the socket its address and port back. EINVAL: it has its port
// still, since its program had bound it to one. SO_REUSEADDR, which TCP_REPAIR
// has set to more than a program can, makes it pass beside a listener.
func (r *Rebuild) bind(fd int) error {
	err := unix.Bind(fd, r.address(r.Flow.Local))
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

func (r *Rebuild) connect(fd int) error {
	if err := unix.Connect(fd, r.address(r.Flow.Remote)); err != nil {
		return err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	if got := addrPort(name); got != r.Flow.Local {
		return fmt.Errorf("its own address is %v now, not %v", got, r.Flow.Local)
	}
	return nil
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// negotiate says what was agreed on with SYNs. Without window scaling, scales
// of 0 are given: connect has chosen one of its own.
func (r *Rebuild) negotiate(fd int) error {
	type option struct{ kind, value uint32 }                 // struct tcp_repair_opt
	const mss, window, sackPermitted, timestamp = 2, 3, 4, 8 // TCPOPT_...
	options := []option{{mss, r.MSS}, {window, uint32(r.SndWscale) | uint32(r.RcvWscale)<<16}}
	if r.SACK {
		options = append(options, option{sackPermitted, 0})
	}
	if r.Timestamps {
		options = append(options, option{timestamp, 0})
	}
	return setOctets(fd, unix.TCP_REPAIR_OPTIONS, unsafe.Pointer(&options[0]), uintptr(len(options))*unsafe.Sizeof(options[0]))
}

// stamp sets the clock of timestamps when that which the socket has kept is
// behind TSVal or has another unit: the lowest bit tells microseconds, and
// connect takes the unit from the route (tcp_v4_connect). clock is what it was
// before.
func (r *Rebuild) stamp(fd int, clock uint32) error {
	v, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_TIMESTAMP)
	if err != nil {
		return err
	}
	now, unit := uint32(v), clock&1
	least := now
	if now&1 != unit {
		const spent = 2000 // units, more than the rebuild has taken so far
		least = clock + spent
	}
	if r.TSVal != 0 && int32(r.TSVal-least) > 0 {
		least = r.TSVal
	}
	if least == now {
		return nil
	}
	return setTCP(fd, unix.TCP_TIMESTAMP, int(int32((least+1)&^1|unit)))
}

// window sets both windows, and the limit up to which ours may grow now:
// lowering the clamp and lifting it again is what raises rcv_ssthresh to the
// window (tcp_set_window_clamp).
func (r *Rebuild) window(fd int) error {
	w := repairWindow{r.SndWL1, r.SndWnd, r.MaxWnd, r.RcvWnd, r.RcvWup}
	if err := setOctets(fd, unix.TCP_REPAIR_WINDOW, unsafe.Pointer(&w), unsafe.Sizeof(w)); err != nil {
		return err
	}
	if r.options[windowClamp] == 0 {
		return nil
	}
	return errors.Join(setTCP(fd, unix.TCP_WINDOW_CLAMP, 1), setTCP(fd, unix.TCP_WINDOW_CLAMP, r.options[windowClamp]))
}

// putBack sets the options that are not as they were. A control that the route
// has put in the place of the socket's own is taken away again.
func (r *Rebuild) putBack(fd int) error {
	for i, o := range lostOptions {
		if r.options[i] == absentOption {
			continue
		}
		if now, err := unix.GetsockoptInt(fd, o.level, o.name); err != nil || now == r.options[i] {
			continue
		}
		if err := unix.SetsockoptInt(fd, o.level, o.name, r.options[i]); err != nil {
			return fmt.Errorf("%s: %w", o.text, err)
		}
	}
	now, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil || now == r.congestion {
		return err
	}
	return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, r.congestion)
}
