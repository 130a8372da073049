package tcptest

import (
	"toehold/internal/frame"
	"toehold/internal/wire"
)

// Merging is what a receiver's GRO does (Linux tcp_gro_receive): segments that
// follow each other, alike but for FIN and PSH, become one super-segment.

// merge adds p to the batch, or ends the batch and begins another.
func (l *Link) merge(p *packet) {
	if l.batch != nil && l.join(l.batch, p) {
		l.world.discard(p)
		if ends(&l.batch.seg) {
			l.flush()
		}
		return
	}
	l.flush()
	if l.Merge == 0 || p.seg.Payload.Len == 0 || p.seg.Size > 0 || ends(&p.seg) {
		l.deliver(p)
		return
	}
	l.batch, l.until = p, l.world.Now.Add(l.Merge)
	l.world.at(l.until, (*batchEnd)(l))
}

// A batchEnd is when a link's batch has waited long enough, unless it has
// ended and another has begun.
type batchEnd Link

func (e *batchEnd) run() {
	if e.world.Now >= e.until {
		(*Link)(e).flush()
	}
}

// ends reports whether nothing may follow seg in a batch: its last segment is
// a short one, or says that it is the last.
func ends(seg *wire.Segment) bool {
	return seg.Flags&(wire.FIN|wire.PSH|wire.RST|wire.SYN|wire.URG) != 0 || seg.Size > 0 && seg.Payload.Len%uint32(seg.Size) != 0
}

// join appends p to the batch when it may.
func (l *Link) join(b, p *packet) bool {
	if !alike(&b.seg, &p.seg) || !l.widen(b) {
		return false
	}
	s := &b.seg
	if s.Size == 0 {
		s.Size = uint16(s.Payload.Len)
	}
	end := s.Payload.Off + s.Payload.Len
	copy(s.Payload.Buf.B[end:], p.seg.Payload.Bytes())
	s.Payload.Len += p.seg.Payload.Len
	s.Flags |= p.seg.Flags
	return true
}

// alike reports whether p may follow b in a batch.
func alike(b, p *wire.Segment) bool {
	const may = wire.FIN | wire.PSH
	size := uint32(b.Size)
	if size == 0 {
		size = b.Payload.Len
	}
	return p.Seq == b.Seq.Add(b.Payload.Len) && p.Payload.Len > 0 && p.Payload.Len <= size &&
		b.Payload.Len+p.Payload.Len <= wire.MaxSuper && (p.Flags^b.Flags)&^may == 0 &&
		p.Ack == b.Ack && p.Window == b.Window && p.TSOK == b.TSOK && p.TSVal == b.TSVal && p.TSEcr == b.TSEcr &&
		p.NSACK == 0 && b.NSACK == 0 && p.Size == 0 && p.ECN == b.ECN
}

// widen gives a batch of one segment a buffer of its own that all may go into.
func (l *Link) widen(b *packet) bool {
	old := b.seg.Payload
	if b.seg.Size > 0 {
		return true
	}
	large := l.world.Pool.Get(frame.Large)
	if large == nil {
		return false
	}
	copy(large.B[old.Off:], old.Bytes())
	b.seg.Payload.Buf = large
	old.Buf.Release()
	return true
}

// flush delivers the batch.
func (l *Link) flush() {
	if b := l.batch; b != nil {
		l.batch = nil
		l.deliver(b)
	}
}
