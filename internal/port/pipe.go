package port

import "toehold/internal/frame"

// pipeDepth is how many frames lie in a pipe before it blocks.
const pipeDepth = 1024

// Pipe is one end of a port in memory. Both ends belong to one goroutine.
type Pipe struct {
	pool  *frame.Pool // of what this end receives
	peer  *Pipe
	inbox []Received // a ring
	head  int
	count int
	gone  bool
	stats Stats
	queue queue
}

// NewPipe returns two ports joined in memory. What the first receives comes
// from pool a, what the second receives from b, which may be the same.
func NewPipe(a, b *frame.Pool) (*Pipe, *Pipe) {
	x := &Pipe{pool: a, inbox: make([]Received, pipeDepth)}
	y := &Pipe{pool: b, inbox: make([]Received, pipeDepth)}
	x.peer, y.peer = y, x
	return x, y
}

// FD is -1: there is nothing to wait on.
func (p *Pipe) FD() int { return -1 }

// Receive implements Port.
func (p *Pipe) Receive(into []Received) (int, error) {
	got := 0
	for got < len(into) && p.count > 0 {
		into[got] = p.inbox[p.head]
		p.inbox[p.head] = Received{}
		p.stats.received(into[got].N)
		p.head = (p.head + 1) % pipeDepth
		p.count--
		got++
	}
	if got == 0 && p.peer.gone {
		return 0, ErrGone
	}
	return got, nil
}

// Queue implements Port. A frame past the limits of one frame is counted in
// TxErrors and dropped.
func (p *Pipe) Queue(header []byte, pieces []frame.Span) bool {
	if !fits(header, pieces) {
		p.stats.TxErrors++
		return true
	}
	return p.queue.add(header, pieces)
}

// Flush implements Port. It blocks when the other end leaves pipeDepth
// frames unread.
func (p *Pipe) Flush() (bool, error) {
	if p.peer.gone {
		p.queue.pop(p.queue.pending())
		return true, ErrGone
	}
	for p.queue.pending() > 0 {
		if p.peer.count == pipeDepth {
			p.stats.TxBlocked++
			return false, nil
		}
		p.stats.TxFrames++
		p.stats.TxBytes += p.queue.octets(1)
		p.deliver(p.queue.first)
		p.queue.pop(1)
	}
	return true, nil
}

// deliver copies frame i to the other end's inbox.
func (p *Pipe) deliver(i int) {
	f, to := &p.queue.frames[i], p.peer
	if f.octets > frame.Large {
		to.stats.RxTooLarge++
		return
	}
	b := to.pool.Get(f.octets)
	if b == nil {
		to.stats.RxNoBuffer++
		return
	}
	at := 0
	for _, v := range p.queue.iovecs[i][:f.iovecs] {
		at += copy(b.B[at:], octetsOf(v))
	}
	to.inbox[(to.head+to.count)%pipeDepth] = Received{b, at}
	to.count++
}

// Pending implements Port.
func (p *Pipe) Pending() int { return p.queue.pending() }

// Stats implements Port.
func (p *Pipe) Stats() Stats { return p.stats }

// Close drops what is queued and what was not received. The other end can
// still receive what was flushed.
func (p *Pipe) Close() error {
	p.gone = true
	p.queue.pop(p.queue.pending())
	for ; p.count > 0; p.count-- {
		p.inbox[p.head].Buf.Release()
		p.head = (p.head + 1) % pipeDepth
	}
	return nil
}
