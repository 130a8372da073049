// Package shm maps the memory that BPF programs, driver and device share, and
// reads and writes its parts so that nobody sees half a change.
package shm

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
)

// MapControl maps the BPF array "control" behind fd.
func MapControl(fd int) (*abi.Control, error) {
	b, err := mapArray(fd, int(unsafe.Sizeof(abi.Control{})))
	if err != nil {
		return nil, fmt.Errorf("map control: %w", err)
	}
	return (*abi.Control)(unsafe.Pointer(&b[0])), nil
}

// WatchControl maps the BPF array "control" behind fd to be read alone. Nothing makes
// such a mapping writable (bpf_map_mmap in kernel/bpf/syscall.c).
func WatchControl(fd int) (*abi.Control, error) {
	b, err := mapAs(fd, int(unsafe.Sizeof(abi.Control{})), unix.PROT_READ)
	if err != nil {
		return nil, fmt.Errorf("map control: %w", err)
	}
	return (*abi.Control)(unsafe.Pointer(&b[0])), nil
}

// MapPulse maps the BPF array "pulse" behind fd.
func MapPulse(fd int) (*abi.Pulse, error) {
	b, err := mapArray(fd, int(unsafe.Sizeof(abi.Pulse{})))
	if err != nil {
		return nil, fmt.Errorf("map pulse: %w", err)
	}
	return (*abi.Pulse)(unsafe.Pointer(&b[0])), nil
}

// MapBlocks maps the BPF array "blocks" of n elements behind fd.
func MapBlocks(fd, n int) ([]abi.Block, error) {
	if n <= 0 {
		return nil, fmt.Errorf("map blocks: %d is no number of connections", n)
	}
	b, err := mapArray(fd, n*abi.BlockSize)
	if err != nil {
		return nil, fmt.Errorf("map blocks: %w", err)
	}
	return unsafe.Slice((*abi.Block)(unsafe.Pointer(&b[0])), n), nil
}

func mapArray(fd, size int) ([]byte, error) { return mapAs(fd, size, unix.PROT_READ|unix.PROT_WRITE) }

func mapAs(fd, size, protection int) ([]byte, error) {
	page := unix.Getpagesize()
	size = (size + page - 1) / page * page
	return unix.Mmap(fd, 0, size, protection, unix.MAP_SHARED)
}

// MapRings maps the rings of n connections behind fd, a file of that size. What is
// not used takes no memory.
func MapRings(fd, n int) ([]byte, error) {
	if n <= 0 {
		return nil, fmt.Errorf("map rings: %d is no number of connections", n)
	}
	b, err := unix.Mmap(fd, 0, n*abi.RingSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map rings: %w", err)
	}
	return b, nil
}

// MakeRings makes the file of the rings of n connections, which goes with its last
// descriptor and mapping. Its size is sealed: whoever could make it smaller would
// have the others that have it mapped die of SIGBUS. Holes can be punched.
func MakeRings(n int) (int, error) {
	fd, err := unix.MemfdCreate("toehold-rings", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(n)*abi.RingSize); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("ftruncate the rings: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("seal the size of the rings: %w", err)
	}
	return fd, nil
}

// UnmapControl gives the memory that MapControl mapped back.
func UnmapControl(c *abi.Control) error {
	return unix.MunmapPtr(unsafe.Pointer(c), uintptr(unix.Getpagesize()))
}

// UnmapPulse gives the memory that MapPulse mapped back.
func UnmapPulse(p *abi.Pulse) error {
	return unix.MunmapPtr(unsafe.Pointer(p), uintptr(unix.Getpagesize()))
}

// UnmapBlocks gives the memory that MapBlocks mapped back.
func UnmapBlocks(blocks []abi.Block) error {
	page := uintptr(unix.Getpagesize())
	size := (uintptr(len(blocks))*abi.BlockSize + page - 1) / page * page
	return unix.MunmapPtr(unsafe.Pointer(&blocks[0]), size)
}

// ReadLedger copies a ledger, also one whose writer died while it wrote: each
// change of it is a single store.
func ReadLedger(l *abi.LedgerPart) (to abi.LedgerPart) {
	if Read(&l.Sequence, l, &to) {
		return to
	}
	to.HWID = abi.HWID(atomic.LoadUint64((*uint64)(&l.HWID)))
	to.Taken, to.Delivered = atomic.LoadUint64(&l.Taken), atomic.LoadUint64(&l.Delivered)
	to.SndStart, to.SndUna = atomic.LoadUint32(&l.SndStart), atomic.LoadUint32(&l.SndUna)
	to.SndEnd, to.RcvStart, to.HostNxt = atomic.LoadUint32(&l.SndEnd), atomic.LoadUint32(&l.RcvStart), atomic.LoadUint32(&l.HostNxt)
	return to
}

// ReadHardware copies the device's part of a connection's block; nil when it is not
// this connection's, or its writer died while it wrote.
func ReadHardware(blocks []abi.Block, id abi.HWID) *abi.HardwarePart {
	if id == 0 || int(id.Index()) >= len(blocks) {
		return nil
	}
	b := &blocks[id.Index()]
	h := new(abi.HardwarePart)
	if !Read(&b.Hardware.Sequence, &b.Hardware, h) || h.HWID != id {
		return nil
	}
	return h
}

// Publish runs write, which changes the part that sequence stands at the
// head of. A part has one writer, so writers need no lock between them.
func Publish(sequence *uint64, write func()) {
	Begin(sequence)
	write()
	End(sequence)
}

// Begin marks a part as being written; from an odd number, which a writer
// that died left behind, it goes on to the next odd one.
func Begin(sequence *uint64) {
	atomic.StoreUint64(sequence, (atomic.LoadUint64(sequence)+1)|1)
}

// End marks a part as whole.
func End(sequence *uint64) {
	atomic.StoreUint64(sequence, (atomic.LoadUint64(sequence)|1)+1)
}

// attempts bounds how often Read tries again: a writer holds a part for less
// than a microsecond, so after this many it is not coming back. Nor does one that
// writes all the time cost a reader more than some tens of them.
const attempts = 1000

// Read copies *part to *to while nobody writes it; sequence stands at the
// head of part. False means that the writer never left it whole: it died in
// the middle, or writes garbage.
func Read[P any](sequence *uint64, part, to *P) bool {
	for range attempts {
		before := atomic.LoadUint64(sequence)
		if before&1 != 0 {
			continue
		}
		*to = *part
		if atomic.LoadUint64(sequence) == before {
			return true
		}
	}
	return false
}
