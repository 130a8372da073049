package bpf

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
)

// maxBatch is how many connections one run of the probe reads.
const maxBatch = 256

// A batch is struct batch of c/probe.c.
type batch struct {
	Count, Done uint32
	Keys        [maxBatch]flow.Key
	States      [maxBatch]abi.KernelState
}

// A prober is the probe and the array that it answers in.
type prober struct {
	probeObjects
	mu    sync.Mutex // of batch
	batch *batch
}

func (p *prober) load() error {
	spec, err := loadProbe()
	if err != nil {
		return err
	}
	if err := LoadFitted(spec, &p.probeObjects, "probe of sockets (bpf_skc_lookup_tcp, bpf_loop)", "5.17"); err != nil {
		return err
	}
	mem, err := unix.Mmap(p.Batches.FD(), 0, pages(unsafe.Sizeof(batch{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return Missing("mmapable BPF arrays", "5.5", err)
	}
	p.batch = (*batch)(unsafe.Pointer(&mem[0]))
	return nil
}

// know has sockets with this verdict of a sockmap taken for the Set's own.
func (p *prober) know(verdict *ebpf.Program) error {
	info, err := verdict.Info()
	if err != nil {
		return fmt.Errorf("number of the verdict: %w", err)
	}
	id, ok := info.ID()
	if !ok {
		return Missing("numbers of BPF programs", "4.13", unix.EINVAL)
	}
	return p.OwnVerdict.Set(uint32(id))
}

// pages rounds a size up to whole pages.
func pages(size uintptr) int {
	page := unix.Getpagesize()
	return (int(size) + page - 1) / page * page
}

// Close unmaps and closes everything.
func (p *prober) Close() error {
	var err error
	if p.batch != nil {
		err = unix.MunmapPtr(unsafe.Pointer(p.batch), uintptr(pages(unsafe.Sizeof(batch{}))))
		p.batch = nil
	}
	return errors.Join(err, p.probeObjects.Close())
}

// Probe reads the kernel's state of connections of the calling thread's
// network namespace: of keys[i] into out[i], which both have the same length.
// Neither a socket's lock is taken nor its program stopped. So a state may be
// torn when packets of the connection are processed at the same time: each
// field is whole, but fields may be from before and after the same segment.
// Once the flow is steered and S does not send, nothing moves.
//
// A flow without an established (or closing) socket has SpecialMissing alone.
// SpecialSockmap does not stand for what the Set itself has tied.
// Cookie is 0 until anybody has asked the kernel for it; kernel.Sockets does.
// ISS and IRS are 0. RTTVar is the mean deviation, as in TCP_INFO.
func (s *Set) Probe(keys []flow.Key, out []abi.KernelState) error {
	if len(keys) != len(out) {
		return fmt.Errorf("probe %d flows into %d states", len(keys), len(out))
	}
	uplink := atomic.LoadUint32(&s.control.Uplink)
	for len(keys) > 0 {
		n := min(len(keys), maxBatch)
		if err := s.probe.run(keys[:n], out[:n], uplink); err != nil {
			return fmt.Errorf("probe %d flows: %w", n, Missing("probe of sockets (BPF_PROG_TEST_RUN)", "5.10", err))
		}
		keys, out = keys[n:], out[n:]
	}
	return nil
}

// A testContext is the part of struct __sk_buff that a test run may be given.
type testContext struct {
	_       [10]uint32
	Ifindex uint32
}

// run probes one batch. A packet from the uplink finds sockets that are bound
// to it as well as others; without uplink it comes from loopback.
func (p *prober) run(keys []flow.Key, out []abi.KernelState, uplink uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	copy(p.batch.Keys[:], keys)
	p.batch.Count, p.batch.Done = uint32(len(keys)), 0
	options := &ebpf.RunOptions{Data: make([]byte, 64)}
	if uplink != 0 {
		options.Context = testContext{Ifindex: uplink}
	}
	if _, err := p.Probe.Run(options); err != nil {
		return err
	}
	if p.batch.Done != p.batch.Count {
		return errors.New("the program did not run to its end")
	}
	copy(out, p.batch.States[:])
	return nil
}
