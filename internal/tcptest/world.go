// Package tcptest lets TCP engines talk over simulated links in virtual time:
// a World with its events, Links that lose, double, delay and reorder, Ends
// that are an engine with a program on top, and Relays that join two engines
// as the device does. Everything follows from a seed.
package tcptest

import (
	"container/heap"
	"math/rand/v2"
	"time"

	"toehold/internal/mono"
)

// A World is virtual time. It starts at one hour, as 0 means never.
type World struct {
	Now    mono.Time
	Rand   *rand.Rand
	events events
	serial uint64
}

// NewWorld returns a world whose chances follow from seed.
func NewWorld(seed uint64) *World {
	return &World{Now: mono.Time(time.Hour), Rand: rand.New(rand.NewPCG(seed, 0x70e401d))}
}

// At runs f at the given time; what is due at the same time runs in order of
// the calls.
func (w *World) At(t mono.Time, f func()) {
	w.serial++
	heap.Push(&w.events, event{max(t, w.Now), w.serial, f})
}

// After runs f when d has passed.
func (w *World) After(d time.Duration, f func()) { w.At(w.Now.Add(d), f) }

// Run runs events until done reports true, none is left, or the limit in
// virtual time or in events is reached. It reports whether done was reached.
func (w *World) Run(limit time.Duration, maxEvents int, done func() bool) bool {
	end := w.Now.Add(limit)
	for n := 0; n < maxEvents; n++ {
		if done() {
			return true
		}
		if len(w.events) == 0 || w.events[0].at > end {
			return false
		}
		e := heap.Pop(&w.events).(event)
		w.Now = e.at
		e.run()
	}
	return false
}

// RunUntil runs every event up to t and sets the time to it.
func (w *World) RunUntil(t mono.Time) {
	for len(w.events) > 0 && w.events[0].at <= t {
		e := heap.Pop(&w.events).(event)
		w.Now = e.at
		e.run()
	}
	w.Now = max(w.Now, t)
}

// Chance is true with probability p.
func (w *World) Chance(p float64) bool { return p > 0 && w.Rand.Float64() < p }

type event struct {
	at     mono.Time
	serial uint64
	run    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return x
}
