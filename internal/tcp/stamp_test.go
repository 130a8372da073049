package tcp

import (
	"testing"

	"toehold/internal/wire"
)

// A socket that has been rebuilt knows no timestamp of its peer yet: any is
// good, also one in the upper half of the numbers (Linux tcp_paws_check).
func TestPAWSKnowsNoTimestampYet(t *testing.T) {
	s := stampState{on: true}
	for _, val := range []uint32{0, 1, 1 << 31, 1<<32 - 1} {
		if s.old(1, &wire.Segment{TSOK: true, TSVal: val}) {
			t.Errorf("the first timestamp, %#x, is taken for an old one", val)
		}
	}
}
