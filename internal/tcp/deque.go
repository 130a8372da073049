package tcp

// A deque is a ring that grows as needed. Indexes are absolute: they run
// freely modulo 2^32 and stay true while the ring grows.
type deque[T any] struct {
	ring []T    // length 0 or a power of two
	head uint32 // index of the first element
	tail uint32 // index after the last one
}

const firstRing = 8 // elements

func (q *deque[T]) len() uint32 { return q.tail - q.head }

func (q *deque[T]) empty() bool { return q.tail == q.head }

func (q *deque[T]) at(i uint32) *T { return &q.ring[i&uint32(len(q.ring)-1)] }

func (q *deque[T]) first() *T { return q.at(q.head) }

func (q *deque[T]) last() *T { return q.at(q.tail - 1) }

// grow makes room for one more element.
func (q *deque[T]) grow() {
	if int(q.len()) < len(q.ring) {
		return
	}
	bigger := make([]T, max(2*len(q.ring), firstRing))
	for i := q.head; i != q.tail; i++ {
		bigger[i&uint32(len(bigger)-1)] = *q.at(i)
	}
	q.ring = bigger
}

func (q *deque[T]) append(x T) {
	q.grow()
	*q.at(q.tail) = x
	q.tail++
}

// open makes a free place at index i by moving all from there on.
func (q *deque[T]) open(i uint32) {
	q.grow()
	for k := q.tail; k != i; k-- {
		*q.at(k) = *q.at(k - 1)
	}
	q.tail++
}

// shut closes the places from index i to before j, whose elements are gone.
func (q *deque[T]) shut(i, j uint32) {
	if i == j {
		return
	}
	for ; j != q.tail; i, j = i+1, j+1 {
		*q.at(i) = *q.at(j)
	}
	for k := i; k != q.tail; k++ {
		var none T
		*q.at(k) = none
	}
	q.tail = i
}

// giveBack frees the ring of an empty deque.
func (q *deque[T]) giveBack() {
	if q.empty() {
		*q = deque[T]{head: q.head, tail: q.tail}
	}
}
