// Package frame holds packets: reference-counted buffers from a bounded pool,
// and spans, the pieces of payload that the engines pass on without a copy.
//
// A pool and all its buffers belong to one goroutine.
package frame

// The sizes of buffer. Large takes the largest super-segment with its
// virtio-net and link headers; Small keeps a lone segment, Medium a jumbo frame
// or a few segments, without holding a Large one for them.
const (
	Large  = 66 << 10
	Medium = 10 << 10
	Small  = 2 << 10
)

// sizes are the sizes of buffer in order; a size's index is its class.
var sizes = [...]int{Small, Medium, Large}

// class is that of the smallest buffer with n octets, len(sizes) when there is
// none.
func class(n int) int {
	for i, size := range sizes {
		if n <= size {
			return i
		}
	}
	return len(sizes)
}

// A Buf is one buffer of a Pool.
type Buf struct {
	B    []byte // the whole buffer: as long as one of the sizes
	refs int32
	pool *Pool
	next *Buf
}

// Retain adds a reference.
func (b *Buf) Retain() { b.refs++ }

// Release gives a reference back. After the last one the buffer waits until
// the pool's next Recycle, so that a frame queued for transmission from it
// stays whole until it has been sent.
func (b *Buf) Release() {
	b.refs--
	if b.refs > 0 {
		return
	}
	if b.refs < 0 {
		panic("frame: buffer released twice")
	}
	b.next = b.pool.parting
	b.pool.parting = b
}

// Wrap is a buffer over memory of the caller's. It is never given back: one of its
// references is the caller's for good.
func Wrap(b []byte) *Buf { return &Buf{B: b, refs: 1} }

// Shared reports that somebody has a reference beside the caller.
func (b *Buf) Shared() bool { return b.refs > 1 }

// Cap is the memory that b holds, in octets.
func (b *Buf) Cap() int { return len(b.B) }

// A Span is a piece of payload in a buffer: Buf.B[Off:Off+Len].
type Span struct {
	Buf      *Buf
	Off, Len uint32
}

// Bytes returns the payload.
func (s Span) Bytes() []byte { return s.Buf.B[s.Off : s.Off+s.Len] }

// Slice returns the span of n octets that starts at from within s. It takes
// no reference.
func (s Span) Slice(from, n uint32) Span {
	if from+n > s.Len || from+n < from {
		panic("frame: slice outside of its span")
	}
	return Span{s.Buf, s.Off + from, n}
}

// Reserve is what a pool gives out beyond its limit, in octets: who receives
// frames then still sees the acknowledgements that free other buffers, as long
// as it keeps none of them (Scarce).
const Reserve = 4 << 20

// A Pool makes buffers and takes them back. Its limit is on the octets held
// by buffers that are in use.
type Pool struct {
	limit, used int
	free        [len(sizes)]*Buf // of each class
	parting     *Buf             // released, perhaps still queued for transmission
}

// NewPool returns a pool that holds at most limit octets in use, and Reserve.
func NewPool(limit int) *Pool { return &Pool{limit: limit} }

// Used is the number of octets in buffers that are in use.
func (p *Pool) Used() int { return p.used }

// Limit is the number of octets that may be in use.
func (p *Pool) Limit() int { return p.limit }

// Scarce reports that the limit is reached: what is got now is of the reserve
// and must be given back within the turn.
func (p *Pool) Scarce() bool { return p.used > p.limit }

// Get returns the smallest buffer of at least n octets with one reference, or
// nil when n is above Large or limit and reserve are in use.
func (p *Pool) Get(n int) *Buf {
	k := class(n)
	if k == len(sizes) || p.used+sizes[k] > p.limit+Reserve {
		return nil
	}
	p.used += sizes[k]
	b := p.free[k]
	if b == nil {
		return &Buf{B: make([]byte, sizes[k]), refs: 1, pool: p}
	}
	p.free[k], b.next, b.refs = b.next, nil, 1
	return b
}

// Recycle makes the buffers released since the last call free for Get. Call
// it when no frame is waiting for transmission.
func (p *Pool) Recycle() {
	for b := p.parting; b != nil; {
		next := b.next
		k := class(len(b.B))
		b.next = p.free[k]
		p.free[k] = b
		p.used -= len(b.B)
		b = next
	}
	p.parting = nil
}
