package device

import (
	"math/rand/v2"
	"testing"
	"time"

	"toehold/internal/mono"
)

func TestWheelAgainstASimpleList(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		now := mono.Time(r.Int64N(int64(time.Hour)))
		var w wheel
		w.init(now)
		timers := make([]timer, 40)
		want := make([]mono.Time, len(timers))
		for step := 0; step < 400; step++ {
			i := r.IntN(len(timers))
			switch r.IntN(3) {
			case 0:
				at := now.Add(time.Duration(r.Int64N(int64(9 * time.Second))))
				if want[i] == 0 || at < want[i] {
					want[i] = at
				}
				w.set(&timers[i], at)
			case 1:
				w.set(&timers[i], 0)
				want[i] = 0
			case 2:
				now = now.Add(time.Duration(r.Int64N(int64(300 * time.Millisecond))))
				w.run(now, func(tm *timer) {
					for j := range timers {
						if tm != &timers[j] {
							continue
						}
						if want[j] > now { // past the horizon: set again
							w.set(tm, want[j])
							return
						}
						want[j] = 0
					}
				})
				for j, at := range want {
					if at != 0 && at.Add(2*wheelTick) < now {
						t.Fatalf("seed %d: timer %d of %v has not gone off at %v", seed, j, at, now)
					}
				}
			}
		}
	}
}

func TestWheelNeverFiresEarlyWithinTheHorizon(t *testing.T) {
	var w wheel
	w.init(0)
	var tm timer
	w.set(&tm, mono.Time(wheelTick*3/2))
	fired := false
	w.run(mono.Time(wheelTick*2-1), func(*timer) { fired = true })
	if fired {
		t.Error("fired before its tick had ended")
	}
	w.run(mono.Time(2*wheelTick), func(*timer) { fired = true })
	if !fired {
		t.Error("did not fire")
	}
}

// Time that passes costs no allocation, with something to fire or without.
func TestWheelDoesNotAllocate(t *testing.T) {
	var w wheel
	w.init(0)
	var tm timer
	now, fired := mono.Time(0), 0
	fire := func(*timer) { fired++ }
	n := testing.AllocsPerRun(100, func() {
		w.set(&tm, now.Add(5*wheelTick))
		now = now.Add(10 * wheelTick)
		w.run(now, fire)
	})
	if n != 0 || fired != 101 {
		t.Errorf("%v allocations for ten ticks, fired %d times", n, fired)
	}
}

func TestWheelAfterALongStop(t *testing.T) {
	var w wheel
	w.init(0)
	timers := make([]timer, 100)
	for i := range timers {
		w.set(&timers[i], mono.Time(time.Duration(i+1)*40*time.Millisecond))
	}
	fired := 0
	w.run(mono.Time(time.Hour), func(*timer) { fired++ })
	if fired != len(timers) || w.armed != 0 {
		t.Errorf("%d of %d fired, %d armed", fired, len(timers), w.armed)
	}
}

func TestWheelNext(t *testing.T) {
	var w wheel
	w.init(0)
	if got := w.next(0, 10*time.Millisecond); got != mono.Time(10*time.Millisecond) {
		t.Errorf("empty: %v", got)
	}
	var tm timer
	w.set(&tm, mono.Time(3*time.Millisecond))
	if got := w.next(0, 10*time.Millisecond); got != mono.Time(3*time.Millisecond) {
		t.Errorf("armed for 3 ms: %v", got)
	}
}

func BenchmarkWheelSetAndRun(b *testing.B) {
	var w wheel
	w.init(0)
	timers := make([]timer, 100000)
	now := mono.Time(0)
	b.ReportAllocs()
	for i := range b.N {
		now += 1000
		w.set(&timers[i%len(timers)], now.Add(200*time.Millisecond))
		w.run(now, func(*timer) {})
	}
}
