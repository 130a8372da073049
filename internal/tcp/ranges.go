package tcp

import "toehold/internal/seqnum"

// maxRanges bounds a set of ranges, and with it the work that one segment can
// cause.
const maxRanges = 1024

// ranges is a set of sequence numbers: ranges in order, neither touching nor
// overlapping.
type ranges struct {
	list   []seqnum.Range
	octets uint32 // in all of them
}

func (r *ranges) empty() bool { return len(r.list) == 0 }

func (r *ranges) full() bool { return len(r.list) >= maxRanges }

// find returns the index of the first range that ends at v or after it.
func (r *ranges) find(v seqnum.Value) int {
	lo, n := 0, len(r.list)
	if n > 0 && r.list[n-1].Hi.Less(v) {
		return n
	}
	for n > 0 {
		half := n / 2
		if !r.list[lo+half].Hi.Less(v) {
			n = half
			continue
		}
		lo += half + 1
		n -= half + 1
	}
	return lo
}

// covering returns the range that v is in.
func (r *ranges) covering(v seqnum.Value) (seqnum.Range, bool) {
	i := r.find(v)
	if i < len(r.list) && r.list[i].Hi == v {
		i++
	}
	if i < len(r.list) && r.list[i].Contains(v) {
		return r.list[i], true
	}
	return seqnum.Range{}, false
}

// has reports whether all of x is in the set.
func (r *ranges) has(x seqnum.Range) bool {
	in, ok := r.covering(x.Lo)
	return ok && x.Hi.LessEq(in.Hi)
}

// add puts x into the set and returns the number of octets that are new. It
// reports false, and changes nothing, when x needs a range and there are
// maxRanges already.
func (r *ranges) add(x seqnum.Range) (uint32, bool) {
	i := r.find(x.Lo)
	j, was := i, uint32(0)
	for ; j < len(r.list) && r.list[j].Lo.LessEq(x.Hi); j++ {
		was += r.list[j].Len()
	}
	if i == j {
		return r.insert(i, x)
	}
	x.Lo = seqnum.Min(x.Lo, r.list[i].Lo)
	x.Hi = seqnum.Max(x.Hi, r.list[j-1].Hi)
	r.list[i] = x
	if j > i+1 {
		r.list = append(r.list[:i+1], r.list[j:]...)
	}
	r.octets += x.Len() - was
	return x.Len() - was, true
}

func (r *ranges) insert(i int, x seqnum.Range) (uint32, bool) {
	if r.full() {
		return 0, false
	}
	r.list = append(r.list, seqnum.Range{})
	copy(r.list[i+1:], r.list[i:])
	r.list[i] = x
	r.octets += x.Len()
	return x.Len(), true
}

// cutBefore takes what is before v out of the set.
func (r *ranges) cutBefore(v seqnum.Value) {
	i := 0
	for ; i < len(r.list) && r.list[i].Hi.LessEq(v); i++ {
		r.octets -= r.list[i].Len()
	}
	if i > 0 {
		r.list = append(r.list[:0], r.list[i:]...)
	}
	if len(r.list) > 0 && r.list[0].Lo.Less(v) {
		r.octets -= v.Sub(r.list[0].Lo)
		r.list[0].Lo = v
	}
}

// cutFrom takes v and what is after it out of the set.
func (r *ranges) cutFrom(v seqnum.Value) {
	n := len(r.list)
	for ; n > 0 && v.LessEq(r.list[n-1].Lo); n-- {
		r.octets -= r.list[n-1].Len()
	}
	r.list = r.list[:n]
	if n > 0 && v.Less(r.list[n-1].Hi) {
		r.octets -= r.list[n-1].Hi.Sub(v)
		r.list[n-1].Hi = v
	}
}

// from counts the octets of the set at v and after it.
func (r *ranges) from(v seqnum.Value) uint32 {
	n := uint32(0)
	for i := len(r.list) - 1; i >= 0 && v.Less(r.list[i].Hi); i-- {
		n += r.list[i].Hi.Sub(seqnum.Max(v, r.list[i].Lo))
	}
	return n
}

// gap returns the first stretch at v or after it that is not in the set; it
// ends at limit at the latest.
func (r *ranges) gap(v, limit seqnum.Value) seqnum.Range {
	for i := r.find(v); i < len(r.list); i++ {
		if v.Less(r.list[i].Lo) {
			return seqnum.Range{Lo: v, Hi: seqnum.Min(limit, r.list[i].Lo)}
		}
		v = seqnum.Max(v, r.list[i].Hi)
	}
	return seqnum.Range{Lo: v, Hi: limit}
}

// giveBack frees the memory of an empty set.
func (r *ranges) giveBack() {
	if r.empty() {
		*r = ranges{}
	}
}
