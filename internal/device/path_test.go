package device

import (
	"testing"
	"time"

	"toehold/internal/mono"
)

func TestDeliveryRate(t *testing.T) {
	const ms = mono.Time(time.Millisecond)
	var r deliveryRate
	for i, step := range []struct {
		at        mono.Time
		delivered uint64
		more      bool
		want      uint64
	}{
		{1 * ms, 0, true, 0},
		{2 * ms, 1000, true, 0},              // less than a round trip
		{11 * ms, 5000, true, 500_000},       // 5000 in 10 ms
		{12 * ms, 6000, false, 500_000},      // less than a round trip again
		{21 * ms, 20_000, false, 1_500_000},  // 15000 in 10 ms
		{500 * ms, 20_000, false, 1_500_000}, // there was nothing to deliver,
		{510 * ms, 21_000, true, 100_000},    // which does not count
		{520 * ms, 0, true, 100_000},         // another engine
		{540 * ms, 4000, true, 200_000},
	} {
		if got := r.measure(step.at, step.delivered, step.more, 10*time.Millisecond); got != step.want {
			t.Errorf("step %d: %d octets/s, want %d", i, got, step.want)
		}
	}
}
