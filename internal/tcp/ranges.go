package tcp

import "toehold/internal/seqnum"

// maxRanges bounds a set of ranges, and with it the work that one segment can
// cause.
const maxRanges = 1024

// ranges is a set of sequence numbers: ranges in order, neither touching nor
// overlapping.
type ranges struct{ list []seqnum.Range }

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

// add puts x into the set. It reports false, and changes nothing, when x needs
// a range and there are maxRanges already.
func (r *ranges) add(x seqnum.Range) bool {
	i := r.find(x.Lo)
	j := i
	for j < len(r.list) && r.list[j].Lo.LessEq(x.Hi) {
		j++
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
	return true
}

func (r *ranges) insert(i int, x seqnum.Range) bool {
	if r.full() {
		return false
	}
	r.list = append(r.list, seqnum.Range{})
	copy(r.list[i+1:], r.list[i:])
	r.list[i] = x
	return true
}

// cutBefore takes what is before v out of the set.
func (r *ranges) cutBefore(v seqnum.Value) {
	i := 0
	for i < len(r.list) && r.list[i].Hi.LessEq(v) {
		i++
	}
	if i > 0 {
		r.list = append(r.list[:0], r.list[i:]...)
	}
	if len(r.list) > 0 {
		r.list[0].Lo = seqnum.Max(r.list[0].Lo, v)
	}
}

// cutFrom takes v and what is after it out of the set.
func (r *ranges) cutFrom(v seqnum.Value) {
	n := len(r.list)
	for n > 0 && v.LessEq(r.list[n-1].Lo) {
		n--
	}
	r.list = r.list[:n]
	if n > 0 {
		r.list[n-1].Hi = seqnum.Min(r.list[n-1].Hi, v)
	}
}
