package device

import (
	"time"

	"toehold/internal/mono"
)

// A wheel keeps the connections' deadlines: a ring of slots of one tick each,
// every operation O(1) (Varghese and Lauck, scheme 4). A deadline past the
// horizon waits in the farthest slot and is set again from there.
type wheel struct {
	slots [wheelSlots]timer // heads of circular lists
	due   timer             // head of the list that run is at; a local one would be on the heap
	tick  int64             // the last tick that has been run
	armed int
}

// A tick is short beside a millisecond, so that what is paced leaves evenly.
const (
	wheelSlots = 8192
	wheelTick  = 100 * time.Microsecond
)

// A timer is one connection's place in the wheel.
type timer struct {
	next, prev *timer
	at         mono.Time // 0: not set
	conn       *conn
}

func (w *wheel) init(now mono.Time) {
	w.tick = int64(now) / int64(wheelTick)
	for i := range w.slots {
		w.slots[i].next, w.slots[i].prev = &w.slots[i], &w.slots[i]
	}
}

// set arms t for at, or disarms it for 0. A timer that would go off sooner
// stays as it is: going off early is harmless, and most deadlines only move
// away while data flows.
func (w *wheel) set(t *timer, at mono.Time) {
	if at == 0 {
		w.clear(t)
		return
	}
	if t.at != 0 && t.at <= at {
		return
	}
	w.clear(t)
	t.at = at
	// Rounded up, so that a timer never goes off before its time.
	tick := (int64(at) + int64(wheelTick) - 1) / int64(wheelTick)
	tick = min(max(tick, w.tick+1), w.tick+wheelSlots-1)
	head := &w.slots[tick%wheelSlots]
	t.prev, t.next = head.prev, head
	head.prev.next, head.prev = t, t
	w.armed++
}

func (w *wheel) clear(t *timer) {
	if t.at == 0 {
		return
	}
	t.prev.next, t.next.prev = t.next, t.prev
	t.next, t.prev, t.at = nil, nil, 0
	w.armed--
}

// run calls fire for every timer whose tick has passed. fire may set timers.
func (w *wheel) run(now mono.Time, fire func(*timer)) {
	last := int64(now) / int64(wheelTick)
	if last-w.tick > wheelSlots {
		w.tick = last - wheelSlots // a long stop: every slot once is enough
	}
	for w.tick < last {
		w.tick++
		head, due := &w.slots[w.tick%wheelSlots], &w.due
		if head.next == head {
			continue
		}
		// The list as it is now: what fire sets waits for its own turn.
		due.next, due.prev = head.next, head.prev
		due.next.prev, due.prev.next = due, due
		head.next, head.prev = head, head
		for due.next != due {
			t := due.next
			w.clear(t)
			fire(t)
		}
	}
}

// next is when run has something to do at the latest, within horizon.
func (w *wheel) next(now mono.Time, horizon time.Duration) mono.Time {
	limit := now.Add(horizon)
	if w.armed == 0 {
		return limit
	}
	for tick := w.tick + 1; tick*int64(wheelTick) < int64(limit); tick++ {
		if head := &w.slots[tick%wheelSlots]; head.next != head {
			return mono.Time(tick * int64(wheelTick))
		}
	}
	return limit
}
