package seqnum

import (
	"testing"
	"testing/quick"
)

func TestOrderAcrossTheWrap(t *testing.T) {
	for _, tt := range []struct {
		a, b Value
		less bool
	}{
		{0, 1, true},
		{1, 0, false},
		{7, 7, false},
		{0xffffffff, 0, true},
		{0xfffffff0, 0x10, true},
		{0x10, 0xfffffff0, false},
		{0, 0x7fffffff, true},
	} {
		if got := tt.a.Less(tt.b); got != tt.less {
			t.Errorf("%#x.Less(%#x) = %v, want %v", tt.a, tt.b, got, tt.less)
		}
	}
}

func TestOrderIsThatOfTheDistance(t *testing.T) {
	check := func(base uint32, n uint32) bool {
		n &= 1<<31 - 1
		a := Value(base)
		b := a.Add(n)
		return b.Sub(a) == n && a.LessEq(b) && b.Less(a) == false &&
			Max(a, b) == b && Min(a, b) == a
	}
	if err := quick.Check(check, nil); err != nil {
		t.Fatal(err)
	}
}

func TestRange(t *testing.T) {
	r := Range{0xfffffffe, 2}
	if r.Len() != 4 || r.Empty() || !r.Contains(0) || r.Contains(2) || !r.Contains(0xfffffffe) {
		t.Errorf("range %+v: len %d", r, r.Len())
	}
	if !(Range{5, 5}).Empty() || !(Range{6, 5}).Empty() {
		t.Error("an interval without octets is not empty")
	}
}
