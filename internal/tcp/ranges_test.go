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

func (p *plain) set(x seqnum.Range, to bool) {
	for v := x.Lo; v.Less(x.Hi); v++ {
		if i := v - p.base; int(i) < len(p.in) {
			p.in[i] = to
		}
	}
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
				if p.set(x, true); !set.add(x) {
					t.Fatalf("seed %d step %d: add %v", seed, step, x)
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
	for i := range want {
		if want[i] != set.list[i] {
			t.Fatalf("ranges %v, want %v", set.list, want)
		}
	}
	all := true
	for v := x.Lo; v != x.Hi; v++ {
		all = all && p.has(v)
	}
	if set.has(x) != all {
		t.Fatalf("has %v: %v in %v", x, !all, want)
	}
}

func TestRangesAreBounded(t *testing.T) {
	var set ranges
	for i := range seqnum.Value(maxRanges) {
		if !set.add(seqnum.Range{Lo: 10 * i, Hi: 10*i + 1}) {
			t.Fatalf("no room for range %d", i)
		}
	}
	if set.add(seqnum.Range{Lo: 5, Hi: 6}) || len(set.list) != maxRanges {
		t.Errorf("%d ranges", len(set.list))
	}
	if !set.add(seqnum.Range{Lo: 1, Hi: 10}) {
		t.Error("a range that joins two was refused")
	}
}
