package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/confine"
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/port"
	"toehold/internal/shm"
)

// A Config is what the device process is started with. The descriptors are
// inherited from the driver.
type Config struct {
	Socket         int // SOCK_SEQPACKET, to the driver
	Uplink         int // AF_PACKET socket on the uplink
	HostPort       int // TAP
	Control        int // BPF array of one abi.Control
	Pulse          int // BPF array of one abi.Pulse
	Blocks         int // BPF array of MaxConnections abi.Blocks
	Rings          int // memfd of a ring for each of them; 0 or less: nothing is bypassed
	LinkHeader     int // octets of the uplink's link header: 14 or 0
	MaxConnections int
	Memory         int64 // octets of buffers
	Generations    abi.Generations
	Returns        abi.Returns
	Capability     admission.Capability
	MTUProbing     bool // look for the path's MTU when large segments vanish
	Confined       bool // the process is this device's alone, and keeps only what that needs
	Log            *slog.Logger
}

// ErrFenced ends a device that was shut off while it did not answer: its
// connections are the kernel's again.
var ErrFenced = errors.New("the device has been fenced off")

// heartbeat is the longest time between two signs of life.
const heartbeat = 5 * time.Millisecond

// Run is the device process: it serves until the driver says quit or goes
// away, or ctx ends.
func Run(ctx context.Context, c Config) error {
	runtime.LockOSThread()
	hurry(c.Log)
	l, err := newLoop(c)
	if err != nil {
		return err
	}
	defer l.close()
	if err := c.confine(); err != nil {
		return fmt.Errorf("confine the device: %w", err)
	}
	l.now = mono.Now()
	l.publishLoad() // what stands there is of the device before
	l.device.Greet(os.Getpid())
	for ctx.Err() == nil {
		if more, err := l.turn(); err != nil || !more {
			return err
		}
	}
	return nil
}

// spareFiles are descriptors beside the channels: those inherited, those of Go's
// runtime, and what comes with one message.
const spareFiles = 512

// confine comes after all has been opened, and before the driver's first word.
func (c *Config) confine() error {
	if !c.Confined {
		return nil
	}
	_, _ = time.Now().Zone() // reads the time zone, for the log
	for _, fd := range []int{c.Control, c.Pulse, c.Blocks, c.Rings} {
		if fd > 0 {
			unix.Close(fd) // it is mapped
		}
	}
	return confine.Enter(uint64(c.MaxConnections + spareFiles))
}

// niceness is the loop's. The device stands for a card with processors of its
// own: every connection on it waits while it waits for one.
const niceness = -20

// hurry raises the priority of the calling thread. Without the privilege the
// device is only slower.
func hurry(log *slog.Logger) {
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), niceness); err != nil {
		log.Warn("the device runs at ordinary priority", "err", err)
	}
}

// A loop is the one place of the device that waits.
type loop struct {
	device  *Device
	control *abi.Control
	pulse   *abi.Pulse
	blocks  []abi.Block
	ports   [2]port.Port
	tap     *port.TAP // the second of them
	socket  int
	epoll   int
	writing [2]bool // what the port waits to be writable
	events  [64]unix.EpollEvent
	message []byte
	oob     []byte // of the message
	waiting waiting
	now     mono.Time // when the turn began
	meter   meter
	trusted bool // has been seen without a fence
}

func newLoop(c Config) (*loop, error) {
	l := &loop{socket: c.Socket, epoll: -1, message: make([]byte, abi.MaxMessage), oob: make([]byte, unix.CmsgSpace(4*abi.MaxJoins))}
	if err := l.open(c); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *loop) open(c Config) error {
	var err error
	if l.control, err = shm.WatchControl(c.Control); err != nil {
		return err
	}
	if l.pulse, err = shm.MapPulse(c.Pulse); err != nil {
		return err
	}
	if l.blocks, err = shm.MapBlocks(c.Blocks, c.MaxConnections); err != nil {
		return err
	}
	var rings []byte
	if c.Rings > 0 {
		if rings, err = shm.MapRings(c.Rings, c.MaxConnections); err != nil {
			return err
		}
	}
	pool := frame.NewPool(int(c.Memory))
	uplink, err := port.NewPacket(c.Uplink, pool)
	if err != nil {
		return fmt.Errorf("uplink port: %w", err)
	}
	host, err := port.NewTAP(c.HostPort, pool)
	if err != nil {
		return fmt.Errorf("host port: %w", err)
	}
	l.ports, l.tap = [2]port.Port{uplink, host}, host
	now := mono.Now()
	l.meter.begin(now)
	l.device = New(now, Parts{
		Log: c.Log, Pool: pool, Uplink: uplink, Host: host, LinkHeader: c.LinkHeader,
		Control: l.control, Blocks: l.blocks, Rings: rings, Send: l.send, Clock: mono.Now, Generations: c.Generations, MTUProbing: c.MTUProbing, Returns: c.Returns,
		Capability: c.Capability,
	})
	return l.watch()
}

func (l *loop) watch() error {
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	l.waiting.epoll = l.epoll
	for _, fd := range []int{l.socket, l.ports[0].FD(), l.ports[1].FD()} {
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) close() {
	if l.epoll >= 0 {
		unix.Close(l.epoll)
	}
	for _, p := range l.ports {
		if p != nil {
			p.Close()
		}
	}
}

// turn is one round: messages, frames, timers; then it waits if there was
// nothing to do.
func (l *loop) turn() (bool, error) {
	now := mono.Now()
	l.now = now
	if l.meter.turn(now) {
		l.device.gauge(now, l.meter.share)
		l.publishLoad()
	}
	atomic.StoreUint64(&l.pulse.Heartbeat, uint64(now))
	if l.fenced() {
		return false, ErrFenced
	}
	busy, err := l.device.Turn(now)
	if err != nil {
		return false, err
	}
	if busy || l.device.Busy() {
		return l.wait(0)
	}
	return l.wait(l.device.wheel.next(now, heartbeat).Sub(now))
}

// fenced reports that this device was shut off. A fence that stands from the
// start was for the one before it; the driver takes it down after the greeting.
func (l *loop) fenced() bool {
	if atomic.LoadUint32(&l.control.Fenced) == 0 {
		l.trusted = true
		return false
	}
	return l.trusted
}

// wait sleeps until a port, the driver or the time calls, at most for d, and
// handles the driver's messages. It reports false when the device is to end.
func (l *loop) wait(d time.Duration) (bool, error) {
	l.watchBlocked()
	if d > 0 {
		l.meter.sleep(mono.Now())
	}
	n, err := epollWait(l.epoll, l.events[:], d)
	if err == unix.EINTR {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("epoll: %w", err)
	}
	more := true
	for i := range l.events[:n] {
		ev := &l.events[i]
		switch id := watched(ev); {
		case id != 0:
			l.device.Ready(l.now, id)
		case int(ev.Fd) == l.socket:
			if more, err = l.hear(); err != nil {
				return false, err
			}
		}
	}
	return more, nil
}

// epollWait is epoll_wait with a timeout finer than a millisecond
// (epoll_pwait2(2), Linux 5.11).
func epollWait(fd int, events []unix.EpollEvent, d time.Duration) (int, error) {
	timeout := unix.NsecToTimespec(int64(d))
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(fd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(unsafe.Pointer(&timeout)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// watchBlocked asks to be woken when a port that was full can be written.
func (l *loop) watchBlocked() {
	uplink, host := l.device.Blocked()
	for i, blocked := range [2]bool{uplink, host} {
		if blocked == l.writing[i] {
			continue
		}
		l.writing[i] = blocked
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(l.ports[i].FD())}
		if blocked {
			ev.Events |= unix.EPOLLOUT
		}
		if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, l.ports[i].FD(), &ev); err != nil {
			l.device.log.Error("a port cannot be waited for", "err", err)
		}
	}
}

// hear handles all messages that wait, at the time at which the turn began.
func (l *loop) hear() (bool, error) {
	for {
		n, oobn, _, _, err := unix.Recvmsg(l.socket, l.message, l.oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			return true, nil
		case err != nil:
			return false, fmt.Errorf("read from the driver: %w", err)
		case n == 0: // the driver is gone, and with it the steering
			return false, nil
		}
		if !l.device.Handle(l.now, l.message[:n], l.channels(l.oob[:oobn])...) {
			return false, nil
		}
	}
}

// channels are those of the descriptors that came with a message.
func (l *loop) channels(oob []byte) (all []Channel) {
	if len(oob) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		l.device.log.Error("control message from the driver dropped", "err", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // of another kind
		}
		for _, fd := range fds {
			all = append(all, &socketChannel{fd, &l.waiting})
		}
	}
	return all
}

// sendTries is for how long a message is tried to be sent, in ms: less than
// a heartbeat may be late.
const sendTries = 50

// send gives a message to the driver. The driver reads at all times; one that
// does not for a while is as good as gone, and connections cannot wait for it.
func (l *loop) send(msg []byte) {
	for range sendTries {
		err := unix.Send(l.socket, msg, unix.MSG_NOSIGNAL)
		if err == nil {
			return
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			l.device.log.Error("message to the driver lost", "err", err)
			return
		}
		pfd := []unix.PollFd{{Fd: int32(l.socket), Events: unix.POLLOUT}}
		unix.Poll(pfd, 1) // ms
	}
	l.device.log.Error("message to the driver lost: its socket stays full")
}
