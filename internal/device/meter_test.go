package device

import (
	"math"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
)

// A loop that works for a part of each period is that busy, in all and of
// late.
func TestMeter(t *testing.T) {
	for _, tt := range []struct {
		name        string
		work, sleep time.Duration
		want        float64
	}{
		{"asleep", 0, 5 * time.Millisecond, 0},
		{"a quarter", time.Millisecond, 3 * time.Millisecond, 0.25},
		{"never asleep", time.Millisecond, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m meter
			now := mono.Time(time.Hour)
			m.begin(now)
			published := 0
			for end := now.Add(20 * time.Second); now < end; {
				if m.turn(now) {
					published++
				}
				now = now.Add(tt.work)
				if tt.sleep > 0 {
					m.sleep(now)
					now = now.Add(tt.sleep)
				}
			}
			m.turn(now)
			var l abi.Load
			m.load(now, &l)
			if got := float64(l.Busy) / float64(l.Elapsed); math.Abs(got-tt.want) > 0.001 {
				t.Errorf("busy for %v of the time, want %v", got, tt.want)
			}
			if got := float64(l.Share) / millionths; math.Abs(got-tt.want) > 0.01 {
				t.Errorf("the share is %v, want %v", got, tt.want)
			}
			if most := int(20*time.Second/loadEvery) + 1; published < most/2 || published > most {
				t.Errorf("published %d times", published)
			}
		})
	}
}

// The share follows a change within seconds.
func TestMeterForgets(t *testing.T) {
	var m meter
	now := mono.Time(time.Hour)
	m.begin(now)
	for range 200 { // busy all the time
		m.turn(now)
		now = now.Add(loadEvery)
	}
	if m.share < 0.99 {
		t.Fatalf("the share of a loop that never slept is %v", m.share)
	}
	for range 50 { // five seconds of sleep
		m.turn(now)
		m.sleep(now)
		now = now.Add(loadEvery)
	}
	m.turn(now)
	if m.share > 0.02 {
		t.Errorf("after five seconds of sleep the share is still %v", m.share)
	}
}
