package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
)

// channels are the programs and maps of bypassed connections.
type channels struct {
	channelObjects
	links []link.Link

	mu     sync.Mutex // of what follows, and of who is tied
	opened bool
	err    error             // of opening
	tied   map[uint32]uint64 // numbers of ties by index
	number uint64            // of the last tie
}

// A socketKey is struct socket_key of c/channel.c.
type socketKey struct {
	Number uint64
	Role   uint32
	_      uint32
}

// Roles of tied sockets.
const (
	roleSocket  = iota // S
	roleChannel        // C
)

// A tie is struct tie of c/channel.c.
type tie struct {
	Number       uint64
	Out, Taken   uint64
	In, Read     uint64
	NotSentLowat uint32
	_            uint32
}

// An end is struct end of c/channel.c.
type end struct {
	Number      uint64
	Index, Role uint32
}

// socketsPerTie are S and C, and room for as many that are over and whose programs
// have not closed them.
const socketsPerTie = 4

// OpenChannels loads and attaches the programs of bypassed connections, once:
// later calls return the same result. It is a *MissingFeature where the kernel
// or the user cannot; everything else works without.
func (s *Set) OpenChannels() error {
	c := &s.channels
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.control == nil {
		return os.ErrClosed
	}
	if !c.opened {
		c.opened, c.tied = true, make(map[uint32]uint64)
		if c.err = c.open(s.steer.Blocks); c.err == nil {
			c.err = s.probe.know(c.Verdict)
		}
		if c.err != nil {
			c.err = errors.Join(c.err, c.release())
		}
	}
	return c.err
}

func (c *channels) open(blocks *ebpf.Map) error {
	spec, err := loadChannel()
	if err != nil {
		return err
	}
	n := blocks.MaxEntries()
	spec.Maps[channelMapBlocks].MaxEntries = n
	spec.Maps[channelMapTies].MaxEntries = n
	spec.Maps[channelMapSockets].MaxEntries = socketsPerTie * n
	err = spec.LoadAndAssign(&c.channelObjects, &ebpf.CollectionOptions{
		MapReplacements: map[string]*ebpf.Map{channelMapBlocks: blocks},
	})
	if err != nil {
		return Missing("programs of bypass (sk_msg, tp_btf/sock_recv_length, cgroup/sock_release)", "6.3", err)
	}
	return c.attach()
}

func (c *channels) attach() error {
	err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: c.Sockets.FD(), Program: c.Verdict, Attach: ebpf.AttachSkMsgVerdict})
	if err != nil {
		return Missing("verdict of a sockmap", "4.18", err)
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: c.Received})
	if err != nil {
		return Missing("tracepoint sock_recv_length", "6.3", err)
	}
	c.links = append(c.links, l)
	root, err := cgroupRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	for at, p := range map[ebpf.AttachType]*ebpf.Program{
		ebpf.AttachCgroupInetSockRelease: c.Released,
		ebpf.AttachCGroupSetsockopt:      c.Setting,
		ebpf.AttachCGroupGetsockopt:      c.Telling,
	} {
		l, err := attachCgroup(root, at, p)
		if err != nil {
			return err
		}
		c.links = append(c.links, l)
	}
	return nil
}

// Tie joins a program's socket and a channel, by descriptors that it does not
// keep, as the connection with this index. The block's ChannelPart begins
// anew, not open; limit is how many octets may wait in the channel. What was
// tied at the index before is untied.
//
// While tied, the socket has a TCP_NOTSENT_LOWAT of 1, so that little stays
// with its TCP; its program is told the value before, and to give that back is
// up to the caller. It must not set it otherwise, which would look like the
// program's wish. On error nothing is tied, and all is as it was.
func (s *Set) Tie(index uint32, socket, channel int, limit uint32) error {
	c := &s.channels
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tied == nil || c.err != nil {
		return errors.Join(errors.New("tie a channel: channels are not open"), c.err)
	}
	if int(index) >= len(s.blocks) || limit == 0 || limit > abi.RingSize {
		return fmt.Errorf("tie a channel at index %d of %d with a limit of %d octets: it must be 1 to %d", index, len(s.blocks), limit, abi.RingSize)
	}
	if err := c.untie(index); err != nil {
		return err
	}
	begin(&s.blocks[index].Channel, limit)
	if err := c.tie(index, socket, channel); err != nil {
		return fmt.Errorf("tie a channel at index %d: %w", index, errors.Join(err, c.untie(index)))
	}
	return nil
}

// begin zeroes what others may be looking at.
func begin(c *abi.ChannelPart, limit uint32) {
	atomic.StoreUint32(&c.Open, 0)
	for _, count := range []*uint64{&c.Out, &c.In, &c.Read, &c.ReadAt, &c.Passed, &c.Taken} {
		atomic.StoreUint64(count, 0)
	}
	atomic.StoreUint32(&c.Flags, 0)
	atomic.StoreUint32(&c.OutAt, 0)
	atomic.StoreUint32(&c.Limit, limit)
}

// tie gives the sockets their ends before it puts them into the sockmap, so
// that the verdict knows each that it sees.
func (c *channels) tie(index uint32, socket, channel int) (err error) {
	lowat, err := unix.GetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
	if err != nil {
		return fmt.Errorf("read TCP_NOTSENT_LOWAT: %w", err)
	}
	if err := unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 1); err != nil {
		return fmt.Errorf("set TCP_NOTSENT_LOWAT: %w", err)
	}
	c.number++
	c.tied[index] = c.number
	if err = c.Ties.Put(index, &tie{Number: c.number, NotSentLowat: uint32(lowat)}); err == nil {
		err = errors.Join(c.put(index, roleChannel, channel), c.put(index, roleSocket, socket))
	}
	if err == nil {
		return nil
	}
	return errors.Join(err, c.Ties.Put(index, &tie{}), unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, lowat))
}

func (c *channels) put(index, role uint32, fd int) error {
	if err := c.Ends.Put(uint32(fd), &end{c.number, index, role}); err != nil {
		return fmt.Errorf("storage of descriptor %d: %w", fd, err)
	}
	if err := c.Sockets.Put(&socketKey{Number: c.number, Role: role}, uint64(fd)); err != nil {
		return fmt.Errorf("descriptor %d into the sockmap: %w", fd, err)
	}
	return nil
}

// Untie ends what Tie began: both sockets are plain TCP sockets again, and
// what they held of each other's octets and nobody had received is gone. It is
// no error if they are closed or nothing is tied.
func (s *Set) Untie(index uint32) error {
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	return s.channels.untie(index)
}

// Leave is Untie for a program's socket whose connection is over: what it was given
// and has not received yet stays, and nothing more comes.
func (s *Set) Leave(index uint32) error {
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	return s.channels.part(index, roleChannel)
}

func (c *channels) untie(index uint32) error { return c.part(index, roleSocket, roleChannel) }

// part first makes the programs pass by what they find of the tie with the
// sockets, of which nobody has a descriptor. A socket that has left the sockmap
// by itself (closed, or connect to AF_UNSPEC) may have left its key.
func (c *channels) part(index uint32, roles ...uint32) error {
	number := c.tied[index]
	if number == 0 {
		return nil
	}
	errs := []error{c.Ties.Put(index, &tie{})}
	for _, role := range roles {
		if err := c.Sockets.Delete(&socketKey{Number: number, Role: role}); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("untie the channel at index %d: %w", index, err)
	}
	delete(c.tied, index)
	return nil
}

// Close unties all and closes everything.
func (c *channels) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.release()
}

func (c *channels) release() error {
	var errs []error
	for index := range c.tied {
		errs = append(errs, c.untie(index))
	}
	for _, l := range c.links {
		errs = append(errs, l.Close())
	}
	c.tied, c.links = nil, nil
	return errors.Join(append(errs, c.channelObjects.Close())...)
}
