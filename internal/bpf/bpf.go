// Package bpf holds the BPF programs of a device and the maps that they share
// with it: steering of offloaded flows at the uplink, injection from the host
// port, and a probe of the kernel's state of a connection. Nothing is pinned:
// programs, maps and attachments live as long as a descriptor of theirs does,
// so that a process that is killed leaves nothing behind.
package bpf

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"toehold/internal/abi"
	"toehold/internal/shm"
)

// A Config sizes a Set.
type Config struct {
	MaxConnections uint32        // slots of the block table and of the flow map
	StaleAfter     time.Duration // a heartbeat older than this fences the device
}

// A Set is the programs and maps of one device on one uplink. Steer, Unsteer,
// Probe, Tie and Untie may be called from several goroutines; the rest may not.
type Set struct {
	steer   steerObjects
	probe   prober
	control *abi.Control
	pulse   *abi.Pulse
	blocks  []abi.Block

	channels channels

	behindMu sync.Mutex
	behind   map[octets]struct{} // flows whose sockets are behind the wire

	links    []link.Link // at the uplink
	hostPort link.Link   // the last one attached
}

// Load loads the programs, and maps the shared memory. There is no heartbeat
// yet, so a flow that is steered before the device has written one fences the
// device. An error that is a *MissingFeature names what the kernel or the
// user lacks.
func Load(c Config) (*Set, error) {
	if c.MaxConnections == 0 || c.StaleAfter <= 0 {
		return nil, fmt.Errorf("%d connections, stale after %v: both must be more than 0", c.MaxConnections, c.StaleAfter)
	}
	s := &Set{behind: make(map[octets]struct{})}
	if err := s.load(c); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	atomic.StoreUint64(&s.control.StaleAfter, uint64(c.StaleAfter))
	return s, nil
}

func (s *Set) load(c Config) error {
	spec, err := loadSteer()
	if err != nil {
		return err
	}
	spec.Maps[steerMapBlocks].MaxEntries = c.MaxConnections
	spec.Maps[steerMapFlows].MaxEntries = c.MaxConnections
	if err := spec.LoadAndAssign(&s.steer, nil); err != nil {
		return Missing("steering programs", "6.6", err)
	}
	if s.control, err = shm.MapControl(s.ControlFD()); err != nil {
		return Missing("mmapable BPF arrays", "5.5", err)
	}
	if s.pulse, err = shm.MapPulse(s.PulseFD()); err != nil {
		return Missing("mmapable BPF arrays", "5.5", err)
	}
	if s.blocks, err = shm.MapBlocks(s.BlocksFD(), int(c.MaxConnections)); err != nil {
		return Missing("mmapable BPF arrays", "5.5", err)
	}
	return s.probe.load()
}

// AttachUplink attaches the steering programs to an interface, and tells them
// its index and the length of its link header. Once only.
//
// Both programs go before all others. On ingress, frames that the device has
// are gone before anybody else counts or changes them, and what the device
// injects then passes everybody else once, as if it had just come. On egress,
// S's frames turn off before anybody sees them, and what the device sends in
// their place passes everybody else once.
func (s *Set) AttachUplink(ifindex int) error {
	if s.links != nil {
		return errors.New("the programs are attached to an uplink already")
	}
	uplink, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Errorf("uplink with index %d: %w", ifindex, err)
	}
	atomic.StoreUint32(&s.control.LinkHeader, linkHeader(uplink))
	atomic.StoreUint32(&s.control.Uplink, uint32(ifindex))
	for _, at := range []struct {
		program *ebpf.Program
		attach  ebpf.AttachType
	}{
		{s.steer.Egress, ebpf.AttachTCXEgress},
		{s.steer.Ingress, ebpf.AttachTCXIngress},
	} {
		l, err := attach(ifindex, at.program, at.attach)
		if err != nil {
			return errors.Join(fmt.Errorf("attach to %s: %w", uplink.Attrs().Name, err), s.detach())
		}
		s.links = append(s.links, l)
	}
	return nil
}

// linkHeader is 14 for Ethernet and 0 for interfaces whose frames start with
// the IP header, such as tun and wireguard.
func linkHeader(l netlink.Link) uint32 {
	switch l.Attrs().EncapType {
	case "ether", "loopback":
		return 14
	}
	return 0
}

func attach(ifindex int, p *ebpf.Program, at ebpf.AttachType) (link.Link, error) {
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: ifindex,
		Program:   p,
		Attach:    at,
		Anchor:    link.Head(),
	})
	return l, Missing("tcx", "6.6", err)
}

// AttachHostPort makes an interface the host port: S's frames are turned to
// it, and what comes in from it is injected into the uplink. Closing what is
// returned, or the Set, ends the second; a host port that takes its place
// ends both.
func (s *Set) AttachHostPort(ifindex int) (io.Closer, error) {
	if s.hostPort != nil {
		if err := s.hostPort.Close(); err != nil {
			return nil, fmt.Errorf("detach the last host port: %w", err)
		}
		s.hostPort = nil
	}
	l, err := attach(ifindex, s.steer.Inject, ebpf.AttachTCXIngress)
	if err != nil {
		return nil, fmt.Errorf("attach to host port with index %d: %w", ifindex, err)
	}
	atomic.StoreUint32(&s.control.HostPort, uint32(ifindex))
	s.hostPort = l
	return l, nil
}

// Filter is the descriptor of the socket filter for the device's packet
// socket. It and the other descriptors stay the Set's.
func (s *Set) Filter() int { return s.steer.Filter.FD() }

// ControlFD is the descriptor of the array of one abi.Control.
func (s *Set) ControlFD() int { return s.steer.steerMaps.Control.FD() }

// PulseFD is the descriptor of the array of one abi.Pulse.
func (s *Set) PulseFD() int { return s.steer.steerMaps.Pulse.FD() }

// BlocksFD is the descriptor of the array of MaxConnections abi.Block.
func (s *Set) BlocksFD() int { return s.steer.steerMaps.Blocks.FD() }

// Control is the memory that ControlFD stands for, until Close.
func (s *Set) Control() *abi.Control { return s.control }

// Pulse is the memory that PulseFD stands for, until Close.
func (s *Set) Pulse() *abi.Pulse { return s.pulse }

// Blocks is the memory that BlocksFD stands for, until Close.
func (s *Set) Blocks() []abi.Block { return s.blocks }

// Close fences the device and detaches and closes everything; all flows are
// the kernel's then. Memory given out before must not be touched any more.
func (s *Set) Close() error {
	errs := []error{s.channels.Close()}
	if s.control != nil {
		atomic.StoreUint32(&s.control.Fenced, 1)
		errs = append(errs, s.detach(), shm.UnmapControl(s.control))
		s.control = nil
	}
	if s.pulse != nil {
		errs = append(errs, shm.UnmapPulse(s.pulse))
		s.pulse = nil
	}
	if s.blocks != nil {
		errs = append(errs, shm.UnmapBlocks(s.blocks))
		s.blocks = nil
	}
	return errors.Join(append(errs, s.steer.Close(), s.probe.Close())...)
}

func (s *Set) detach() error {
	var errs []error
	for _, l := range s.links {
		errs = append(errs, l.Close())
	}
	if s.hostPort != nil {
		errs = append(errs, s.hostPort.Close())
	}
	s.links, s.hostPort = nil, nil
	return errors.Join(errs...)
}
