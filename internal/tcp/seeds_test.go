package tcp_test

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"toehold/internal/mono"
	"toehold/internal/tcptest"
)

var (
	lawSeed = flag.Uint64("law.seed", 0, "first seed of the runs of a law")
	lawRuns = flag.Uint64("law.runs", 0, "how many seeds a law is tried with; 0: 10000, 400 with -short")
)

// runs is how many seeds a law is tried with.
func runs() uint64 {
	switch {
	case *lawRuns > 0:
		return *lawRuns
	case testing.Short():
		return 400
	}
	return 10000
}

// law tries run with many seeds, on all processors, and says how a run that
// broke it is done again.
func law(t *testing.T, run func(w *tcptest.World, seed uint64) error) {
	t.Parallel()
	var next, failed atomic.Uint64
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			w := tcptest.NewWorld(0)
			for n := next.Add(1) - 1; n < runs() && failed.Load() < 5; n = next.Add(1) - 1 {
				seed := *lawSeed + n
				if err := once(w, seed, run); err != nil {
					failed.Add(1)
					t.Errorf("seed %d: %v\nto do it again: go test ./internal/tcp -run '^%s$' -law.seed=%d -law.runs=1", seed, err, t.Name(), seed)
					w = tcptest.NewWorld(0)
				}
			}
		})
	}
	all.Wait()
}

// once is one run. A panic in it is an error, so that it comes with its seed.
func once(w *tcptest.World, seed uint64, run func(w *tcptest.World, seed uint64) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	w.Reset(seed)
	return run(w, seed)
}

// TestOnceTellsOfPanics: a run that panics is one that broke the law, and the
// others go on.
func TestOnceTellsOfPanics(t *testing.T) {
	err := once(tcptest.NewWorld(0), 3, func(_ *tcptest.World, seed uint64) error { panic("output without end") })
	if err == nil || !strings.Contains(err.Error(), "output without end") {
		t.Errorf("error %v", err)
	}
}

// TestRunsRepeat: a run is the same whatever its world was used for before.
func TestRunsRepeat(t *testing.T) {
	used := tcptest.NewWorld(0)
	for seed := range uint64(20) {
		var after [2]mono.Time
		for i, w := range []*tcptest.World{used, tcptest.NewWorld(0)} {
			if err := once(w, seed, lawRun); err != nil {
				t.Fatal(err)
			}
			after[i] = w.Now
		}
		if after[0] != after[1] {
			t.Errorf("seed %d ended at %v and at %v", seed, after[0], after[1])
		}
	}
}
