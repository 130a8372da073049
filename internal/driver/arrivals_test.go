package driver_test

import (
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/flow"
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/port"
	"toehold/internal/testnet"
	"toehold/internal/wire"
)

// A seen is one segment as it came to the peer; its payload is gone.
type seen struct {
	wire.Packet
	at      mono.Time
	nextHop [6]byte // link address that it was sent to
}

// Arrivals are what a connection's host sends, as it comes to the peer's
// interface, whether the peer then gets it or not.
type arrivals struct {
	t   testing.TB
	key flow.Key
	mu  sync.Mutex
	all []seen
}

// arrivals records what p's host sends, until the test ends.
func (r *rig) arrivals(p *pair) *arrivals {
	r.t.Helper()
	c := &arrivals{t: r.t, key: flow.Make(addrOf(p.host.LocalAddr()), addrOf(p.host.RemoteAddr())).Key()}
	var in *port.Packet
	err := r.Peer.Do(func() error {
		l, err := netlink.LinkByName(r.PeerIf)
		if err != nil {
			return err
		}
		fd, err := port.OpenPacketSocket(l.Attrs().Index, -1, 0)
		if err == nil {
			in, err = port.NewPacket(fd, frame.NewPool(8<<20))
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	r.t.Cleanup(func() {
		close(stop)
		<-stopped
		in.Close()
	})
	go func() {
		defer close(stopped)
		c.run(in, stop)
	}()
	return c
}

func (c *arrivals) run(in *port.Packet, stop <-chan struct{}) {
	frames := make([]port.Received, 32)
	for {
		select {
		case <-stop:
			return
		default:
		}
		unix.Poll([]unix.PollFd{{Fd: int32(in.FD()), Events: unix.POLLIN}}, 20)
		n, err := in.Receive(frames)
		if err != nil {
			c.t.Errorf("arrivals: %v", err)
			return
		}
		c.take(frames[:n])
	}
}

func (c *arrivals) take(frames []port.Received) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range frames {
		s := seen{at: mono.Now()}
		if wire.Parse(f.Buf, f.N, 14, &s.Packet) == wire.OK && s.Key == c.key {
			copy(s.nextHop[:], s.Link)
			s.Link, s.Seg.Payload.Buf = nil, nil
			c.all = append(c.all, s)
		}
		f.Buf.Release()
	}
}

// now is where what comes from now on begins.
func (c *arrivals) now() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

// since is what has come since.
func (c *arrivals) since(begin int) []seen {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]seen(nil), c.all[begin:]...)
}

// await waits for one that is as is says, among what comes since begin.
func (c *arrivals) await(what string, begin int, is func(s *seen) bool) (found seen) {
	c.t.Helper()
	eventually(c.t, what, func() bool {
		for _, s := range c.since(begin) {
			if is(&s) {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

// control calls f with the descriptor of the host's end.
func (p *pair) control(t testing.TB, f func(fd int) error) {
	t.Helper()
	raw, err := p.host.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
}

// set sets an option of the host's end.
func (p *pair) set(t testing.TB, level, name, value int) {
	t.Helper()
	p.control(t, func(fd int) error { return unix.SetsockoptInt(fd, level, name, value) })
	if p.changed != nil {
		p.changed(level, name, value)
	}
}

// send writes at the host's end.
func (p *pair) send(t testing.TB, octets int) {
	t.Helper()
	p.host.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := p.host.Write(make([]byte, octets)); err != nil {
		t.Fatal(err)
	}
}

// A class is what queueing disciplines and filters know a frame by.
type class struct{ Mark, Priority uint32 }

// classes attaches, as the last one at the uplink's egress, a program that
// notes the class of every frame with payload, as the queueing discipline will
// see it; the function that it returns gives the last.
func (r *rig) classes() func() class {
	r.t.Helper()
	last, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { last.Close() })
	const length, mark, priority = 0, 8, 32 // offsets in struct __sk_buff
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, length, asm.Word),
			asm.JLT.Imm(asm.R2, withPayload, "out"),
			asm.LoadMem(asm.R6, asm.R1, mark, asm.Word),
			asm.LoadMem(asm.R7, asm.R1, priority, asm.Word),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, last.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.StoreMem(asm.R0, 0, asm.R6, asm.Word),
			asm.StoreMem(asm.R0, 4, asm.R7, asm.Word),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	defer p.Close()
	r.attachLast(p)
	return func() (c class) {
		if err := last.Lookup(uint32(0), &c); err != nil {
			r.t.Fatal(err)
		}
		return c
	}
}

// withPayload is the length of the shortest frame that the observer of
// classes looks at, above that of an acknowledgement.
const withPayload = 300

func (r *rig) attachLast(p *ebpf.Program) {
	r.t.Helper()
	r.inHost(func() error {
		l, err := netlink.LinkByName(r.HostIf)
		if err != nil {
			return err
		}
		at, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: l.Attrs().Index, Attach: testnet.Out, Anchor: link.Tail()})
		if err == nil {
			r.t.Cleanup(func() { at.Close() })
		}
		return err
	})
}

// onDevice fails the test unless the device owns p.
func (r *rig) onDevice(p *pair) {
	r.t.Helper()
	if d := r.show(p.selector()); d.Hardware == nil || d.Hardware.Place != "owned" || d.Place != "device" {
		r.t.Fatalf("it is not the device's: %+v", d)
	}
}

// largest is the payload of the largest segment that has come since begin, as
// it is on a wire.
func (a *arrivals) largest(begin int) (octets uint32) {
	for _, s := range a.since(begin) {
		n := s.Seg.Payload.Len
		if s.Seg.Size != 0 {
			n = min(n, uint32(s.Seg.Size))
		}
		octets = max(octets, n)
	}
	return octets
}
