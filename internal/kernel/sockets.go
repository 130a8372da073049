package kernel

import (
	"bytes"
	"fmt"
	"io"
	"sync"
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

// loadIterators loads them once for the life of the process: that takes tens
// of milliseconds, most of it to read the kernel's BTF.
var loadIterators = sync.OnceValues(func() (*iterators, error) {
	it := new(iterators)
	if err := loadSocketsObjects(&it.objects, nil); err != nil {
		return nil, bpf.Missing("BPF iterators over sockets and files", "5.13", err)
	}
	var err error
	if it.sockets, err = attach(it.objects.Sockets); err != nil {
		return nil, err
	}
	it.owners, err = attach(it.objects.Owners)
	return it, err
})

func attach(p *ebpf.Program) (*link.Iter, error) {
	it, err := link.AttachIter(link.IterOptions{Program: p})
	return it, bpf.Missing("BPF iterators", "5.8", err)
}

// Sockets lists the TCP connections of the calling thread's network
// namespace, in no order: full sockets with a peer, so neither listening ones
// nor those in TIME-WAIT or not yet accepted. Owners are not filled in. Each
// socket is read under its lock, but not all at the same moment. It needs no
// daemon; without BPF iterators the error is a *bpf.MissingFeature.
func Sockets() ([]Socket, error) {
	it, err := loadIterators()
	if err != nil {
		return nil, err
	}
	records, err := readAll[socketRecord](it.sockets)
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	socks := make([]Socket, len(records))
	for i := range records {
		socks[i] = Socket{Flow: records[i].Key.ID(), State: records[i].State}
	}
	return socks, nil
}

// readAll runs an iterator and returns the records that it wrote. An iterator
// is of the namespace that its thread is in when it is opened.
func readAll[R any](it *link.Iter) ([]R, error) {
	file, err := it.Open()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var octets bytes.Buffer
	// The kernel fills 32 KiB at a time.
	octets.Grow(256 << 10)
	if _, err := io.Copy(&octets, file); err != nil {
		return nil, err
	}
	return records[R](octets.Bytes())
}

// records copies octets to where records of their type may stand.
func records[R any](octets []byte) ([]R, error) {
	var r R
	size := int(unsafe.Sizeof(r))
	if len(octets)%size != 0 {
		return nil, fmt.Errorf("%d octets are no whole records of %d", len(octets), size)
	}
	all := make([]R, len(octets)/size)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(all))), len(octets)), octets)
	return all, nil
}
