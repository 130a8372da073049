package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// A world is some connections and a Decider, for scripts:
//
//	policy        its input is a file, which is put in force
//	conns         a line each: a name, and facts that differ from before
//	tick to=T     ticks once a second from now until T, and says what moves.
//	              Moves are carried out at once, but for those named hold
//	done a        carries out what was held back; with reason=R it is refused
//	asked a       an operator, or, with program, its program moved it, to
//	              place=P, or, without that, did not
//	gone a        it ends
//	revived       a device takes connections again
//	outlook a     what the decider says of it
type world struct {
	d     *Decider
	now   mono.Time
	conns map[string]*Seen
	made  int
}

const begin = mono.Time(1000 * time.Second)

func (w *world) name(id flow.ID) string {
	for name, s := range w.conns {
		if s.Flow == id {
			return name
		}
	}
	return "?"
}

func (w *world) set(line string) error {
	fields := strings.Fields(line)
	s := w.conns[fields[0]]
	if s == nil {
		n := w.made
		w.made++
		id := flow.ID{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort(fmt.Sprintf("10.0.0.2:%d", 40000+n))}
		s = &Seen{Flow: id, Socket: uint64(100 + n), Facts: Facts{Local: id.Local, Remote: id.Remote, Place: InKernel}}
		w.conns[fields[0]] = s
	}
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		var n uint64
		fmt.Sscan(value, &n)
		switch key {
		case "rate":
			s.Facts.Rate = n
		case "uid":
			s.Facts.UID = uint32(n)
		case "place":
			s.Facts.Place = value
		case "socket":
			s.Socket = n
		case "moving":
			s.Moving = value == "yes"
		default:
			return fmt.Errorf("unknown fact %q", key)
		}
	}
	return nil
}

func (w *world) tick(to mono.Time, held []string) string {
	var b strings.Builder
	for ; w.now <= to; w.now = w.now.Add(time.Second) {
		var seen []Seen
		for _, s := range w.conns {
			seen = append(seen, *s)
		}
		for _, m := range w.d.Tick(w.now, seen) {
			name := w.name(m.Flow)
			fmt.Fprintf(&b, "%v %s to the %s by %s\n", w.now.Sub(begin), name, m.To, w.d.Policy().RuleName(m.Rule))
			if !slices.Contains(held, name) {
				w.d.Done(w.now, m.Flow, abi.None)
				w.conns[name].Facts.Place = m.To
			}
		}
	}
	return b.String()
}

func (w *world) run(t *testing.T, d *datadriven.TestData) string {
	named := func() *Seen { return w.conns[d.CmdArgs[0].Key] }
	var reason, place string
	d.MaybeScanArgs(t, "reason", &reason)
	d.MaybeScanArgs(t, "place", &place)
	switch d.Cmd {
	case "policy":
		p, err := Parse("p", []byte(d.Input), Known{})
		if err != nil {
			return err.Error()
		}
		w.d.Apply(w.now, p)
	case "conns":
		for line := range strings.Lines(d.Input) {
			if err := w.set(line); err != nil {
				return err.Error()
			}
		}
	case "tick":
		var to string
		var held []string
		d.ScanArgs(t, "to", &to)
		d.MaybeScanArgs(t, "hold", &held)
		until, err := time.ParseDuration(to)
		if err != nil {
			t.Fatal(err)
		}
		return w.tick(begin.Add(until), held)
	case "done":
		r, ok := abi.ParseReason(reason)
		if !ok {
			t.Fatalf("%s: no reason %q", d.Pos, reason)
		}
		if w.d.Done(w.now, named().Flow, r); r == abi.None {
			named().Facts.Place = place
		}
	case "asked":
		w.d.Put(Hand{To: place, Program: d.HasArg("program")}, named().Flow)
		named().Facts.Place = cmp.Or(place, named().Facts.Place)
	case "gone":
		delete(w.conns, d.CmdArgs[0].Key)
	case "revived":
		w.d.Revived()
	case "outlook":
		return w.d.Outlook(w.now, named().Flow) + "\n"
	default:
		t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	}
	return ""
}

func TestDecider(t *testing.T) {
	datadriven.Walk(t, "testdata/decide", func(t *testing.T, path string) {
		w := &world{d: NewDecider(), now: begin, conns: make(map[string]*Seen)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return w.run(t, d) })
	})
}

// What is gone is forgotten.
func TestDeciderForgets(t *testing.T) {
	p, err := Parse("p", []byte("rules: [{name: a, action: offload}]"), Known{})
	if err != nil {
		t.Fatal(err)
	}
	d := NewDecider()
	d.Apply(begin, p)
	s := Seen{Flow: flow.ID{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:1")}, Facts: Facts{Place: InKernel}}
	if moves := d.Tick(begin, []Seen{s}); len(moves) != 1 {
		t.Fatal(moves)
	}
	if d.Tick(begin.Add(time.Second), nil); len(d.conns) != 0 {
		t.Errorf("%d connections remembered", len(d.conns))
	}
	d.Done(begin.Add(time.Second), s.Flow, abi.None)
	if len(d.conns) != 0 {
		t.Error("an outcome that comes late is remembered")
	}
}

func BenchmarkTick(b *testing.B) {
	p, err := Parse(DefaultName, []byte(DefaultSource()), Known{})
	if err != nil {
		b.Fatal(err)
	}
	d := NewDecider()
	d.Apply(begin, p)
	seen := make([]Seen, 10000)
	for i := range seen {
		id := flow.ID{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(i))}
		seen[i] = Seen{Flow: id, Facts: Facts{Local: id.Local, Remote: id.Remote, Place: InKernel, Age: time.Minute}}
	}
	now := begin
	for b.Loop() {
		now = now.Add(time.Second)
		d.Tick(now, seen)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(seen)), "ns/connection")
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := Parse(DefaultName, []byte(DefaultSource()), Known{}); err != nil {
			b.Fatal(err)
		}
	}
}
