package device

import (
	"math/rand/v2"
	"slices"
	"testing"

	"toehold/internal/seqnum"
	"toehold/internal/wire"
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

// What the peer has SACKed is passed on to S at once where S's congestion
// control is its own master, and there alone.
func TestMirroredSACKs(t *testing.T) {
	for name, want := range map[string]bool{"bbr": true, "cubic": false, "": false} {
		w := plainWorld(t, true, true)
		w.program.congestion = name
		c := w.device.find(w.ownNow())
		una := c.wire.SndUna()
		w.program.toSend, w.program.closing = make([]byte, 4*mss), false
		w.program.run()
		w.turnDevice()
		w.forgedSACK(una, seqnum.Range{Lo: una.Add(mss), Hi: una.Add(2 * mss)})
		w.turnDevice()
		var told []seqnum.Range
		w.program.conn.Sacked(func(r seqnum.Range) { told = append(told, r) })
		if got := len(told) > 0; got != want || got && told[0] != (seqnum.Range{Lo: una.Add(mss), Hi: una.Add(2 * mss)}) {
			t.Errorf("%q: S was told of %v", name, told)
		}
		w.forgedSACK(una, seqnum.Range{Lo: una.Add(5 * mss), Hi: una.Add(6 * mss)}) // never sent
		w.turnDevice()
		if w.program.conn.SndUna() != una {
			t.Errorf("%q: snd.una moved", name)
		}
	}
}

// forgedSACK is an acknowledgement of the peer's with one block.
func (w *world) forgedSACK(ack seqnum.Value, block seqnum.Range) {
	var h [wire.MaxHeaders]byte
	var out wire.Out
	out.Seq, out.Ack, out.Flags, out.Window = w.peer.conn.SndNxt(), ack, wire.ACK, 60000
	out.TSOK, out.TSVal, out.TSEcr = true, w.program.conn.TSRecent()+1, 0
	out.SACK[0], out.NSACK = block, 1
	n := w.peer.template.Build(h[:], &out)
	w.arrive(slices.Clone(h[:n]))
}
