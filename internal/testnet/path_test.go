package testnet

import (
	"math"
	"testing"
	"time"

	"toehold/internal/mono"
)

const second = mono.Time(time.Second)

// frames enters n frames of 1000 octets, so far apart, and returns when each
// arrives, 0 for a lost one.
func frames(l *lane, n int, apart time.Duration) []mono.Time {
	all := make([]mono.Time, n)
	for i := range all {
		all[i], _ = l.enter(second.Add(time.Duration(i)*apart), 1000)
	}
	return all
}

func TestRateAndDelay(t *testing.T) {
	l := newLane(Path{Rate: 8_000_000, Delay: 20 * time.Millisecond}, 1, 0)
	for i, at := range frames(l, 10, 0) { // a millisecond each
		if want := second.Add(time.Duration(i+1)*time.Millisecond + 20*time.Millisecond); at != want {
			t.Errorf("frame %d arrives after %v, not %v", i, at.Sub(second), want.Sub(second))
		}
	}
}

func TestRateIsNotSavedUp(t *testing.T) {
	l := newLane(Path{Rate: 8_000_000}, 1, 0)
	for i, at := range frames(l, 10, 5*time.Millisecond) {
		if want := second.Add(time.Duration(5*i+1) * time.Millisecond); at != want {
			t.Errorf("frame %d arrives after %v, not %v", i, at.Sub(second), want.Sub(second))
		}
	}
}

func TestQueueHoldsOctets(t *testing.T) {
	l := newLane(Path{Rate: 8_000_000, Queue: 3500}, 1, 0)
	frames(l, 10, 0)
	if l.Entered != 10 || l.Overflowed != 7 {
		t.Errorf("%+v of 10 frames for a queue of 3", l.Counts)
	}
	if at, n := l.enter(second.Add(time.Millisecond), 1000); n != 1 || at != second.Add(4*time.Millisecond) {
		t.Errorf("after a frame has left: %d, after %v", n, at.Sub(second))
	}
}

func TestLossShare(t *testing.T) {
	const n = 200_000
	for _, p := range []Path{{Loss: 0.001}, {Loss: 0.05}, {Loss: 0.02, Burst: 4}, {Loss: 0.2, Burst: 10}, {}} {
		l := newLane(p, 7, 0)
		bursts := 0
		for i, at := 0, frames(l, n, 0); i < n; i++ {
			if at[i] == 0 && (i == 0 || at[i-1] != 0) {
				bursts++
			}
		}
		// Losses of one burst are no independent draws: so many fewer count.
		sigma := math.Sqrt(n * p.Loss * max(p.Burst, 1) * 2)
		if d := math.Abs(float64(l.Lost) - n*p.Loss); d > 4*sigma {
			t.Errorf("%+v: %d of %d lost", p, l.Lost, n)
		}
		if p.Burst > 1 && math.Abs(float64(l.Lost)/float64(bursts)/p.Burst-1) > 0.1 {
			t.Errorf("%+v: %d lost in %d bursts", p, l.Lost, bursts)
		}
	}
}

// A burst of losses does not wait for who has stopped sending.
func TestBurstsEnd(t *testing.T) {
	l := newLane(Path{Loss: 0.2, Burst: 1000}, 1, 0)
	row, longest := 0, 0
	for _, at := range frames(l, 10_000, burstRest) {
		row++
		if at != 0 {
			row = 0
		}
		longest = max(longest, row)
	}
	if longest != 1 {
		t.Errorf("%d in a row were lost", longest)
	}
}

func TestFatesAreTheSeeds(t *testing.T) {
	p := Path{Loss: 0.1, Double: 0.1, Late: 0.1, Behind: time.Second}
	same, again, other := newLane(p, 1, 0), newLane(p, 1, 0), newLane(p, 2, 0)
	back := newLane(p, 1, 1)
	differ, differBack := 0, 0
	for i := range 1000 {
		// The times differ and the fates do not.
		a, n := same.enter(second, 100)
		b, m := again.enter(second.Add(time.Duration(i)), 100)
		if n != m || n > 0 && b.Sub(a) != time.Duration(i) {
			t.Fatalf("frame %d: %d copies after %v, then %d after %v", i, n, a, m, b)
		}
		if _, m := other.enter(second, 100); m != n {
			differ++
		}
		if _, m := back.enter(second, 100); m != n {
			differBack++
		}
	}
	if differ == 0 || differBack == 0 {
		t.Errorf("another seed differs in %d, the other direction in %d", differ, differBack)
	}
}

func TestDoubledAndLate(t *testing.T) {
	const n = 100_000
	l := newLane(Path{Double: 0.03, Late: 0.05, Behind: 9}, 3, 0)
	late := 0
	for _, at := range frames(l, n, 0) {
		late += int(at-second) / 9
	}
	if late != l.Delayed || math.Abs(float64(late)/n-0.05) > 0.005 || math.Abs(float64(l.Doubled)/n-0.03) > 0.005 {
		t.Errorf("%+v, %d late", l.Counts, late)
	}
}

func TestFlightIsInOrder(t *testing.T) {
	var f flight
	for i, at := range []mono.Time{5, 3, 5, 9, 1} {
		f.add(arrival{at, []byte{byte(i)}})
	}
	if f.next() != 1 {
		t.Errorf("next is %d", f.next())
	}
	var got []byte
	for now := mono.Time(0); now < 9; now++ {
		for frame, ok := f.due(now); ok; frame, ok = f.due(now) {
			got = append(got, frame[0])
		}
	}
	if string(got) != "\x04\x01\x00\x02" || len(f) != 1 {
		t.Errorf("order %v, %d left", got, len(f))
	}
}

func TestIsTCP(t *testing.T) {
	frame := func(kind byte, at int, protocol byte) []byte {
		b := make([]byte, 60)
		b[12], b[13], b[at] = kind, 0, protocol
		if kind == 0x86 {
			b[13] = 0xdd
		}
		return b
	}
	for _, tt := range []struct {
		frame []byte
		want  bool
	}{
		{frame(0x08, 23, 6), true}, {frame(0x86, 20, 6), true}, {frame(0x08, 23, 17), false},
		{frame(0x86, 20, 58), false}, {frame(0x81, 23, 6), false}, {nil, false}, {make([]byte, 33), false},
	} {
		if got := isTCP(tt.frame); got != tt.want {
			t.Errorf("% x: %v", tt.frame, got)
		}
	}
}

func TestHarmless(t *testing.T) {
	p := Path{Rate: 1, Delay: 2, Queue: 3, Loss: 0.4, Burst: 5, Double: 0.6, Late: 0.7, Behind: 8}
	if p.Harmless() != (Path{Rate: 1, Delay: 2, Queue: 3}) {
		t.Errorf("%+v", p.Harmless())
	}
}
