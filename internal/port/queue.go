package port

import (
	"golang.org/x/sys/unix"

	"toehold/internal/frame"
)

// Limits of one frame and of one batch.
const (
	maxHeader = 256 // octets of header
	maxPieces = 18  // wire.MaxPieces, and one for a frame that passes whole
	batch     = 64  // frames queued at most
)

// A queue is the frames that wait for a flush, in order, as the kernel takes
// them: an array of iovecs each. All of it is made once.
type queue struct {
	first, end int // frames [first, end) wait
	frames     [batch]queued
	headers    [batch][maxHeader]byte
	iovecs     [batch][1 + maxPieces]unix.Iovec
	pieces     [batch][maxPieces]*frame.Buf // one reference each
}

type queued struct {
	octets         int
	iovecs, pieces int
}

func (q *queue) pending() int { return q.end - q.first }

// fits says whether header and pieces are within the limits of one frame.
func fits(header []byte, pieces []frame.Span) bool {
	return len(header) <= maxHeader && len(pieces) <= maxPieces
}

// add appends a frame that fits; false when the batch is full.
func (q *queue) add(header []byte, pieces []frame.Span) bool {
	if q.end == batch {
		return false
	}
	i := q.end
	q.end++
	q.frames[i] = queued{}
	if n := copy(q.headers[i][:], header); n > 0 {
		q.append(i, &q.headers[i][0], n)
	}
	last := frame.Span{}
	for _, s := range pieces {
		q.piece(i, &last, s)
	}
	return true
}

// piece adds s to frame i, to its last iovec if s follows last in memory.
func (q *queue) piece(i int, last *frame.Span, s frame.Span) {
	f := &q.frames[i]
	switch {
	case s.Len == 0:
		return
	case s.Buf == last.Buf && s.Off == last.Off+last.Len:
		v := &q.iovecs[i][f.iovecs-1]
		v.SetLen(int(v.Len) + int(s.Len))
		f.octets += int(s.Len)
	default:
		s.Buf.Retain()
		q.pieces[i][f.pieces] = s.Buf
		f.pieces++
		q.append(i, &s.Buf.B[s.Off], int(s.Len))
	}
	*last = s
}

func (q *queue) append(i int, base *byte, n int) {
	f := &q.frames[i]
	v := &q.iovecs[i][f.iovecs]
	v.Base = base
	v.SetLen(n)
	f.iovecs++
	f.octets += n
}

// pop forgets the first n frames and gives their references back.
func (q *queue) pop(n int) {
	for ; n > 0; n-- {
		for _, b := range q.pieces[q.first][:q.frames[q.first].pieces] {
			b.Release()
		}
		q.first++
	}
	if q.first == q.end {
		q.first, q.end = 0, 0
	}
}

// octets is the length of the first n frames without their virtio_net_hdr.
func (q *queue) octets(n int) (sum uint64) {
	for i := q.first; i < q.first+n; i++ {
		sum += uint64(max(0, q.frames[i].octets-vnetLen))
	}
	return sum
}
