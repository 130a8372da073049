package shm

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
)

// memfd stands for a BPF array: anything that can be mapped will do here;
// internal/bpf tests the real one.
func memfd(t *testing.T, size int) int {
	t.Helper()
	fd, err := unix.MemfdCreate("shm-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestTwoMappingsAreOneMemory(t *testing.T) {
	fd := memfd(t, 3*abi.BlockSize*8)
	a, err := MapBlocks(fd, 9)
	if err != nil {
		t.Fatal(err)
	}
	b, err := MapBlocks(fd, 9)
	if err != nil {
		t.Fatal(err)
	}
	Publish(&a[8].Hardware.Sequence, func() { a[8].Hardware.Cwnd = 77 })
	var got abi.HardwarePart
	if !Read(&b[8].Hardware.Sequence, &b[8].Hardware, &got) || got.Cwnd != 77 {
		t.Errorf("cwnd %d", got.Cwnd)
	}
	for _, m := range [][]abi.Block{a, b} {
		if err := UnmapBlocks(m); err != nil {
			t.Error(err)
		}
	}
}

func TestMapControl(t *testing.T) {
	c, err := MapControl(memfd(t, 4096))
	if err != nil {
		t.Fatal(err)
	}
	c.Fences = 1
	if err := UnmapControl(c); err != nil {
		t.Error(err)
	}
	if _, err := MapControl(-1); err == nil {
		t.Error("no error for a closed descriptor")
	}
	if _, err := MapBlocks(0, 0); err == nil {
		t.Error("no error for a table without connections")
	}
}

func TestReaderNeverSeesHalfAWrite(t *testing.T) {
	var part abi.HardwarePart
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Add(1)
	go func() {
		defer wg.Done()
		for n := uint32(0); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			Publish(&part.Sequence, func() { part.SndUna, part.Ssthresh = n, n })
		}
	}()
	seen := 0
	for range 20000 {
		var got abi.HardwarePart
		if !Read(&part.Sequence, &part, &got) {
			continue // the writer was preempted in the middle
		}
		seen++
		if got.SndUna != got.Ssthresh {
			t.Fatalf("half a write: %d and %d", got.SndUna, got.Ssthresh)
		}
	}
	close(stop)
	wg.Wait()
	if seen == 0 {
		t.Error("the part was never readable")
	}
}

func TestWriterThatDiedInTheMiddle(t *testing.T) {
	var part, got abi.SocketPart
	Begin(&part.Sequence)
	if Read(&part.Sequence, &part, &got) {
		t.Error("a part that is being written was read")
	}
	Publish(&part.Sequence, func() { part.State.SndBuf = 5 }) // the writer's successor
	if !Read(&part.Sequence, &part, &got) || got.State.SndBuf != 5 {
		t.Errorf("after the successor's write: %+v", got)
	}
}

func TestReadHardware(t *testing.T) {
	const id = abi.HWID(1<<32 | 1)
	blocks := make([]abi.Block, 2)
	h := &blocks[1].Hardware
	Publish(&h.Sequence, func() { h.HWID, h.SndUna = id, 5 })
	if got := ReadHardware(blocks, id); got == nil || got.SndUna != 5 {
		t.Errorf("read %+v", got)
	}
	for _, other := range []abi.HWID{0, id + 1<<32, 1 << 32, 1<<32 | 2} {
		if got := ReadHardware(blocks, other); got != nil {
			t.Errorf("of %v: %+v", other, got)
		}
	}
	Begin(&h.Sequence)
	if got := ReadHardware(blocks, id); got != nil {
		t.Errorf("half written: %+v", got)
	}
}

func TestRings(t *testing.T) {
	fd, err := MakeRings(3)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	a, err := MapRings(fd, 3)
	if err != nil {
		t.Fatal(err)
	}
	b, err := MapRings(fd, 3)
	if err != nil {
		t.Fatal(err)
	}
	a[3*abi.RingSize-1] = 7
	if len(b) != 3*abi.RingSize || b[len(b)-1] != 7 {
		t.Errorf("%d octets, the last is %d", len(b), b[len(b)-1])
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Blocks > 64<<10/512 {
		t.Errorf("one octet takes %d blocks (%v)", st.Blocks, err)
	}
	for _, m := range [][]byte{a, b} {
		if err := unix.Munmap(m); err != nil {
			t.Error(err)
		}
	}
	if _, err := MapRings(fd, 0); err == nil {
		t.Error("no error for rings of no connection")
	}
}

// Whoever has the rings can neither change their size nor allow it, and can give
// memory back.
func TestRingsKeepTheirSize(t *testing.T) {
	fd, err := MakeRings(2)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const size = 2 * abi.RingSize
	for _, n := range []int64{0, size - 1, size + 1, 2 * size} {
		if err := unix.Ftruncate(fd, n); err != unix.EPERM {
			t.Errorf("ftruncate to %d octets: %v", n, err)
		}
	}
	if err := unix.Fallocate(fd, 0, size, 1); err != unix.EPERM {
		t.Errorf("fallocate beyond the end: %v", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != unix.EPERM {
		t.Errorf("another seal: %v", err)
	}
	rings, err := MapRings(fd, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(rings)
	rings[0], rings[abi.RingSize] = 1, 2
	if err := unix.Madvise(rings[:abi.RingSize], unix.MADV_REMOVE); err != nil || rings[0] != 0 || rings[abi.RingSize] != 2 {
		t.Errorf("a hole: %v, then %d and %d", err, rings[0], rings[abi.RingSize])
	}
}
