// Package tcptest lets TCP engines talk over simulated links in virtual time:
// a World with its events, Links that split, merge, lose, double, delay and
// reorder, Lines that several links share, Ends that are an engine with a
// program on top, and Relays that join two engines as the device does.
// Everything follows from a seed.
package tcptest

import (
	"math/rand/v2"
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/wire"
)

// A World is virtual time. It starts at one hour, as 0 means never. It and all
// in it belong to one goroutine.
type World struct {
	Now  mono.Time
	Rand *rand.Rand
	Pool *frame.Pool // of everybody
	// Check sees every box after its output; nil: nobody looks.
	Check func(*Box)

	source rand.PCG
	queue  queue
	serial uint64
	free   *packet
}

// NewWorld returns a world whose chances follow from seed.
func NewWorld(seed uint64) *World {
	w := &World{Pool: frame.NewPool(1 << 30)}
	w.Rand = rand.New(&w.source)
	w.Reset(seed)
	return w
}

// Reset makes w as new, but keeps its memory: thousands of short runs cost
// little more than what happens in them.
func (w *World) Reset(seed uint64) {
	w.Clear()
	w.Now, w.serial = mono.Time(time.Hour), 0
	w.source.Seed(seed, 0x70e401d)
}

// Clear forgets all that is to happen and releases what is on its way.
func (w *World) Clear() {
	for _, e := range w.queue {
		switch do := e.do.(type) {
		case *packet:
			w.discard(do)
		case *batchEnd:
			if do.batch != nil {
				w.discard(do.batch)
				do.batch = nil
			}
		}
	}
	clear(w.queue)
	w.queue = w.queue[:0]
	w.Pool.Recycle()
}

// At runs f at the given time; what is due at the same time runs in order of
// the calls.
func (w *World) At(t mono.Time, f func()) { w.at(t, call(f)) }

// After runs f when d has passed.
func (w *World) After(d time.Duration, f func()) { w.At(w.Now.Add(d), f) }

func (w *World) at(t mono.Time, do task) {
	w.serial++
	w.queue.push(event{max(t, w.Now), w.serial, do})
}

// Run runs events until done reports true, none is left, or the limit in
// virtual time or in events is reached. It reports whether done was reached.
func (w *World) Run(limit time.Duration, maxEvents int, done func() bool) bool {
	end := w.Now.Add(limit)
	for n := 0; n < maxEvents; n++ {
		if done() {
			return true
		}
		if len(w.queue) == 0 || w.queue[0].at > end {
			return false
		}
		w.step()
	}
	return false
}

// RunUntil runs every event up to t and sets the time to it.
func (w *World) RunUntil(t mono.Time) {
	for len(w.queue) > 0 && w.queue[0].at <= t {
		w.step()
	}
	w.Now = max(w.Now, t)
}

func (w *World) step() {
	e := w.queue.pop()
	w.Now = e.at
	e.do.run()
}

// Chance is true with probability p.
func (w *World) Chance(p float64) bool { return p > 0 && w.Rand.Float64() < p }

// A packet is a segment on its way, which holds a reference to its payload.
type packet struct {
	seg  wire.Segment
	link *Link
	next *packet // of those not in use
}

func (p *packet) run() { p.link.arrive(p) }

func (w *World) packet(l *Link) *packet {
	p := w.free
	if p == nil {
		return &packet{link: l}
	}
	w.free, p.next, p.link = p.next, nil, l
	return p
}

// discard gives p and its reference back.
func (w *World) discard(p *packet) {
	if b := p.seg.Payload.Buf; b != nil {
		b.Release()
	}
	p.seg.Payload, p.link = frame.Span{}, nil
	p.next, w.free = w.free, p
}
