package tcp_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"toehold/internal/tcptest"
)

// chances are those of a run of a law: an octet of the input decides each, and
// when there are no more, chance does.
type chances struct {
	feed
	rest rand.PCG
}

func (c *chances) Uint64() uint64 {
	if len(c.feed) == 0 {
		return c.rest.Uint64()
	}
	return uint64(c.u8()) * 0x0101010101010101
}

// fuzzLaw makes the input decide all that a run leaves to chance: what the ends
// agreed on, what their programs do, what becomes of each segment and when it
// arrives.
func fuzzLaw(f *testing.F, do run) {
	for i := range uint64(4) {
		f.Add(octets(i, 300))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		w := tcptest.NewWorld(0)
		w.Rand = rand.New(&chances{feed: in})
		w.Check = promised
		boxes, err := do(w, 0)
		if errors.Is(err, errNoEnd) {
			err = nil // the input may lose every segment
		}
		if err := errors.Join(err, leaks(w, boxes)); err != nil {
			t.Fatal(err)
		}
	})
}

// promised panics when an engine broke one of its promises.
func promised(b *tcptest.Box) {
	if err := b.Promises(); err != nil {
		panic(fmt.Sprintf("%s: %v", b.Name, err))
	}
}

// FuzzTwoEngines is TestLawTwoEngines at the mercy of the input.
func FuzzTwoEngines(f *testing.F) { fuzzLaw(f, lawRun) }

// FuzzThroughRelay is TestLawThroughRelay at the mercy of the input.
func FuzzThroughRelay(f *testing.F) { fuzzLaw(f, relayRun) }
