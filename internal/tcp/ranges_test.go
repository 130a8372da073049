package tcp

import (
	"math/rand/v2"
	"testing"

	"toehold/internal/seqnum"
)

// plain is the simplest set of numbers there is, around a base that wraps.
type plain struct {
	base seqnum.Value
	in   [400]bool
}

func (p *plain) set(x seqnum.Range, to bool) uint32 {
	n := uint32(0)
	for v := x.Lo; v.Less(x.Hi); v++ {
		if i := v - p.base; int(i) < len(p.in) && p.in[i] != to {
			p.in[i] = to
			n++
		}
	}
	return n
}

func (p *plain) has(v seqnum.Value) bool { return int(v-p.base) < len(p.in) && p.in[v-p.base] }

// list is the ranges of p.
func (p *plain) list() []seqnum.Range {
	var list []seqnum.Range
	for i := range p.in {
		v := p.base + seqnum.Value(i)
		if !p.in[i] {
			continue
		}
		if n := len(list); n > 0 && list[n-1].Hi == v {
			list[n-1].Hi++
			continue
		}
		list = append(list, seqnum.Range{Lo: v, Hi: v + 1})
	}
	return list
}

func TestRangesAgreeWithThePlainSet(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var set ranges
		p := &plain{base: seqnum.Value(r.IntN(800)) - 400}
		for step := range 100 {
			lo := p.base + seqnum.Value(r.IntN(380))
			x := seqnum.Range{Lo: lo, Hi: lo + seqnum.Value(1+r.IntN(20))}
			switch r.IntN(8) {
			case 0:
				set.cutBefore(lo)
				p.set(seqnum.Range{Lo: p.base, Hi: lo}, false)
			case 1:
				set.cutFrom(lo + 200)
				p.set(seqnum.Range{Lo: lo + 200, Hi: p.base + 400}, false)
			default:
				if n, ok := set.add(x); !ok || n != p.set(x, true) {
					t.Fatalf("seed %d step %d: add %v: %d %v", seed, step, x, n, ok)
				}
			}
			compare(t, &set, p, x)
		}
	}
}

func compare(t *testing.T, set *ranges, p *plain, x seqnum.Range) {
	t.Helper()
	want := p.list()
	if len(want) != len(set.list) {
		t.Fatalf("ranges %v, want %v", set.list, want)
	}
	octets := uint32(0)
	for i := range want {
		octets += want[i].Len()
		if want[i] != set.list[i] {
			t.Fatalf("ranges %v, want %v", set.list, want)
		}
	}
	if set.octets != octets {
		t.Fatalf("%d octets, want %d", set.octets, octets)
	}
	from, all := uint32(0), true
	for v := x.Lo; v != p.base+400; v++ {
		if p.has(v) {
			from++
		}
		all = all && (p.has(v) || !v.Less(x.Hi))
	}
	if set.from(x.Lo) != from || set.has(x) != all {
		t.Fatalf("from %v: %d, want %d; has: %v, want %v in %v", x.Lo, set.from(x.Lo), from, set.has(x), all, want)
	}
	compareGap(t, set, p, x)
}

func compareGap(t *testing.T, set *ranges, p *plain, x seqnum.Range) {
	t.Helper()
	limit := p.base + 400
	lo := x.Lo
	for lo != limit && p.has(lo) {
		lo++
	}
	hi := lo
	for hi != limit && !p.has(hi) {
		hi++
	}
	if g := set.gap(x.Lo, limit); g.Len() != hi.Sub(lo) || g.Len() > 0 && g.Lo != lo {
		t.Fatalf("gap from %v: %v, want [%v, %v)", x.Lo, g, lo, hi)
	}
}

func TestRangesAreBounded(t *testing.T) {
	var set ranges
	for i := range seqnum.Value(maxRanges) {
		if _, ok := set.add(seqnum.Range{Lo: 10 * i, Hi: 10*i + 1}); !ok {
			t.Fatalf("no room for range %d", i)
		}
	}
	if n, ok := set.add(seqnum.Range{Lo: 5, Hi: 6}); ok || n != 0 || len(set.list) != maxRanges {
		t.Errorf("%d ranges", len(set.list))
	}
	if n, ok := set.add(seqnum.Range{Lo: 1, Hi: 10}); !ok || n != 9 {
		t.Errorf("a range that joins two was refused: %d %v", n, ok)
	}
}
