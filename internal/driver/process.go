package driver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/confine"
	"toehold/internal/kernel"
	"toehold/internal/mono"
	"toehold/internal/port"
	"toehold/internal/shm"
)

// The descriptors that a device process inherits.
const (
	DeviceSocket   = 3 // SOCK_SEQPACKET, to the driver
	DeviceUplink   = 4 // AF_PACKET socket on the uplink
	DeviceHostPort = 5 // TAP
	DeviceControl  = 6 // BPF array of one abi.Control
	DeviceBlocks   = 7 // BPF array of abi.Block
	DeviceRings    = 8 // memfd of a ring for each block
	DevicePulse    = 9 // BPF array of one abi.Pulse
)

// hostPortName is the pattern that TAPs are named by.
const hostPortName = "toehold%d"

// socketBuffer holds the messages of a move of everything: the driver never
// waits for a device.
const socketBuffer = 16 << 20

// queuedMessages is how many messages of the device wait for the loop.
const queuedMessages = 64

// A process is a device process with what was opened for it. It belongs to
// the uplink's loop, but for the two goroutines that wait for it.
type process struct {
	pid      int
	socket   int           // our end; -1 when it is shut
	messages chan []byte   // closed when the device's end is
	exited   chan struct{} // closed when the process has been reaped
	status   string        // valid after exited
	tap      string
	hostPort io.Closer // the attachment of our program to the TAP
	started  mono.Time
	greeting abi.Greeting // its Version is 0 until the device has greeted
	doomed   bool         // killed or told to quit
	rings    []byte       // what its bypassed connections have sent; stays when it has ended
}

// greeted reports whether the device serves.
func (p *process) greeted() bool { return p.greeting.Version != 0 }

// startProcess opens host port, packet socket and message socket, and starts
// a device process with them. Of its descriptors only our end of the message
// socket stays open here, so that all else vanishes with the process, but for the
// memory of the rings.
func startProcess(c *Config, uplink string, ifindex int, set *bpf.Set, g abi.Generations) (*process, error) {
	var inherited []int
	defer func() {
		for _, fd := range inherited {
			unix.Close(fd)
		}
	}()
	p := &process{socket: -1, started: mono.Now()}
	err := p.open(&inherited, ifindex, set)
	rings := -1
	if err == nil {
		rings, err = p.mapRings(c.MaxConnections)
	}
	if err == nil {
		err = p.spawn(c, uplink, set, g, inherited, rings)
		unix.Close(rings)
	}
	if err != nil {
		p.shut()
		p.unmapRings()
		return nil, err
	}
	p.watch()
	return p, nil
}

// open appends what the device inherits at DeviceSocket, DeviceUplink and
// DeviceHostPort to inherited, in this order.
func (p *process) open(inherited *[]int, ifindex int, set *bpf.Set) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	p.socket = pair[0]
	*inherited = append(*inherited, pair[1])
	for _, fd := range pair {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer); err != nil {
			return fmt.Errorf("SO_SNDBUFFORCE: %w", err)
		}
	}
	packets, err := port.OpenPacketSocket(ifindex, set.Filter(), abi.MarkWire)
	if err != nil {
		return err
	}
	*inherited = append(*inherited, packets)
	tap, name, tapIndex, err := port.OpenTAP(hostPortName)
	if err != nil {
		return err
	}
	*inherited = append(*inherited, tap)
	p.tap = name
	p.hostPort, err = set.AttachHostPort(tapIndex)
	return err
}

// mapRings makes the rings of n connections and returns a descriptor of them.
func (p *process) mapRings(n int) (int, error) {
	fd, err := shm.MakeRings(n)
	if err != nil {
		return -1, err
	}
	if p.rings, err = shm.MapRings(fd, n); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// unmapRings lets go of the rings, when nothing is to be rebuilt from them any more.
func (p *process) unmapRings() {
	if p == nil || p.rings == nil {
		return
	}
	if err := unix.Munmap(p.rings); err != nil {
		slog.Debug("rings not unmapped", "err", err)
	}
	p.rings = nil
}

// deviceNiceness is the loop's of a device, see there.
const deviceNiceness = -20

// spawn starts the process on the thread of a goroutine that lives as long as
// this process: the parent-death signal is about the thread that forked.
func (p *process) spawn(c *Config, uplink string, set *bpf.Set, g abi.Generations, inherited []int, rings int) error {
	files := []uintptr{0, 2, 2}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	files[0] = uintptr(null)
	for _, fd := range inherited {
		files = append(files, uintptr(fd))
	}
	files = append(files, uintptr(set.ControlFD()), uintptr(set.BlocksFD()), uintptr(rings), uintptr(set.PulseFD()))
	args := []string{"toehold", "device",
		"--uplink", uplink,
		"--link-header", strconv.Itoa(int(set.Control().LinkHeader)),
		"--max-connections", strconv.Itoa(c.MaxConnections),
		"--memory", strconv.FormatInt(c.Memory, 10),
		"--first-generation", strconv.FormatUint(uint64(g.First), 10),
		"--generation-step", strconv.FormatUint(uint64(g.Step), 10),
		"--log-level", c.LogLevel.String(),
		"--mtu-probing=" + strconv.FormatBool(kernel.MTUProbing()),
		"--max-segments", strconv.Itoa(c.Capability.Segments),
		"--max-busy", strconv.Itoa(c.Capability.Busy),
		"--without", c.Capability.Without.String(),
	}
	args = append(args, returnFlags(&c.Returns)...)
	attr := &syscall.ProcAttr{
		Env: confine.Environment(os.Environ()), Files: files,
		// A group of its own: a ^C is for the driver, which sends everything
		// home first.
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, Credential: c.DeviceUser.credential()},
	}
	onForker(func() {
		// The device may not raise its priority, and says if it is too low.
		unix.Setpriority(unix.PRIO_PROCESS, 0, deviceNiceness)
		if err = confine.Shed(); err == nil {
			p.pid, err = syscall.ForkExec(c.Executable, args, attr)
		}
	})
	switch {
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("start %s device as user %s: %w; others than its owner have to be able to execute it", c.Executable, &c.DeviceUser, err)
	case err != nil:
		return fmt.Errorf("start %s device as user %s: %w", c.Executable, &c.DeviceUser, err)
	}
	return nil
}

// returnFlags are those that a device is told of Returns by.
func returnFlags(r *abi.Returns) []string {
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	return []string{
		"--return-idle", r.Idle.String(), "--return-loss", number(r.Loss),
		"--return-reordering", number(r.Reordering), "--return-fragments", number(r.Fragments), "--return-small-io", number(r.SmallIO),
	}
}

// forker takes functions to a goroutine on a thread that never ends.
var forker = func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
}()

func onForker(f func()) {
	done := make(chan struct{})
	forker <- func() { defer close(done); f() }
	<-done
}

// watch starts the two goroutines that wait for the process: for its
// messages, and for its end.
func (p *process) watch() {
	p.messages, p.exited = make(chan []byte, queuedMessages), make(chan struct{})
	go read(p.socket, p.messages)
	go func() {
		var status syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(p.pid, &status, 0, nil); err != syscall.EINTR {
				break
			}
		}
		p.status = describeStatus(status)
		close(p.exited)
	}()
}

// read takes messages from the socket until it ends, by a descriptor of its
// own that Go's poller waits for: a message then wakes one thread, where a
// blocked one would have to wake a second to go on. The socket itself stays
// open, since the loop may send on it; shut closes it.
func read(socket int, messages chan<- []byte) {
	defer close(messages)
	own, err := unix.FcntlInt(uintptr(socket), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return // a device that is not heard is replaced
	}
	if err := unix.SetNonblock(own, true); err != nil {
		unix.Close(own)
		return
	}
	f := os.NewFile(uintptr(own), "device")
	defer f.Close()
	buf := make([]byte, abi.MaxMessage)
	for {
		n, err := f.Read(buf)
		if err != nil || n == 0 {
			return
		}
		messages <- append([]byte(nil), buf[:n]...)
	}
}

func describeStatus(s syscall.WaitStatus) string {
	switch {
	case s.Signaled():
		return "killed by " + unix.SignalName(s.Signal())
	case s.Exited():
		return fmt.Sprintf("exit status %d", s.ExitStatus())
	}
	return "ended"
}

// send never waits: a device that does not take its messages is as good as
// hung.
func (p *process) send(msg []byte) error { return p.sendWith(msg, nil) }

// sendWith is send with a control message, which brings descriptors.
func (p *process) sendWith(msg, oob []byte) error {
	if p.socket < 0 {
		return unix.ENOTCONN
	}
	for {
		err := unix.Sendmsg(p.socket, msg, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// quit asks the process to end, and kill makes it.
func (p *process) quit() {
	p.doomed = true
	if p.send(abi.Append[abi.Command](nil, abi.Quit, 0, nil)) != nil {
		p.kill()
	}
}

func (p *process) kill() {
	p.doomed = true
	select {
	case <-p.exited: // the pid may be another's by now
	default:
		syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// shut lets go of what this side holds for the process.
func (p *process) shut() {
	if p.socket >= 0 {
		if p.messages == nil {
			unix.Close(p.socket) // nobody reads it
		} else {
			unix.Shutdown(p.socket, unix.SHUT_RDWR) // ends read
			go closeAfter(p.messages, p.socket)
		}
		p.socket = -1
	}
	if p.hostPort != nil {
		if err := p.hostPort.Close(); err != nil {
			slog.Debug("host port not detached", "err", err)
		}
		p.hostPort = nil
	}
}

// closeAfter closes the socket when nobody reads from it any more.
func closeAfter(messages <-chan []byte, socket int) {
	for range messages {
	}
	unix.Close(socket)
}

// runnable reports whether a thread of the process runs or waits for a
// processor (proc_pid_stat(5), state R). One that was stopped or that sleeps
// is not; a process that is gone neither.
func runnable(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, t := range threads {
		stat, err := os.ReadFile(t)
		// The name, in parentheses, may have any octet in it.
		if i := bytes.LastIndexByte(stat, ')'); err == nil && i >= 0 && bytes.HasPrefix(stat[i:], []byte(") R")) {
			return true
		}
	}
	return false
}
