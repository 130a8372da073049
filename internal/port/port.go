// Package port moves frames between the device and a network interface, in
// batches and without an allocation: an AF_PACKET socket on the uplink, a TAP
// towards the program's sockets, and a pipe in memory for tests.
//
// Every frame starts with the 10-octet virtio_net_hdr (wire.VNet). A port and
// its pool belong to one goroutine.
package port

import (
	"errors"

	"toehold/internal/frame"
)

// A Received is a frame that came in: Buf.B[:N] starts with the
// virtio_net_hdr. Buf has one reference, which is the receiver's.
type Received struct {
	Buf *frame.Buf
	N   int
}

// Stats counts since the port was made. Octets are without virtio_net_hdr.
type Stats struct {
	RxFrames, RxBytes uint64
	RxDropped         uint64 // by the kernel, its receive queue being full
	RxNoBuffer        uint64 // read and dropped, the pool being at its limit
	RxTooLarge        uint64 // read and dropped, longer than frame.Large
	TxFrames, TxBytes uint64
	TxErrors          uint64 // refused by the kernel, one by one, and dropped
	TxBlocked         uint64 // flushes that ended with frames left
}

// A Port sends and receives frames.
type Port interface {
	// FD is the descriptor to wait on; -1 for a pipe.
	FD() int
	// Receive takes in up to len(into) frames that wait, and never blocks: 0
	// when there are none. It may leave some although into has room. An
	// error means that the port is gone.
	Receive(into []Received) (int, error)
	// Queue makes one frame of header, which is copied, and pieces, which
	// stay referenced until the frame is sent or dropped. It returns false
	// when the batch is full: Flush first.
	Queue(header []byte, pieces []frame.Span) bool
	// Flush sends what is queued, in order. It returns true when nothing is
	// left, false when the kernel would block: call it again once FD is
	// writable. An error means that the port is gone.
	Flush() (bool, error)
	// Pending is the number of frames queued.
	Pending() int
	// Stats may ask the kernel.
	Stats() Stats
	// Close drops what is queued and closes the descriptor.
	Close() error
}

// ErrGone says that the interface behind a port exists no more.
var ErrGone = errors.New("interface is gone")

var (
	_ Port = (*Packet)(nil)
	_ Port = (*TAP)(nil)
	_ Port = (*Pipe)(nil)
)
