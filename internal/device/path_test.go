package device

import (
	"testing"

	"toehold/internal/abi"
	"toehold/internal/tcp"
)

// An engine that has delivered nothing yet knows no rate; the one before did.
func TestDeliveryRateStays(t *testing.T) {
	var c conn
	var h abi.HardwarePart
	for i, rate := range []uint64{0, 5_000_000, 0, 35_000} {
		c.publishPath(&h, &tcp.Metrics{DeliveryRate: rate})
		if want := []uint64{0, 5_000_000, 5_000_000, 35_000}[i]; h.DeliveryRate != want {
			t.Errorf("engine %d: %d octets/s, want %d", i, h.DeliveryRate, want)
		}
	}
}
