package tcp

import (
	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

// An entry is a span with its place in sequence space. It holds one reference
// to its buffer.
type entry struct {
	buf *frame.Buf
	off uint32
	len uint32
	seq seqnum.Value
}

func (e *entry) end() seqnum.Value { return e.seq.Add(e.len) }

func (e *entry) span() frame.Span { return frame.Span{Buf: e.buf, Off: e.off, Len: e.len} }

// cut drops the first n octets, n < e.len.
func (e *entry) cut(n uint32) {
	e.off += n
	e.len -= n
	e.seq = e.seq.Add(n)
}

// A queue is entries in sequence order, disjoint.
type queue struct{ deque[entry] }

func (q *queue) push(s frame.Span, seq seqnum.Value) {
	q.append(entry{s.Buf, s.Off, s.Len, seq})
}

// drop releases the first entry.
func (q *queue) drop() {
	e := q.at(q.head)
	e.buf.Release()
	e.buf = nil
	q.head++
}

// dropLast releases the last entry.
func (q *queue) dropLast() {
	e := q.last()
	e.buf.Release()
	e.buf = nil
	q.tail--
}

// dropBefore releases what is before v, octets of an entry that v is in
// included.
func (q *queue) dropBefore(v seqnum.Value) {
	for !q.empty() {
		e := q.at(q.head)
		if v.Less(e.end()) {
			if e.seq.Less(v) {
				e.cut(v.Sub(e.seq))
			}
			return
		}
		q.drop()
	}
}

// find returns the index of the first entry that ends after v, q.tail when
// there is none.
func (q *queue) find(v seqnum.Value) uint32 {
	lo, n := q.head, q.len()
	if n > 0 && v.Less(q.at(lo).end()) {
		return lo
	}
	for n > 0 {
		half := n / 2
		if v.Less(q.at(lo + half).end()) {
			n = half
			continue
		}
		lo += half + 1
		n -= half + 1
	}
	return lo
}

// put takes in a span in place of the entries from index i to before j.
func (q *queue) put(i, j uint32, s frame.Span, seq seqnum.Value) {
	for k := i; k != j; k++ {
		q.at(k).buf.Release()
	}
	if i == j {
		q.open(i)
		j++
	}
	*q.at(i) = entry{s.Buf, s.Off, s.Len, seq}
	q.shut(i+1, j)
}

// clear releases everything.
func (q *queue) clear() {
	for !q.empty() {
		q.drop()
	}
}
