package handover

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

var limits = Limits{Answer: time.Second, Own: 5 * time.Second}

// settle has the device answer, and time pass, until nothing moves. A device
// that cannot be relied upon is replaced, as the driver would.
func settle(w *world, t *Table, now mono.Time) error {
	for range 100 {
		for (len(w.queue) > 0 || len(w.tasks) > 0) && t.Err() == nil {
			if len(w.tasks) > 0 {
				w.perform(now, t, abi.None, false)
			} else {
				w.answer(now, t)
			}
		}
		if t.Err() != nil {
			w.slots, w.queue = make(map[abi.HWID]place), nil
			t.Lost(now, abi.DeviceDied) // a failure leaves Err set: again
		}
		if t.Len() == 0 {
			t.Serve()
		}
		if t.Moving() == 0 && t.Err() == nil {
			return nil
		}
		now = now.Add(time.Second)
		t.Advance(now)
	}
	return errors.New("it never came to rest")
}

// journey takes three connections to the device and home, with call number
// fail failing, and returns the number of calls made.
func journey(t *testing.T, fail int) int {
	w := newWorld()
	w.failAt = fail
	w.socket(1)
	w.socket(2)
	w.socket(3)
	tab := NewTable(w, limits)
	count := map[string]int{}
	note := func() {
		for _, o := range tab.Outcomes() {
			if o.Ticket != 0 {
				count[fmt.Sprint(o.Ticket, " ", nameOf(o.Flow))]++
			}
		}
	}
	ids := flows([]int{1, 2, 3})
	steps := []func(){
		func() { tab.Offload(1, 1, 1, 0, []Candidate{{Flow: ids[0]}, {Flow: ids[1]}, {Flow: ids[2]}}) },
		func() { tab.Upload(2, 2, ids, abi.Asked) },
		func() { tab.Offload(3, 3, 3, 0, []Candidate{{Flow: ids[0]}, {Flow: ids[1]}, {Flow: ids[2]}}) },
		func() {
			tab.Offload(4, 4, 4, 0, []Candidate{{Flow: ids[0], Bypass: true}, {Flow: ids[1], Bypass: true}, {Flow: ids[2]}})
		},
		func() { tab.Upload(5, 5, ids, abi.Asked) },
		func() {
			tab.Offload(6, 6, 6, 0, []Candidate{{Flow: ids[0], Bypass: true}, {Flow: ids[1]}, {Flow: ids[2], Bypass: true}})
		},
	}
	for i, step := range steps {
		step()
		note()
		if err := settle(w, tab, 5); err != nil {
			t.Fatalf("call %d fails: %v\n%s", fail, err, strings.Join(w.log, "\n"))
		}
		note()
		if err := w.check(tab); err != nil {
			t.Fatalf("call %d fails, step %d: %v\n%s", fail, i, err, strings.Join(w.log, "\n"))
		}
	}
	for _, ticket := range []int{1, 2, 3, 4, 5, 6} {
		for _, id := range ids {
			if k := fmt.Sprint(ticket, " ", nameOf(id)); count[k] != 1 {
				t.Errorf("call %d fails: request %s has %d outcomes", fail, k, count[k])
			}
		}
	}
	return w.calls
}

// Whatever call fails, everything is undone and each request is answered.
func TestFailureAtEveryStep(t *testing.T) {
	calls := journey(t, 0)
	if calls < 15 {
		t.Fatalf("the journey makes only %d calls", calls)
	}
	for n := 1; n <= calls; n++ {
		journey(t, n)
	}
}

// The device stops to answer after each of its messages in turn.
func TestSilenceAtEveryStep(t *testing.T) {
	for quiet := range 8 {
		w := newWorld()
		w.socket(1)
		tab := NewTable(w, limits)
		now := mono.Time(1)
		tab.Offload(now, now, 1, 0, []Candidate{{Flow: named(1)}})
		for n := 0; n < quiet && len(w.queue) > 0; n++ {
			w.answer(now, tab)
			if c := tab.Find(named(1).Key()); c != nil && c.Phase == Owned {
				tab.Upload(now, 2, flows([]int{1}), abi.Asked)
			}
		}
		w.queue = nil
		for range 20 {
			now = now.Add(time.Second)
			w.queue = nil
			if tab.Advance(now) != nil {
				tab.Lost(now, abi.DeviceHung)
			}
		}
		if len(w.steered) != 0 || tab.Len() != 0 || tab.Moving() != 0 {
			t.Errorf("silent after %d answers: %d flows steered, %d connections", quiet, len(w.steered), tab.Len())
		}
	}
}

// What no device in order says breaks it and nothing else.
func TestDeviceOutOfOrder(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    abi.Header
		a    []abi.Answer
	}{
		{"a batch never offered", abi.Header{Type: abi.Admitted, Batch: 9}, []abi.Answer{{HWID: 1 << 32}}},
		{"too few answers", abi.Header{Type: abi.Admitted, Batch: 1}, []abi.Answer{{HWID: 1 << 32}}},
		{"one id twice", abi.Header{Type: abi.Admitted, Batch: 1}, []abi.Answer{{HWID: 1 << 32}, {HWID: 1 << 32}}},
		{"no id", abi.Header{Type: abi.Admitted, Batch: 1}, []abi.Answer{{}, {}}},
		{"a driver's message", abi.Header{Type: abi.Own}, nil},
		{"an unknown type", abi.Header{Type: 999}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			w.socket(1)
			w.socket(2)
			tab := NewTable(w, limits)
			tab.Offload(1, 1, 1, 0, []Candidate{{Flow: named(1)}, {Flow: named(2)}})
			if err := tab.Answer(2, tt.h, tt.a); !errors.Is(err, ErrBroken) {
				t.Fatalf("got error %v", err)
			}
			if err := tab.Lost(3, abi.DeviceDied); err != nil || tab.Len() != 0 || len(w.steered) != 0 {
				t.Errorf("after Lost: %v, %d connections, %d steered", err, tab.Len(), len(w.steered))
			}
			if n := len(tab.Outcomes()); n != 2 {
				t.Errorf("%d outcomes for two connections", n)
			}
		})
	}
}

func TestStaleAnswersAreIgnored(t *testing.T) {
	w := newWorld()
	tab := NewTable(w, limits)
	for _, m := range []abi.Type{abi.Owned, abi.Passing, abi.Released, abi.Notice} {
		if err := tab.Answer(1, abi.Header{Type: m}, []abi.Answer{{HWID: 77, Reason: abi.Closed}}); err != nil {
			t.Errorf("type %d for an unknown connection: %v", m, err)
		}
	}
	if len(tab.Outcomes()) != 0 || w.calls != 0 {
		t.Error("an unknown connection had an effect")
	}
}

func TestBatchesAreSplit(t *testing.T) {
	w := newWorld()
	tab := NewTable(w, limits)
	var cands []Candidate
	var ids []flow.ID
	for n := range 600 {
		w.socket(n + 1)
		cands = append(cands, Candidate{Flow: named(n + 1)})
		ids = append(ids, named(n+1))
	}
	tab.Offload(1, 1, 1, 0, cands)
	if len(w.queue) != 3 {
		t.Errorf("600 offers went in %d messages", len(w.queue))
	}
	if err := settle(w, tab, 2); err != nil || tab.Len() != 600 {
		t.Fatalf("%v, %d on the device", err, tab.Len())
	}
	tab.Upload(3, 2, ids, abi.Asked)
	if len(w.queue) != 3 {
		t.Errorf("600 commands went in %d messages", len(w.queue))
	}
	if err := settle(w, tab, 4); err != nil || tab.Len() != 0 {
		t.Fatalf("%v, %d on the device", err, tab.Len())
	}
	if err := w.check(tab); err != nil {
		t.Error(err)
	}
}

// Random requests, answers, failures and deaths: the promises hold whenever
// it comes to rest.
func TestRandomWalk(t *testing.T) {
	for seed := range uint64(300) {
		walk(t, seed)
	}
}

func walk(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld()
	w.capacity = 5
	tab := NewTable(w, limits)
	now := mono.Time(1)
	pick := func() flow.ID { return named(1 + r.IntN(8)) }
	for range 200 {
		now = now.Add(time.Duration(r.IntN(int(500 * time.Millisecond))))
		if r.IntN(20) == 0 {
			w.failAt = w.calls + 1 + r.IntN(3)
		}
		switch r.IntN(11) {
		case 0, 1:
			tab.Offload(now, now, 1, 0, []Candidate{{Flow: pick(), Bypass: r.IntN(2) == 0}, {Flow: pick()}})
		case 8:
			if c := tab.Find(pick().Key()); c != nil {
				tab.Shadow(now, []abi.HWID{c.HWID}, abi.LeftUnread, "")
			}
		case 9, 10:
			if len(w.tasks) > 0 && tab.Err() == nil {
				w.perform(now, tab, []abi.Reason{abi.None, abi.None, abi.None, abi.NotFrozen}[r.IntN(4)], r.IntN(20) == 0)
			}
		case 2:
			tab.Upload(now, 1, []flow.ID{pick(), pick()}, abi.Asked)
		case 3:
			w.socket(1 + r.IntN(8))
		case 4:
			delete(w.sockets, pick().Key())
		case 5:
			if c := tab.Find(pick().Key()); c != nil && c.HWID != 0 {
				tab.Answer(now, abi.Header{Type: abi.Notice}, []abi.Answer{{HWID: c.HWID, Reason: abi.Reason(1 + r.IntN(34))}})
			}
		default:
			if len(w.queue) > 0 && tab.Err() == nil {
				w.answer(now, tab)
			}
		}
		if tab.Advance(now); tab.Err() != nil {
			if err := settle(w, tab, now); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		tab.Outcomes()
	}
	if err := settle(w, tab, now); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if err := w.check(tab); err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(w.log[max(0, len(w.log)-20):], "\n"))
	}
}

func TestNames(t *testing.T) {
	for p := Phase(0); p < phases; p++ {
		if p.String() == "" {
			t.Errorf("phase %d has no name", p)
		}
	}
	for k := Offloaded; k <= Bypassed; k++ {
		if k.String() == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
}

func BenchmarkBatch(b *testing.B) {
	w := newWorld()
	var cands []Candidate
	var ids []flow.ID
	for n := range 1000 {
		w.socket(n + 1)
		cands = append(cands, Candidate{Flow: named(n + 1)})
		ids = append(ids, named(n+1))
	}
	for b.Loop() {
		w.log = w.log[:0]
		tab := NewTable(w, limits)
		tab.Offload(1, 1, 1, 0, cands)
		settle(w, tab, 2)
		tab.Upload(3, 2, ids, abi.Asked)
		settle(w, tab, 4)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/connection")
}
