package device

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/shm"
)

// A ring is the host's memory of what a bypassed connection has sent: the octet with
// sequence number q is at q modulo its size. The wire engine sends from it. What was
// acknowledged is overwritten, also where a frame still waits in a port that was full:
// the peer drops what it has.
type ring struct {
	buf  *frame.Buf
	used bool      // has memory
	at   mono.Time // when that is given back, 0: not now
}

// ringOf is the ring of a slot, nil when there is none, or somebody has a piece of it,
// as of a connection that went while a port was full.
func (d *Device) ringOf(index uint32) *ring {
	if len(d.memory) < int(index+1)*abi.RingSize {
		return nil
	}
	r := d.rings[index]
	if r == nil {
		at := int(index) * abi.RingSize
		r = &ring{buf: frame.Wrap(d.memory[at : at+abi.RingSize : at+abi.RingSize])}
		d.rings[index] = r
	}
	if r.buf.Shared() {
		return nil
	}
	return r
}

// space is where n octets from seq on lie, the second part after the wrap.
func (r *ring) space(seq seqnum.Value, n uint32) (a, b []byte) {
	at := uint32(seq) % abi.RingSize
	first := min(n, abi.RingSize-at)
	return r.buf.B[at : at+first], r.buf.B[:n-first]
}

// send queues n octets from seq on, which are in the ring, on the wire engine.
func (c *conn) send(seq seqnum.Value, n uint32) {
	for n > 0 {
		at := uint32(seq) % abi.RingSize
		part := min(n, abi.RingSize-at)
		c.ring.buf.Retain()
		c.wire.Send(frame.Span{Buf: c.ring.buf, Off: at, Len: part})
		seq, n = seq.Add(part), n-part
	}
	c.ring.used = true
}

// vacate gives the memory of a ring back, of which nothing is needed any more.
func (r *ring) vacate() {
	if r != nil && r.used && unix.Madvise(r.buf.B, unix.MADV_REMOVE) == nil {
		r.used = false
	}
}

// tidy gives the ring's memory back when nothing was in it for a while.
func (c *conn) tidy(now mono.Time) {
	r := c.ring
	switch {
	case r == nil || !r.used:
	case c.wire.SndUna().Less(c.wire.SndEnd()):
		r.at = 0
	case r.at == 0:
		r.at = now.Add(vacateAfter)
	case r.at <= now:
		r.vacate()
		r.at = 0
	}
}

// publishLedger says what of c is in the device's care. The numbers are written so
// that each change is one store, also where the device dies between two of them: SndEnd
// is always HostNxt+Taken, as every octet sent came from S's TCP or from C.
func (d *Device) publishLedger(c *conn) {
	l, by := &d.blocks[c.id.Index()].Ledger, c.by
	by.una = seqnum.Min(c.wire.SndUna(), c.wire.SndEnd()) // without a FIN
	if by.past || by.start.LessEq(by.una) {
		by.past, by.start = true, by.una
	}
	shm.Begin(&l.Sequence)
	l.SndUna, l.SndStart, l.RcvStart = uint32(by.una), uint32(by.start), uint32(by.rcvStart)
	atomic.StoreUint64(&l.Taken, by.taken)
	atomic.StoreUint64(&l.Delivered, by.delivered)
	atomic.StoreUint32(&l.HostNxt, uint32(by.hostNxt))
	l.SndEnd = uint32(by.hostNxt.Add(uint32(by.taken)))
	atomic.StoreUint64((*uint64)(&l.HWID), uint64(c.id)) // the rest was another's before
	shm.End(&l.Sequence)
}

// closeLedger says that S has everything itself.
func (d *Device) closeLedger(c *conn) {
	l := &d.blocks[c.id.Index()].Ledger
	shm.Publish(&l.Sequence, func() { l.HWID = 0 })
}
