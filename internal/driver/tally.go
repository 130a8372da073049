package driver

import (
	"cmp"
	"slices"
	"time"
)

// A Tally is how many events there were of one kind, device and reason.
type Tally struct {
	Kind, Device, Reason string
	Count                uint64
}

// A Timing is how long the moves of one kind to or from one device took.
type Timing struct {
	Kind, Device string
	Took         Histogram // as Elapsed of an Event
	Stall        Histogram
}

// Bounds are the upper bounds of a Histogram's classes but the last.
var Bounds = [...]time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, time.Second, 5 * time.Second,
}

// A Histogram counts durations. Count[i] are those up to Bounds[i] and above
// the bound before; the last ones are longer than all bounds.
type Histogram struct {
	Count [len(Bounds) + 1]uint64
	Sum   time.Duration
}

func (h *Histogram) observe(d time.Duration) {
	i, _ := slices.BinarySearch(Bounds[:], d)
	h.Count[i]++
	h.Sum += d
}

// tallies count events. Kinds, reasons and devices are short lists, so the
// maps stay small.
type tallies struct {
	counts  map[Tally]uint64 // by a Tally whose Count is 0
	timings map[[2]string]*Timing
}

func newTallies() tallies {
	return tallies{counts: make(map[Tally]uint64), timings: make(map[[2]string]*Timing)}
}

// count takes an event. Connections that came home because their device was
// lost were not moved by anybody, and took no time.
func (t *tallies) count(e *Event) {
	t.counts[Tally{Kind: e.Kind, Device: e.Device, Reason: e.Reason}]++
	if e.Elapsed == 0 || e.Kind != EventOffloaded && e.Kind != EventUploaded {
		return
	}
	key := [2]string{e.Kind, e.Device}
	if t.timings[key] == nil {
		t.timings[key] = &Timing{Kind: e.Kind, Device: e.Device}
	}
	t.timings[key].Took.observe(time.Duration(e.Elapsed) * time.Microsecond)
	t.timings[key].Stall.observe(time.Duration(e.Stall) * time.Microsecond)
}

// Tallies returns what was counted since the Journal was made, in a fixed
// order.
func (j *Journal) Tallies() ([]Tally, []Timing) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var counts []Tally
	for k, n := range j.tallies.counts {
		k.Count = n
		counts = append(counts, k)
	}
	var timings []Timing
	for _, t := range j.tallies.timings {
		timings = append(timings, *t)
	}
	slices.SortFunc(counts, func(a, b Tally) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Reason, b.Reason))
	})
	slices.SortFunc(timings, func(a, b Timing) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Device, b.Device))
	})
	return counts, timings
}
