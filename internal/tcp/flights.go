package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// A mark is what is known of a flight.
type mark uint8

const (
	sacked  mark = 1 << iota // the peer has it (RFC 2018)
	lost                     // held for lost
	resent                   // sent again since it was held for lost
	again                    // was sent more than once (Karn)
	starved                  // sent when there was nothing more to send
)

// A flight is consecutive octets in flight that were last sent at one time, and
// what of the delivery rate was known then (Linux struct tcp_skb_cb).
type flight struct {
	lo, hi  seqnum.Value
	at      mono.Time // last sent
	prior   uint64    // octets delivered before that
	priorAt mono.Time // when the last of them were
	firstAt mono.Time // when the first octets of the sample were sent
	marks   mark
}

func (x *flight) len() uint32 { return x.hi.Sub(x.lo) }

func (x *flight) is(m mark) bool { return x.marks&m != 0 }

// missing reports that x is held for lost and was not sent again.
func (x *flight) missing() bool { return x.marks&(lost|resent|sacked) == lost }

// maxFlights bounds the scoreboard, and with it the memory and the work that a
// peer's acknowledgments can cause. Some of it is kept for what is sent, and
// some for what is sent again.
const (
	maxFlights  = 2048
	keptForNew  = 512
	keptForLost = 256
)

// flights is the scoreboard: all that is in flight, in order and without gaps,
// and sums in octets. Neighbours that are SACKed are one.
type flights struct {
	deque[flight]
	sacked, lost, resent uint32
	runs                 uint32 // flights that are SACKed
}

// full reports that no more can be told apart by SACK blocks.
func (f *flights) full() bool { return f.len() >= maxFlights-keptForNew }

// push takes in what was just sent. What was sent at the same time is one
// flight; when there are too many, the last one is taken for sent now.
func (f *flights) push(x flight) {
	if !f.empty() {
		last := f.last()
		if last.at == x.at && last.marks == x.marks || f.len() >= maxFlights-keptForLost && !last.is(sacked|lost) {
			last.hi, last.at, last.marks = x.hi, x.at, last.marks|x.marks
			return
		}
	}
	f.append(x)
}

// find returns the index of the flight that v is in, tail when there is none.
func (f *flights) find(v seqnum.Value) uint32 {
	lo, n := f.head, f.len()
	if n > 0 && v.Less(f.first().hi) {
		return lo
	}
	for n > 0 {
		half := n / 2
		if v.Less(f.at(lo + half).hi) {
			n = half
			continue
		}
		lo += half + 1
		n -= half + 1
	}
	return lo
}

// split makes v, within the flight at i, the border of two. It reports false
// when there are too many already.
func (f *flights) split(i uint32, v seqnum.Value) bool {
	if f.len() >= maxFlights {
		return false
	}
	f.open(i)
	*f.at(i) = *f.at(i + 1)
	f.at(i).hi, f.at(i+1).lo = v, v
	return true
}

// count adds or takes away n octets of x to and from the sums.
func (f *flights) count(x *flight, n uint32) {
	if x.is(sacked) {
		f.sacked += n
	}
	if x.is(lost) {
		f.lost += n
	}
	if x.is(resent) {
		f.resent += n
	}
}

// set gives the flight at i other marks.
func (f *flights) set(x *flight, m mark) {
	f.count(x, -x.len())
	if x.is(sacked) {
		f.runs--
	}
	x.marks = m
	if x.is(sacked) {
		f.runs++
	}
	f.count(x, x.len())
}

// cut takes the first n octets off the first flight, and the flight with its
// last ones.
func (f *flights) cut(n uint32) {
	x := f.first()
	f.count(x, -n)
	x.lo = x.lo.Add(n)
	if x.lo != x.hi {
		return
	}
	if x.is(sacked) {
		f.runs--
	}
	f.head++
}

// join makes the flight at i one with its neighbours that are SACKed as well.
// It returns its index.
func (f *flights) join(i uint32) uint32 {
	from, to := i, i+1
	if from != f.head && f.at(from-1).is(sacked) {
		from--
	}
	if to != f.tail && f.at(to).is(sacked) {
		to++
	}
	if to-from > 1 {
		x := f.at(from)
		for k := from + 1; k != to; k++ {
			x.hi, x.at, x.marks = f.at(k).hi, max(x.at, f.at(k).at), x.marks|f.at(k).marks&again
		}
		f.runs -= to - from - 1
		f.shut(from+1, to)
	}
	return from
}

// pipe is how many octets are thought to be in the network (RFC 6675, section
// 4: SetPipe; Linux tcp_packets_in_flight).
func (f *flights) pipe(flight uint32) uint32 {
	return flight - min(flight, f.sacked+f.lost) + f.resent
}

// each calls do for every stretch that is SACKed, in order.
func (f *flights) each(do func(seqnum.Range)) {
	for i := f.head; i != f.tail; i++ {
		if x := f.at(i); x.is(sacked) {
			do(seqnum.Range{Lo: x.lo, Hi: x.hi})
		}
	}
}

// clear forgets everything.
func (f *flights) clear() {
	f.head = f.tail
	f.sacked, f.lost, f.resent, f.runs = 0, 0, 0, 0
}
