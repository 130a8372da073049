package tcp_test

import (
	"errors"
	"flag"
	"fmt"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"toehold/internal/mono"
	"toehold/internal/tcp"
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

// A run is one connection of a law: it returns what took part.
type run func(w *tcptest.World, seed uint64) ([]*tcptest.Box, error)

// law tries a run with many seeds, on all processors, and says how one that
// broke it is done again.
func law(t *testing.T, do run) {
	t.Parallel()
	var next, failed atomic.Uint64
	var all sync.WaitGroup
	sums := make(chan tally, runtime.GOMAXPROCS(0))
	for range cap(sums) {
		all.Go(func() {
			w, sum := tcptest.NewWorld(0), tally{}
			for n := next.Add(1) - 1; n < runs() && failed.Load() < 5; n = next.Add(1) - 1 {
				seed := *lawSeed + n
				if err := once(w, seed, do, sum); err != nil {
					failed.Add(1)
					t.Errorf("seed %d: %v\nto do it again: go test ./internal/tcp -run '^%s$' -law.seed=%d -law.runs=1", seed, err, t.Name(), seed)
					w = tcptest.NewWorld(0)
				}
			}
			sums <- sum
		})
	}
	all.Wait()
	close(sums)
	if runs() >= 5000 && failed.Load() == 0 {
		checkReach(t, sums)
	}
}

// once is one run. A panic in it is an error, so that it comes with its seed.
func once(w *tcptest.World, seed uint64, do run, sum tally) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	w.Reset(seed)
	boxes, err := do(w, seed)
	for _, b := range boxes {
		sum.add(b.Stats())
		if err != nil {
			err = fmt.Errorf("%w\n%s %+v", err, b.Name, *b.Stats())
		}
	}
	return errors.Join(err, leaks(w, boxes))
}

// leaks closes the boxes and looks for buffers still in use.
func leaks(w *tcptest.World, boxes []*tcptest.Box) error {
	for _, b := range boxes {
		b.Close()
	}
	w.Clear()
	if n := w.Pool.Used(); n != 0 {
		return fmt.Errorf("%d octets of buffers leaked", n)
	}
	return nil
}

// A tally is the sums of engines' counters, by their names.
type tally map[string]uint64

func (sum tally) add(s *tcp.Stats) {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		sum[v.Type().Field(i).Name] += v.Field(i).Uint()
	}
}

// beyondReach is what a law's runs do not bring about: it takes an attack
// (TestWorkIsBounded).
const beyondReach = "SACKIgnored"

// checkReach: runs that never bring about something that engines count would
// say nothing of it.
func checkReach(t *testing.T, sums <-chan tally) {
	all := tally{}
	for sum := range sums {
		for name, n := range sum {
			all[name] += n
		}
	}
	for name, n := range all {
		if n == 0 && name != beyondReach {
			t.Errorf("%d runs, and %s stayed at 0", runs(), name)
		}
	}
	t.Logf("in all: %v", all)
}

// TestOnceTellsOfPanics: a run that panics is one that broke the law, and the
// others go on.
func TestOnceTellsOfPanics(t *testing.T) {
	err := once(tcptest.NewWorld(0), 3, func(*tcptest.World, uint64) ([]*tcptest.Box, error) { panic("output without end") }, tally{})
	if err == nil || !strings.Contains(err.Error(), "output without end") {
		t.Errorf("error %v", err)
	}
}

// TestLeaksAreFound: a buffer that nobody released is one.
func TestLeaksAreFound(t *testing.T) {
	err := once(tcptest.NewWorld(0), 3, func(w *tcptest.World, _ uint64) ([]*tcptest.Box, error) {
		w.Pool.Get(1)
		return nil, nil
	}, tally{})
	if err == nil || !strings.Contains(err.Error(), "leaked") {
		t.Errorf("error %v", err)
	}
}

// TestRunsRepeat: a run is the same whatever its world was used for before.
func TestRunsRepeat(t *testing.T) {
	used := tcptest.NewWorld(0)
	for seed := range uint64(20) {
		var after [2]mono.Time
		for i, w := range []*tcptest.World{used, tcptest.NewWorld(0)} {
			if err := once(w, seed, lawRun, tally{}); err != nil {
				t.Fatal(err)
			}
			after[i] = w.Now
		}
		if after[0] != after[1] {
			t.Errorf("seed %d ended at %v and at %v", seed, after[0], after[1])
		}
	}
}
