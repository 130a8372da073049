package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// A run is some connections whose facts change at random, under a policy with
// everything in it, and what became of them.
type run struct {
	t       *testing.T
	r       *rand.Rand
	seed    uint64
	now     mono.Time
	d       *Decider
	conns   []*Seen
	asked   map[flow.ID]bool
	moved   map[flow.ID]mono.Time
	matched map[flow.ID]mono.Time // since when the rule with a For has matched
	pending []Move
	recent  []mono.Time
}

const lawPolicy = `
limits: {moves_per_second: 3, min_stay: 4s, retry_after: 2s}
rules:
- {name: out, when: uid == 1, action: never}
- {name: few, when: uid == 2, action: offload, quota: 2, priority: 3}
- {name: held, when: rate > 5, action: offload, for: 3s}
- {name: home, when: mark == 1, action: upload}
`

func (w *run) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("-seed %d, after %v: %s", w.seed, w.now.Sub(begin), fmt.Sprintf(format, args...))
}

// change has something happen to each connection.
func (w *run) change() {
	for _, s := range w.conns {
		switch w.r.IntN(12) {
		case 0:
			s.Facts.UID = w.r.Uint32N(4)
		case 1:
			s.Facts.Rate = w.r.Uint64N(10)
		case 2:
			s.Facts.Mark = w.r.Uint32N(2)
		case 3:
			if w.r.IntN(8) == 0 && !w.underWay(s.Flow) {
				w.givenBack(s)
			}
		case 4:
			if w.r.IntN(30) == 0 {
				w.d.Put(Hand{To: s.Facts.Place}, s.Flow)
				w.asked[s.Flow] = true
			}
		}
		if s.Facts.UID == 1 || s.Facts.UID == 2 || s.Facts.Rate <= 5 {
			w.matched[s.Flow] = 0
		} else if w.matched[s.Flow] == 0 {
			w.matched[s.Flow] = w.now
		}
	}
}

// givenBack has the device give a connection back; then it is the policy's.
func (w *run) givenBack(s *Seen) {
	if s.Facts.Place == OnDevice {
		s.Facts.Place, w.asked[s.Flow] = InKernel, false
	}
}

func (w *run) underWay(id flow.ID) bool {
	for _, m := range w.pending {
		if m.Flow == id {
			return true
		}
	}
	return false
}

// answer ends some of the moves that are under way.
func (w *run) answer() {
	var rest []Move
	for _, m := range w.pending {
		switch w.r.IntN(3) {
		case 0:
			rest = append(rest, m)
		case 1:
			w.d.Done(w.now, m.Flow, abi.DeviceFull)
		default:
			w.d.Done(w.now, m.Flow, abi.None)
			w.moved[m.Flow] = w.now
			w.find(m.Flow).Facts.Place = m.To
		}
	}
	w.pending = rest
}

func (w *run) find(id flow.ID) *Seen {
	for _, s := range w.conns {
		if s.Flow == id {
			return s
		}
	}
	w.fail("%v is not there", id)
	return nil
}

// check is what holds of every move, whatever happens.
func (w *run) check(m Move) {
	s, rule := w.find(m.Flow), w.d.Policy().RuleName(m.Rule)
	switch {
	case w.asked[m.Flow]:
		w.fail("%v was moved, which is the operator's", m.Flow)
	case w.underWay(m.Flow):
		w.fail("%v was moved twice", m.Flow)
	case s.Facts.Place == m.To:
		w.fail("%v was moved to the %s and was there", m.Flow, m.To)
	case w.d.Policy().Match(&s.Facts) != m.Rule:
		w.fail("%v was moved by rule %s, which does not match first", m.Flow, rule)
	case rule != "out" && w.moved[m.Flow] != 0 && w.now.Sub(w.moved[m.Flow]) < 4*time.Second:
		w.fail("%v was moved again after %v", m.Flow, w.now.Sub(w.moved[m.Flow]))
	case rule == "held" && w.now.Sub(w.matched[m.Flow]) < 3*time.Second:
		w.fail("%v was moved by held, which has matched for %v", m.Flow, w.now.Sub(w.matched[m.Flow]))
	case rule == "few" && w.few() > 2:
		w.fail("%v is the number %d of few, which may have 2", m.Flow, w.few())
	}
	w.recent = append(w.recent, w.now)
	if n := len(w.recent); n > 6 && w.now.Sub(w.recent[n-7]) < time.Second {
		w.fail("7 moves within %v", w.now.Sub(w.recent[n-7]))
	}
}

// few counts the connections that the rule of that name has on the device, or
// on the way there.
func (w *run) few() (n int) {
	for _, c := range w.d.conns {
		if c.pending != nil && c.pending.Rule == 1 || c.pending == nil && c.place == OnDevice && c.cause == 1 {
			n++
		}
	}
	return n
}

// Whatever happens to connections, and whenever: moves keep to the limits, to
// the operator's word and to the rules' times, and none is made twice.
func TestLawsOfMoves(t *testing.T) {
	for n := *seed; n < *seed+150; n++ {
		p, err := Parse("laws", []byte(lawPolicy), Known{})
		if err != nil {
			t.Fatal(err)
		}
		w := &run{t: t, r: rand.New(rand.NewPCG(n, 9)), seed: n, now: begin, d: NewDecider(),
			asked: map[flow.ID]bool{}, moved: map[flow.ID]mono.Time{}, matched: map[flow.ID]mono.Time{}}
		w.d.Apply(w.now, p)
		for i := range 12 {
			id := flow.ID{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(1+i))}
			w.conns = append(w.conns, &Seen{Flow: id, Socket: uint64(i + 1), Facts: Facts{Place: InKernel, Rate: 9}})
		}
		for _, s := range w.conns {
			w.matched[s.Flow] = w.now // all at once
		}
		total := 0
		for range 300 {
			w.now = w.now.Add(time.Duration(100+w.r.IntN(900)) * time.Millisecond)
			w.answer()
			w.change()
			seen := make([]Seen, len(w.conns))
			for i, s := range w.conns {
				seen[i] = *s
			}
			for _, m := range w.d.Tick(w.now, seen) {
				w.check(m)
				w.pending = append(w.pending, m)
				total++
			}
		}
		if total < 5 {
			w.fail("only %d moves", total)
		}
	}
}
