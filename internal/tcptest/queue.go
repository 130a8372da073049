package tcptest

import "toehold/internal/mono"

// A task is what happens at an event. Its kinds are pointers, which an
// interface holds without allocating.
type task interface{ run() }

type call func()

func (f call) run() { f() }

type event struct {
	at     mono.Time
	serial uint64
	do     task
}

func (e *event) before(f *event) bool {
	return e.at < f.at || e.at == f.at && e.serial < f.serial
}

// A queue is a binary heap of events, the next one first. It is container/heap
// without the allocation of each event.
type queue []event

func (q *queue) push(e event) {
	*q = append(*q, e)
	h, i := *q, len(*q)-1
	for i > 0 {
		up := (i - 1) / 2
		if !e.before(&h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
}

func (q *queue) pop() event {
	h := *q
	first, n := h[0], len(h)-1
	last := h[n]
	h[n] = event{}
	*q = h[:n]
	if n > 0 {
		h[:n].sink(last)
	}
	return first
}

// sink puts e in the place of the first event.
func (q queue) sink(e event) {
	i := 0
	for {
		down := 2*i + 1
		if down >= len(q) {
			break
		}
		if down+1 < len(q) && q[down+1].before(&q[down]) {
			down++
		}
		if !q[down].before(&e) {
			break
		}
		q[i] = q[down]
		i = down
	}
	q[i] = e
}
