package tcp

import (
	"math/rand/v2"
	"testing"

	"toehold/internal/seqnum"
)

// TestMarksTellOfTheRightOctets compares the ring with a list of what was
// received: each acknowledgment covers octets of one mark only, and says it. At
// its limit the ring may call unmarked octets marked, never the other way.
func TestMarksTellOfTheRightOctets(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		var m changes
		const base = seqnum.Value(0xfffffff0)
		var was []bool // of each octet received
		sent, limit, full := 0, r.IntN(40), false
		for range 200 {
			if r.IntN(2) == 0 {
				ce := r.IntN(3) == 0
				m.note(base.Add(uint32(len(was))), ce)
				full = full || m.n == maxMarks
				for range 1 + r.IntN(4) {
					was = append(was, ce)
				}
				continue
			}
			ack := max(sent, len(was)-r.IntN(limit+1))
			for sent < ack {
				to, ce := m.cut(base.Add(uint32(sent)), base.Add(uint32(ack)), base.Add(uint32(len(was))))
				end := int(to.Sub(base))
				if end <= sent || end > ack {
					t.Fatalf("seed %d: acknowledged %d after %d, permitted %d", seed, end, sent, ack)
				}
				for i, marked := range was[sent:end] {
					if marked != ce && (marked || !full) {
						t.Fatalf("seed %d: octet %d of %d to %d: marked %v, told %v", seed, sent+i, sent, end, marked, ce)
					}
				}
				sent = end
			}
		}
	}
}
