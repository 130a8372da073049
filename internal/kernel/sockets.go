package kernel

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
)

// A socketRecord is struct socket_record of internal/bpf/c/sockets.c.
type socketRecord struct {
	Key   flow.Key
	State abi.KernelState
}

// An iterators is the loaded iterator programs.
type iterators struct {
	objects         socketsObjects
	sockets, owners *link.Iter
}

// loaded loads them once for the life of the process: that takes tens of
// milliseconds, most of it to read the kernel's BTF.
var loaded = sync.OnceValues(func() (*iterators, error) {
	it := new(iterators)
	if err := it.load(); err != nil {
		return nil, errors.Join(err, it.close())
	}
	return it, nil
})

func (it *iterators) load() error {
	spec, err := loadSockets()
	if err != nil {
		return err
	}
	if err := bpf.LoadFitted(spec, &it.objects, "BPF iterators over sockets and files", "5.13"); err != nil {
		return err
	}
	if it.sockets, err = attach(it.objects.Sockets); err != nil {
		return err
	}
	it.owners, err = attach(it.objects.Owners)
	return err
}

func attach(p *ebpf.Program) (*link.Iter, error) {
	it, err := link.AttachIter(link.IterOptions{Program: p})
	return it, bpf.Missing("BPF iterators", "5.8", err)
}

func (it *iterators) close() error {
	var errs []error
	for _, i := range []*link.Iter{it.sockets, it.owners} {
		if i != nil {
			errs = append(errs, i.Close())
		}
	}
	return errors.Join(append(errs, it.objects.Close())...)
}

// Sockets lists the TCP connections of the calling thread's network
// namespace, in no order: full sockets with a peer, so neither listening ones
// nor those in TIME-WAIT or not yet accepted. Owners are not filled in. Each
// socket is read under its lock, but not all at the same moment. It needs no
// daemon; without BPF iterators the error is a *bpf.MissingFeature.
func Sockets() ([]Socket, error) {
	it, err := loaded()
	if err != nil {
		return nil, err
	}
	socks := make([]Socket, 0, lastCount.Load())
	err = each(it.sockets, func(r *socketRecord) {
		socks = append(socks, Socket{Flow: r.Key.ID(), State: r.State})
	})
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	lastCount.Store(int64(len(socks) + len(socks)/8))
	return socks, nil
}

// lastCount is how many sockets to make room for.
var lastCount atomic.Int64

// each runs an iterator and calls f with every record that it writes, which
// is borrowed. An iterator is of the namespace that its thread is in when it
// is opened.
func each[R any](it *link.Iter, f func(*R)) error {
	file, err := it.Open()
	if err != nil {
		return err
	}
	defer file.Close()
	return eachRecord(file, f)
}

// eachRecord reads records from a stream. The kernel fills 32 KiB at a time,
// and may cut a record at the end of a read.
func eachRecord[R any](from io.Reader, f func(*R)) error {
	var r R
	size := int(unsafe.Sizeof(r))
	buf := make([]byte, 64<<10)
	for have := 0; ; {
		n, err := from.Read(buf[have:])
		have += n
		whole := buf[:have-have%size]
		for at := 0; at < len(whole); at += size {
			copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), size), whole[at:])
			f(&r)
		}
		have = copy(buf, buf[len(whole):have])
		switch {
		case errors.Is(err, io.EOF) && have == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("the last %d octets are no record of %d", have, size)
		case err != nil:
			return err
		}
	}
}
