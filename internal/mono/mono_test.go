package mono

import (
	"testing"
	"time"
)

func TestArithmetic(t *testing.T) {
	start := Time(5 * time.Millisecond)
	if end := start.Add(3 * time.Millisecond); end.Sub(start) != 3*time.Millisecond || end.Milliseconds() != 8 {
		t.Errorf("5 ms and 3 ms are %d ns", end)
	}
	if m := Time(1999999).Milliseconds(); m != 1 {
		t.Errorf("1.999999 ms are %d whole ones", m)
	}
}

func TestEarliest(t *testing.T) {
	tests := []struct{ a, b, want Time }{
		{0, 0, 0}, {0, 7, 7}, {7, 0, 7}, {3, 7, 3}, {7, 3, 3}, {5, 5, 5},
	}
	for _, tt := range tests {
		if got := Earliest(tt.a, tt.b); got != tt.want {
			t.Errorf("of %d and %d the earliest is %d", tt.a, tt.b, got)
		}
	}
}

func TestNowGoesOn(t *testing.T) {
	last := Now()
	if last <= 0 {
		t.Fatalf("the machine started %d ns ago", last)
	}
	for range 1000 {
		now := Now()
		if now < last {
			t.Fatalf("%d after %d", now, last)
		}
		last = now
	}
}
