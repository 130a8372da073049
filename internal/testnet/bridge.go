package testnet

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/mono"
)

// A Bridge carries Ethernet frames between the TAPs of two namespaces, and
// does to them what its paths say. Frames have the MTU's size at most, since
// the TAPs have no offloads: the kernel cuts super-segments before they come
// here, so loss and order are of single segments, as on a wire.
type Bridge struct {
	mu   sync.Mutex
	ways [2]way // to the peer, to the host
	free [][]byte

	stop    int // eventfd
	stopped chan struct{}
}

// A way is one direction: from a TAP, over a lane, to the other TAP.
type way struct {
	from, to int
	lane     *lane
	flight   flight
}

const (
	frameRoom = 2048 // octets, more than any frame that a TAP of MTU 1500 gives
	// readTurn is how many frames of one direction are read before what is
	// due is delivered.
	readTurn = 64
	// turnTime is how long a turn lasts at least: as network cards moderate
	// their interrupts, so that a frame does not cost five wake-ups.
	turnTime = 250 * time.Microsecond
	// underWay is how many frames fly at most in one direction; a path
	// without rate and queue could hold any number.
	underWay = 1 << 16
)

// newBridge carries frames between two TAPs, which it owns from now on, until
// it is closed. Nothing happens to them yet.
func newBridge(host, peer int) (*Bridge, error) {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	b := &Bridge{stop: stop, stopped: make(chan struct{})}
	b.ways = [2]way{{from: host, to: peer}, {from: peer, to: host}}
	b.Set(Path{}, Path{}, 0)
	go b.run()
	return b, nil
}

// Set changes the paths for the frames to come: the counts begin anew, and the
// fates are those of the seed from its first. Frames that are under way arrive.
func (b *Bridge) Set(toPeer, toHost Path, seed uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, p := range []Path{toPeer, toHost} {
		lane := newLane(p, seed, uint64(i))
		if old := b.ways[i].lane; old != nil {
			lane.free = old.free
		}
		b.ways[i].lane = lane
	}
}

// Counts are what has happened since Set.
func (b *Bridge) Counts() (toPeer, toHost Counts) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ways[0].lane.Counts, b.ways[1].lane.Counts
}

// Close ends the carrying and removes the TAPs.
func (b *Bridge) Close() error {
	_, err := unix.Write(b.stop, []byte{7: 1})
	<-b.stopped
	return errors.Join(err, unix.Close(b.stop), unix.Close(b.ways[0].from), unix.Close(b.ways[1].from))
}

// run is the loop. Its thread comes before ordinary ones, where the machine
// allows it: a bridge that waits for a processor is another path than the one
// asked for. A real-time class would do that better, but a Go thread in it can
// wait for an ordinary one that it keeps from running. The thread ends with
// the loop.
func (b *Bridge) run() {
	defer close(b.stopped)
	runtime.LockOSThread()
	unix.Setpriority(unix.PRIO_PROCESS, 0, -20) // of the calling thread alone
	wait := []unix.PollFd{{Fd: int32(b.ways[0].from), Events: unix.POLLIN}, {Fd: int32(b.ways[1].from), Events: unix.POLLIN},
		{Fd: int32(b.stop), Events: unix.POLLIN}}
	for wait[2].Revents == 0 {
		begin := mono.Now()
		var timeout *unix.Timespec
		if next := b.turn(begin, wait); next != 0 {
			ts := unix.NsecToTimespec(max(int64(next.Sub(mono.Now())), 0))
			timeout = &ts
		}
		unix.Ppoll(wait, timeout, nil)
		if rest := begin.Add(turnTime).Sub(mono.Now()); rest > 0 {
			ts := unix.NsecToTimespec(int64(rest))
			unix.Nanosleep(&ts, nil)
		}
	}
}

// turn reads what waits and delivers what is due, and returns when it has to
// be called again at the latest, 0: only for new frames.
func (b *Bridge) turn(now mono.Time, ready []unix.PollFd) (next mono.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.ways {
		if ready[i].Revents != 0 {
			b.read(&b.ways[i], now)
		}
		b.deliver(&b.ways[i], now)
		next = mono.Earliest(next, b.ways[i].flight.next())
	}
	return next
}

func (b *Bridge) read(w *way, now mono.Time) {
	for range readTurn {
		frame := b.take()
		n, err := unix.Read(w.from, frame[:frameRoom])
		if err != nil {
			b.give(frame)
			return
		}
		b.enter(w, now, frame[:n])
	}
}

func (b *Bridge) enter(w *way, now mono.Time, frame []byte) {
	at, copies := now.Add(w.lane.Delay), 1
	if isTCP(frame) {
		at, copies = w.lane.enter(now, len(frame))
	}
	if copies == 0 || len(w.flight) >= underWay {
		b.give(frame)
		return
	}
	w.flight.add(arrival{at, frame})
	if copies == 2 {
		w.flight.add(arrival{at, append(b.take()[:0], frame...)})
	}
}

// deliver writes what has arrived. What the other end does not take is lost,
// as on any wire.
func (b *Bridge) deliver(w *way, now mono.Time) {
	for {
		frame, ok := w.flight.due(now)
		if !ok {
			return
		}
		unix.Write(w.to, frame)
		b.give(frame)
	}
}

func (b *Bridge) take() []byte {
	if n := len(b.free); n > 0 {
		frame := b.free[n-1]
		b.free = b.free[:n-1]
		return frame
	}
	return make([]byte, frameRoom)
}

func (b *Bridge) give(frame []byte) { b.free = append(b.free, frame) }

// addBridge joins the namespaces by a bridge.
func (n *Net) addBridge() error {
	var fds [2]int
	for i, end := range []struct {
		ns   *Namespace
		name string
	}{{n.Host, n.HostIf}, {n.Peer, n.PeerIf}} {
		err := end.ns.Do(func() (err error) {
			fds[i], err = openTAP(end.name)
			return err
		})
		if err != nil {
			closeAll(fds[:i])
			return fmt.Errorf("TAP %s: %w", end.name, err)
		}
	}
	b, err := newBridge(fds[0], fds[1])
	if err != nil {
		closeAll(fds[:])
		return err
	}
	n.Bridge = b
	return nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// tapQueue is a TAP's ring in frames: large, since the queue of a path is the
// Bridge's.
const tapQueue = 10000

// openTAP makes a TAP in the namespace of the calling thread.
func openTAP(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err == nil {
		err = noQueueing(name)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// noQueueing leaves the ring as the interface's only queue.
func noQueueing(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetTxQLen(l, tapQueue), netlink.LinkSetUp(l), netlink.QdiscReplace(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT},
		QdiscType:  "noqueue",
	}))
}

// SetCongestion has connections between the two ends' networks use a
// congestion control by name, from the next on. Nothing of earlier ones is
// remembered for them.
func (n *Net) SetCongestion(name string) error {
	return errors.Join(n.Host.setCongestion(n.HostIf, name), n.Peer.setCongestion(n.PeerIf, name))
}

func (ns *Namespace) setCongestion(ifName, name string) error {
	return ns.Do(func() error {
		link, err := netlink.LinkByName(ifName)
		if err != nil {
			return err
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteList(link, family)
			if err != nil {
				return err
			}
			for _, r := range routes {
				if r.Congctl == "" {
					continue
				}
				r.Congctl = name
				if err := netlink.RouteReplace(&r); err != nil {
					return fmt.Errorf("route %v: %w", r.Dst, err)
				}
			}
		}
		return nil
	})
}
