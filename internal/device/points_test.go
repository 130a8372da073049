package device

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/port"
)

// A point is where a device may die: where its code begins to run, before and after a
// system call, and after each store to shared memory that follows. Points of the first
// kinds are counted by the world; the stores after each of them are recorded from
// compiled code as it runs (trace_amd64_test.go).

// A watcher is told of the points.
type watcher interface {
	point(n int)
	left() // the device's code has returned, or calls the kernel
}

func (w *world) point() {
	if w.watch != nil {
		w.points++
		w.watch.point(w.points - 1)
	}
}

func (w *world) left() {
	if w.watch != nil {
		w.watch.left()
	}
}

// A store is what one instruction of the device has changed in shared memory, or one
// madvise, which has made a hole there.
type store struct {
	at     int
	octets []byte
	hole   int // octets
}

func (s *store) do(memory []byte) {
	copy(memory[s.at:], s.octets)
	clear(memory[s.at : s.at+s.hole])
}

// A script is the stores of a device by the point that they follow.
type script map[int][]store

// shared is the memory that host and device share, mapped for each of them, so that
// the device's stores can be told from the kernel's and the driver's.
type shared struct {
	fd           int
	host, device []byte // the same octets
}

// What lies where in it. The first page is for the recording alone.
const (
	page          = 4096
	controlAt     = page
	blocksAt      = 2 * page
	ringsAt       = 3 * page
	sharedBlocks  = 4
	sharedOctets  = ringsAt + sharedBlocks*abi.RingSize
	everyProtect  = unix.PROT_READ | unix.PROT_WRITE
	recordedPages = 2 // that one instruction may change
)

func newShared(t *testing.T) *shared {
	fd, err := unix.MemfdCreate("shared", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, sharedOctets)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return mapShared(t, fd)
}

func mapShared(t *testing.T, fd int) *shared {
	s := &shared{fd: fd}
	for _, m := range []*[]byte{&s.host, &s.device} {
		b, err := unix.Mmap(fd, 0, sharedOctets, everyProtect, unix.MAP_SHARED|unix.MAP_NORESERVE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Munmap(b) })
		*m = b
	}
	return s
}

// wipe makes it as it is when the host has made it.
func (s *shared) wipe(t *testing.T) {
	if err := unix.Madvise(s.host, unix.MADV_REMOVE); err != nil {
		t.Fatal(err)
	}
}

func controlIn(b []byte) *abi.Control { return (*abi.Control)(unsafe.Pointer(&b[controlAt])) }

func blocksIn(b []byte) []abi.Block {
	return unsafe.Slice((*abi.Block)(unsafe.Pointer(&b[blocksAt])), sharedBlocks)
}

// share gives a new device its view of what is the host's.
func (w *world) share(p *Parts) {
	w.shared.wipe(w.t)
	w.blocks, w.rings = blocksIn(w.shared.host), w.shared.host[ringsAt:]
	p.Control, p.Blocks, p.Rings = controlIn(w.shared.device), blocksIn(w.shared.device), w.shared.device[ringsAt:]
}

// A watchedPort has points after its system calls.
type watchedPort struct {
	port.Port
	w *world
}

func (w *world) watched(p port.Port) port.Port {
	if w.watch == nil {
		return p
	}
	return &watchedPort{p, w}
}

func (p *watchedPort) Receive(into []port.Received) (int, error) {
	n, err := p.Port.Receive(into)
	if n > 0 {
		p.w.point()
	}
	return n, err
}

func (p *watchedPort) Flush() (bool, error) {
	sends := p.Pending() > 0
	all, err := p.Port.Flush()
	if sends {
		p.w.point()
	}
	return all, err
}

// An execution lets a device live up to a point, and some stores beyond it.
type execution struct {
	w      *world
	at     int
	stores []store // that it makes before it dies
	how    any     // what is panicked with
}

// ended is the end of a device that ends its scenario.
type ended struct{}

func (e *execution) point(n int) {
	if n != e.at {
		return
	}
	for i := range e.stores {
		e.stores[i].do(e.w.shared.device)
	}
	panic(e.how)
}

func (e *execution) left() {}

// A comparison checks that a script has all stores: that they make of the memory at
// each point what it is at the next.
type comparison struct {
	w       *world
	script  script
	windows [][2]int // of the memory, what is compared
	in      int      // the point that was passed last, -1: the device does not run, or is not recorded
	before  []byte   // the memory then
	stores  int
}

func (c *comparison) point(n int) {
	c.left()
	if _, ok := c.script[n]; !ok {
		return
	}
	c.in = n
	if c.before == nil {
		c.before = make([]byte, sharedOctets)
	}
	for _, v := range c.windows {
		copy(c.before[v[0]:v[1]], c.w.shared.host[v[0]:v[1]])
	}
}

func (c *comparison) left() {
	if c.in < 0 {
		return
	}
	for _, s := range c.script[c.in] {
		s.do(c.before)
		c.stores++
	}
	for _, v := range c.windows {
		if at := c.differs(v); at >= 0 {
			c.w.t.Errorf("seed %d: the %d stores after point %d do not make of the memory what it is at %#x", c.w.seed, len(c.script[c.in]), c.in, at)
		}
	}
	c.in = -1
}

// differs is from where on in a window the memory is another.
func (c *comparison) differs(v [2]int) int {
	for i := v[0]; i < v[1]; i++ {
		if c.before[i] != c.w.shared.host[i] {
			return i
		}
	}
	return -1
}

// A census counts.
type census struct{}

func (census) point(int) {}
func (census) left()     {}
