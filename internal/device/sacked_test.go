package device

import (
	"math/rand/v2"
	"slices"
	"testing"

	"toehold/internal/seqnum"
)

// The scoreboard against a map of octets, across the wrap of the sequence
// space.
func TestScoreboard(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 5))
		base := seqnum.Value(0xffffff80)
		var b scoreboard
		octets := map[uint32]bool{}
		for range 40 {
			lo := r.Uint32N(200)
			if r.IntN(5) == 0 {
				b.after(base.Add(lo))
				in := octets[lo] // a range is kept or forgotten whole
				for o := uint32(0); o < 256 && (o <= lo || in && octets[o]); o++ {
					delete(octets, o)
				}
			} else {
				n := 1 + r.Uint32N(30)
				b.add(seqnum.Range{Lo: base.Add(lo), Hi: base.Add(lo + n)})
				for o := lo; o < lo+n; o++ {
					octets[o] = true
				}
			}
			if want := rangesOf(base, octets); !slices.Equal(b, want) {
				t.Fatalf("seed %d: %v, want %v", seed, b, want)
			}
		}
	}
}

func rangesOf(base seqnum.Value, octets map[uint32]bool) (list scoreboard) {
	for o := uint32(0); o < 256; o++ {
		switch {
		case !octets[o]:
		case o > 0 && octets[o-1]:
			list[len(list)-1].Hi = base.Add(o + 1)
		default:
			list = append(list, seqnum.Range{Lo: base.Add(o), Hi: base.Add(o + 1)})
		}
	}
	return list
}

func TestScoreboardIsBounded(t *testing.T) {
	var b scoreboard
	for n := range uint32(2 * maxSacked) {
		b.add(seqnum.Range{Lo: seqnum.Value(10 * n), Hi: seqnum.Value(10*n + 5)})
	}
	if len(b) != maxSacked {
		t.Errorf("%d ranges", len(b))
	}
	b.add(seqnum.Range{Lo: 0, Hi: 10_000}) // takes none more
	if len(b) != 1 || b[0].Hi != 10_000 {
		t.Errorf("%v", b)
	}
}

// Only what is in flight and after a gap is noted.
func TestTrackNotesSACKs(t *testing.T) {
	unseen := track{told: true, una: 0xfffffe00}
	unseen.selected([]seqnum.Range{{Lo: 0xffffff00, Hi: 0xffffff80}})
	if unseen.sacked != nil {
		t.Errorf("nothing was seen to be sent: %v", unseen.sacked)
	}
	tr := track{seen: true, told: true, una: 100, lo: 100, nxt: 1000}
	r := func(lo, hi seqnum.Value) seqnum.Range { return seqnum.Range{Lo: lo, Hi: hi} }
	tr.selected([]seqnum.Range{r(50, 80), r(100, 200), r(300, 300), r(400, 350), r(900, 1001), r(500, 600)})
	if want := (scoreboard{r(500, 600)}); !slices.Equal(tr.sacked, want) {
		t.Errorf("%v, want %v", tr.sacked, want)
	}
	tr.selected([]seqnum.Range{r(600, 700), r(800, 1000)})
	tr.advance(650)
	tr.selected(nil)
	if want := (scoreboard{r(800, 1000)}); !slices.Equal(tr.sacked, want) {
		t.Errorf("%v, want %v", tr.sacked, want)
	}
}
