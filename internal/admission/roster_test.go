package admission

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// A world is a Roster for scripts:
//
//	roster        a new one, with these limits
//	apply         a line for each applicant: a name, and what is not 0 of its
//	              remote, user, priority and rate; asked stands alone
//	measure       a line each: a name and the octets so far
//	wait D        time goes on
//	leave, stay   a connection has left, or has not made room after all
//	give-back     it has not come after all
//	counts        of the roster's tables
type world struct {
	r     *Roster
	now   mono.Time
	names map[string]flow.ID
}

func (w *world) flow(name, remote string) flow.ID {
	if id, ok := w.names[name]; ok {
		return id
	}
	local := netip.MustParseAddr("10.0.0.1")
	peer := netip.MustParseAddr("10.9.0.1")
	if remote != "" {
		peer = netip.MustParseAddr(remote)
	}
	if peer.Is6() {
		local = netip.MustParseAddr("fd00::1")
	}
	id := flow.ID{Local: netip.AddrPortFrom(local, 80), Remote: netip.AddrPortFrom(peer, uint16(1000+len(w.names)))}
	w.names[name] = id
	return id
}

func (w *world) name(id flow.ID) string {
	for name, f := range w.names {
		if f == id {
			return name
		}
	}
	return "?"
}

func (w *world) applicant(line string) (a Applicant, err error) {
	fields := strings.Fields(line)
	var remote string
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "asked":
			a.Asked = true
		case "remote":
			remote = value
		case "user":
			_, err = fmt.Sscan(value, &a.User)
		case "priority":
			_, err = fmt.Sscan(value, &a.Priority)
		case "rate":
			_, err = fmt.Sscan(value, &a.Rate)
		default:
			err = fmt.Errorf("unknown %q", key)
		}
	}
	a.Flow = w.flow(fields[0], remote)
	return a, err
}

func (w *world) apply(t *testing.T, input string) string {
	var all []Applicant
	for line := range strings.Lines(input) {
		a, err := w.applicant(line)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	var b strings.Builder
	for i, v := range w.r.Apply(w.now, all) {
		fmt.Fprint(&b, w.name(all[i].Flow), ": ")
		switch {
		case v.Reason != abi.None:
			fmt.Fprintf(&b, "%s: %s\n", v.Reason, v.Detail)
		case v.Displaces():
			fmt.Fprintf(&b, "a place, instead of %s\n", w.name(v.Instead))
		default:
			fmt.Fprintln(&b, "a place")
		}
	}
	return b.String()
}

func (w *world) do(t *testing.T, d *datadriven.TestData) string {
	arg := func(key string, to any) {
		for _, a := range d.CmdArgs {
			if a.Key == key {
				if _, err := fmt.Sscan(a.Vals[0], to); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	switch d.Cmd {
	case "roster":
		l := Limits{Prefix4: DefaultPrefix4, Prefix6: DefaultPrefix6, MinStay: DefaultMinStay}
		arg("connections", &l.Connections)
		arg("per-prefix", &l.PerPrefix)
		arg("per-user", &l.PerUser)
		arg("prefix4", &l.Prefix4)
		arg("prefix6", &l.Prefix6)
		if err := l.Check(); err != nil {
			return err.Error()
		}
		*w = world{r: NewRoster(l), now: mono.Time(time.Hour), names: make(map[string]flow.ID)}
	case "apply":
		return w.apply(t, d.Input)
	case "measure":
		for line := range strings.Lines(d.Input) {
			var name string
			var octets uint64
			if _, err := fmt.Sscan(line, &name, &octets); err != nil {
				t.Fatal(err)
			}
			key := w.flow(name, "").Key()
			w.r.Measure(w.now, key, octets)
			return fmt.Sprintf("%d octets a second\n", w.r.places[key].Rate)
		}
	case "wait":
		by, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(by)
	case "leave":
		w.r.Leave(w.flow(d.CmdArgs[0].Key, "").Key())
	case "give-back":
		w.r.GiveBack(w.flow(d.CmdArgs[0].Key, "").Key())
	case "stay":
		w.r.Stay(w.flow(d.CmdArgs[0].Key, "").Key())
	case "counts":
		return fmt.Sprintf("%d places, %d staying, %d prefixes, %d users\n", w.r.Len(), w.r.staying, len(w.r.prefixes), len(w.r.users))
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	return ""
}

func TestRoster(t *testing.T) {
	datadriven.Walk(t, "testdata/roster", func(t *testing.T, path string) {
		w := new(world)
		datadriven.RunTest(t, path, w.do)
	})
}

// Whatever applies, nobody has more than the limits allow, and the tables do
// not grow with those that are refused.
func TestFloodIsBounded(t *testing.T) {
	l := Limits{Connections: 50, PerPrefix: 8, PerUser: 20, Prefix4: 24, Prefix6: 56}
	r := NewRoster(l)
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	now := mono.Time(time.Hour)
	for round := range 400 {
		all := make([]Applicant, 64)
		for i := range all {
			remote := netip.AddrFrom4([4]byte{10, byte(rnd.IntN(2)), byte(rnd.IntN(40)), byte(rnd.IntN(256))})
			all[i] = Applicant{
				Flow:  flow.ID{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.AddrPortFrom(remote, uint16(rnd.IntN(1<<16)))},
				User:  uint32(rnd.IntN(6)),
				Claim: Claim{Asked: rnd.IntN(50) == 0, Priority: rnd.IntN(3), Rate: rnd.Uint64N(1 << 30)},
			}
		}
		for i, v := range r.Apply(now, all) {
			if v.Displaces() && !r.Has(all[i].Flow.Key()) {
				t.Fatalf("seed %d: one makes room for nobody", seed)
			}
			if v.Displaces() && rnd.IntN(4) != 0 {
				r.Leave(v.Instead.Key())
			} else if v.Displaces() {
				r.GiveBack(all[i].Flow.Key()) // it ended meanwhile
				r.Stay(v.Instead.Key())
			}
		}
		if rnd.IntN(8) == 0 {
			for k := range r.places {
				r.Leave(k)
				break
			}
		}
		now = now.Add(time.Duration(rnd.IntN(2000)) * time.Millisecond)
		check(t, seed, round, r)
	}
}

func check(t *testing.T, seed uint64, round int, r *Roster) {
	t.Helper()
	prefixes, users := make(map[netip.Prefix]int), make(map[uint32]int)
	for _, p := range r.places {
		prefixes[p.prefix]++
		users[p.User]++
	}
	for p, n := range prefixes {
		if n > r.limits.PerPrefix || n != r.prefixes[p] {
			t.Fatalf("seed %d, round %d: %d connections with %s, %d counted", seed, round, n, p, r.prefixes[p])
		}
	}
	for u, n := range users {
		if n > r.limits.PerUser || n != r.users[u] {
			t.Fatalf("seed %d, round %d: %d connections of user %d, %d counted", seed, round, n, u, r.users[u])
		}
	}
	if r.Len() > r.limits.Connections || r.staying != r.Len() || len(prefixes) != len(r.prefixes) || len(users) != len(r.users) || len(r.rests) > mostRests {
		t.Fatalf("seed %d, round %d: %d places, %d stay, %d rest", seed, round, r.Len(), r.staying, len(r.rests))
	}
}

// Two connections that are faster in the kernel than on the device want its
// one place by turns. They get it less and less often.
func TestNoSwappingForEver(t *testing.T) {
	r := NewRoster(Limits{Connections: 1, Prefix4: 24, Prefix6: 56, MinStay: DefaultMinStay})
	ids := [2]flow.ID{}
	for i := range ids {
		ids[i] = flow.ID{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(i+1))}
	}
	const hour = 3600
	octets, swaps, has := uint64(0), 0, -1
	for s := range hour {
		now := mono.Time(s+1) * mono.Time(time.Second)
		for i, id := range ids {
			if i == has {
				octets += 1_000_000
				r.Measure(now, id.Key(), octets)
				continue
			}
			v := r.Apply(now, []Applicant{{Flow: id, Claim: Claim{Rate: 5_000_000}}})[0]
			if v.Reason != abi.None {
				continue
			}
			if v.Displaces() {
				r.Leave(v.Instead.Key())
				swaps++
			}
			has, octets = i, 0
		}
	}
	if swaps == 0 || swaps > 16 {
		t.Errorf("%d swaps in an hour", swaps)
	}
}

// As many as may rest do: then nobody makes room until some have rested.
func TestRestsAreBounded(t *testing.T) {
	r := NewRoster(Limits{Connections: 1, Prefix4: 24, Prefix6: 56})
	last := Verdict{}
	n := 0
	now := mono.Time(time.Hour)
	apply := func() {
		n++
		id := flow.ID{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}), 1)}
		if last = r.Apply(now, []Applicant{{Flow: id, Claim: Claim{Priority: n}}})[0]; last.Displaces() {
			r.Leave(last.Instead.Key())
		}
	}
	for range mostRests + 2 {
		apply()
	}
	if len(r.rests) != mostRests || last.Reason != abi.DeviceFull {
		t.Errorf("%d rest, and the next one gets %+v", len(r.rests), last)
	}
	now = now.Add(2 * firstRest)
	if apply(); !last.Displaces() || len(r.rests) != 1 {
		t.Errorf("after that %d rest, and the next one gets %+v", len(r.rests), last)
	}
}
