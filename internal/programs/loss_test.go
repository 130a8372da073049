package programs

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"toehold/internal/rig"
	"toehold/internal/testnet"
)

// On a wire that loses frames, connections move back and forth, in the middle
// of recovery too, and the device dies now and then.
func TestLossyWire(t *testing.T) { eachAttachment(t, lossyWire) }

func lossyWire(t *testing.T, attachment string) {
	const (
		rounds = 40
		oneIn  = 100
	)
	r := newRig(t)
	all := startDialogues(t, r)
	r.Net.Peer.Lose(t, r.Net.PeerIf, oneIn, testnet.In, testnet.Out)
	random := rand.New(rand.NewPCG(seed(t), 3))
	pause := func() { time.Sleep(time.Duration(random.Int64N(int64(60 * time.Millisecond)))) }
	offloads, uploads := 0, 0
	for round := range rounds {
		off, err := r.OffloadAs(t.Context(), rig.All, attachment)
		pause()
		if round%20 == 10 {
			if _, err := r.KillDevice(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := r.AwaitDevice(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			continue
		}
		up, err2 := r.Upload(t.Context(), rig.All)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		offloads, uploads = offloads+len(off.Moved), uploads+len(up.Moved)
		pause()
	}
	if offloads < rounds*len(all)/2 || uploads < rounds*len(all)/2 {
		t.Errorf("only %d offloads and %d uploads", offloads, uploads)
	}
	offloadAll(t, r, attachment, len(all))
	awaitMore(t, r, all)
	end(t, all) // their last segments are lost too
	awaitNothingOffloaded(t, r)
}
