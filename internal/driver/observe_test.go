package driver

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/flow"
	"toehold/internal/kernel"
	"toehold/internal/mono"
	"toehold/internal/policy"
)

// A gauge is a meter that tells what it is given.
type gauge struct {
	measures []kernel.Measure
	err      error
	first    mono.Time
}

func (g *gauge) Read(mono.Time) ([]kernel.Measure, error) { return g.measures, g.err }
func (g *gauge) FirstSeen(uint64) mono.Time               { return g.first }

// measured is connection n with some measures.
func measured(n int, edit func(*kernel.Measure)) kernel.Measure {
	m := kernel.Measure{Key: numbered(n).Key(), Cookie: uint64(n), Inode: uint64(1000 + n), BytesAcked: 1000, MSS: 1000, UID: 33, Mark: 7, TOS: 46 << 2, SRTT: 1500}
	copy(m.CongestionControl[:], "cubic")
	if edit != nil {
		edit(&m)
	}
	return m
}

func testObserver(measures ...kernel.Measure) (*observer, *gauge) {
	g := &gauge{measures: measures, first: 1}
	o := newObserver()
	o.meter = g
	o.owners = func(socks []kernel.Socket) error {
		for i := range socks {
			socks[i].Owner = kernel.Owner{PID: os.Getpid(), Comm: "tester", FD: 3}
		}
		return nil
	}
	return o, g
}

// Every fact comes from where it is measured.
func TestFacts(t *testing.T) {
	m := measured(1, func(m *kernel.Measure) {
		m.Retransmits, m.SegsOut, m.SinceSent, m.SinceReceived = 1, 10, 300, 200
		m.BytesSent, m.DataSegsOut, m.BytesReceived = 1000, 4, 0
	})
	o, _ := testObserver(m)
	seen, err := o.look(1+mono.Time(time.Minute), nil, nil)
	if err != nil || len(seen) != 1 {
		t.Fatal(seen, err)
	}
	self, _ := os.Executable()
	want := policy.Facts{
		Local: numbered(1).Local, Remote: numbered(1).Remote, Process: "tester", Executable: self, UID: 33, NetNS: ownNamespace(), Mark: 7, DSCP: 46,
		Congestion: "cubic", Place: InKernel, BytesSent: 1000, RTT: 1500 * time.Microsecond, Retransmissions: 0.1, Age: time.Minute,
		Idle: 200 * time.Millisecond, SmallIO: 0.75,
	}
	if got := seen[0].Facts; got != want || seen[0].Socket != 1 || seen[0].Flow != numbered(1) || seen[0].Moving {
		t.Errorf("facts are %+v\nwant %+v", got, want)
	}
	if want.NetNS == 0 {
		t.Error("the namespace is not known")
	}
}

// Where the device has a connection, what it measures counts.
func TestFactsOnDevice(t *testing.T) {
	o, _ := testObserver(measured(1, nil), measured(2, nil))
	at := map[flow.ID]placed{
		numbered(1): {place: OnDevice, hardware: &abi.HardwarePart{SRTT: 9000, Retransmits: 5, SegsSent: 50}},
		numbered(2): {place: OnTheWay},
	}
	seen, err := o.look(2, at, func(string) bool { return false })
	if err != nil || len(seen) != 2 {
		t.Fatal(seen, err)
	}
	if f := seen[0].Facts; f.Place != OnDevice || f.RTT != 9*time.Millisecond || f.Retransmissions != 0.1 || f.Process != "" {
		t.Errorf("on the device: %+v", f)
	}
	if f := seen[1].Facts; !seen[1].Moving || f.Place != InKernel {
		t.Errorf("on its way: %+v", f)
	}
}

// The rate follows the traffic within seconds; what is gone is forgotten.
func TestRates(t *testing.T) {
	o, g := testObserver(measured(1, nil))
	now := mono.Time(time.Second)
	tick := func(octets uint64) uint64 {
		t.Helper()
		now = now.Add(time.Second)
		g.measures[0].BytesAcked += octets
		seen, err := o.look(now, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return seen[0].Facts.Rate
	}
	if rate := tick(5000); rate != 0 {
		t.Errorf("at first sight the rate is %d", rate)
	}
	var rate uint64
	for range 8 {
		rate = tick(1000)
	}
	if rate < 950 || rate > 1000 {
		t.Errorf("after 8 s of 1000 a second the rate is %d", rate)
	}
	if rate := tick(0); rate < 450 || rate > 500 {
		t.Errorf("after a second of nothing it is %d", rate)
	}
	if again, err := o.look(now.Add(time.Millisecond), nil, nil); err != nil || again[0].Facts.Rate < 450 {
		t.Errorf("a look between two others: %+v, %v", again, err)
	}
	g.measures = nil
	if _, err := o.look(now, nil, nil); err != nil || len(o.known) != 0 || len(o.flows) != 0 {
		t.Errorf("%d are remembered, %v", len(o.known), err)
	}
}

// A process that is not found is looked for a few times, and no more.
func TestOwnersNotFound(t *testing.T) {
	o, _ := testObserver(measured(1, nil))
	asked := 0
	o.owners = func([]kernel.Socket) error { asked++; return nil }
	for n := range 3 * ownerTries {
		if _, err := o.look(mono.Time(n+1), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if asked != ownerTries {
		t.Errorf("looked for %d times", asked)
	}
}

// testPolicing is a driver without uplinks that sees what the gauge tells.
func testPolicing(g *gauge) *Driver {
	d := &Driver{log: slog.New(slog.DiscardHandler), journal: testJournal(), heirs: newHeirs()}
	d.policing = newPolicing(d)
	d.policing.observer.meter = g
	return d
}

// A policy moves what it matches; what is refused is told with its rule.
func TestPolicing(t *testing.T) {
	d := testPolicing(&gauge{measures: []kernel.Measure{measured(1, nil), measured(2, func(m *kernel.Measure) { m.UID = 0 })}, first: 1})
	ctx := context.Background()
	if _, err := d.Policy(ctx); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("before there is a policy: %v", err)
	}
	source := []byte("rules:\n- {name: users, when: uid > 0, action: offload}\n")
	check, err := d.CheckPolicy(ctx, "p", source)
	if err != nil || len(check.Connections) != 2 || check.Rules[0].Offload != 1 || check.Rules[1].Connections != 1 {
		t.Errorf("checked: %+v, %v", check, err)
	}
	if _, err := d.ApplyPolicy(ctx, "p", source); err != nil {
		t.Fatal(err)
	}
	groups := d.policing.turn()
	if len(groups) != 1 || groups[0].name != "users" || len(groups[0].ids) != 1 || groups[0].ids[0] != numbered(1) {
		t.Fatalf("to be moved: %+v", groups)
	}
	d.policing.carryOut(ctx, &groups[0])
	events := d.journal.Events()
	last := events[len(events)-1]
	if last.Kind != EventRefused || last.Reason != "uplink-gone" || !strings.HasSuffix(last.Detail, "; rule users") {
		t.Errorf("refused as %+v", last)
	}
	if again := d.policing.turn(); len(again) != 0 {
		t.Errorf("tried again at once: %+v", again)
	}
	if outlook := d.policing.decider.Outlook(mono.Now(), numbered(1)); !strings.Contains(outlook, "uplink-gone") {
		t.Errorf("outlook: %s", outlook)
	}
}

// What the traffic of a connection speaks against is refused before anything
// is tried.
func TestTrafficSpeaksAgainst(t *testing.T) {
	g := &gauge{measures: []kernel.Measure{measured(1, nil), measured(2, nil)}, first: 1}
	d := testPolicing(g)
	d.cfg.RefuseWhen = admission.DefaultRefusals
	ctx := context.Background()
	d.policing.turn()
	for i := range g.measures {
		g.measures[i].BytesSent += 1 << 20
	}
	g.measures[1].BytesResent += 1 << 19
	if _, err := d.ApplyPolicy(ctx, "p", []byte("rules:\n- {name: all, action: offload}\n")); err != nil {
		t.Fatal(err)
	}
	groups := d.policing.turn()
	if len(groups) != 1 || len(groups[0].ids) != 1 || groups[0].ids[0] != numbered(1) {
		t.Fatalf("to be moved: %+v", groups)
	}
	events := d.journal.Events()
	last := events[len(events)-1]
	want := "50% of the octets sent were sent again, 30% is the limit; rule all"
	if last.Kind != EventRefused || last.Reason != "loss" || last.Detail != want || last.Remote != numbered(2).Remote.String() {
		t.Errorf("refused as %+v", last)
	}
	if outlook := d.policing.decider.Outlook(mono.Now(), numbered(2)); !strings.Contains(outlook, "refused (loss) and is tried again") {
		t.Errorf("outlook: %s", outlook)
	}
}

// While a device has a connection, the kernel's counters are of the hop to it.
func TestOnlyTheKernelsTrafficCounts(t *testing.T) {
	o, g := testObserver(measured(1, nil))
	at := map[flow.ID]placed{numbered(1): {place: OnDevice}}
	for n := range 5 {
		if _, err := o.look(mono.Time(n+1)*mono.Time(time.Second), at, nil); err != nil {
			t.Fatal(err)
		}
		g.measures[0].BytesSent += 1 << 20
		g.measures[0].BytesResent += 1 << 20
	}
	if loss := o.known[1].recent.Loss(); loss != 0 {
		t.Errorf("losses: %v", loss)
	}
}

// The table for the kernel is of the policy in force, with the interfaces that
// there are.
func TestPolicyTable(t *testing.T) {
	d := testPolicing(&gauge{})
	if table := d.PolicyTable(); table.Count != 0 || table.Serial != 0 {
		t.Errorf("without a policy: serial %d, %d terms", table.Serial, table.Count)
	}
	source := "rules:\n- {name: a, when: interface == \"lo\" || interface == \"nonesuch0\", action: never}\n"
	if _, err := d.ApplyPolicy(context.Background(), "p", []byte(source)); err != nil {
		t.Fatal(err)
	}
	table := d.PolicyTable()
	facts := abi.PolicyFacts{Known: ^uint32(0)}
	facts.Fact[abi.FieldInterface][15] = 1 // lo
	if verdict, rule := policy.Judge(table, &facts); verdict != abi.VerdictNever || rule != 0 || table.Serial != 1 {
		t.Errorf("on lo: %v by %d, serial %d", verdict, rule, table.Serial)
	}
	facts.Fact[abi.FieldInterface][15] = 99
	if verdict, _ := policy.Judge(table, &facts); verdict != abi.VerdictLater {
		t.Errorf("elsewhere, where an interface may yet come: %v", verdict)
	}
}

// A bad policy changes nothing.
func TestBadPolicyStays(t *testing.T) {
	d := testPolicing(&gauge{})
	ctx := context.Background()
	if _, err := d.ApplyPolicy(ctx, "good", []byte("rules: []")); err != nil {
		t.Fatal(err)
	}
	var problems policy.Problems
	for _, f := range []func() error{
		func() error { _, err := d.ApplyPolicy(ctx, "bad", []byte("rules: 1")); return err },
		func() error { _, err := d.CheckPolicy(ctx, "bad", []byte("rules: 1")); return err },
	} {
		if err := f(); !errors.As(err, &problems) {
			t.Errorf("a bad policy: %v", err)
		}
	}
	if v, err := d.Policy(ctx); err != nil || v.Name != "good" {
		t.Errorf("in force is %+v, %v", v, err)
	}
}

// A policy may forbid what programs ask for.
func TestForbidden(t *testing.T) {
	d := testPolicing(&gauge{measures: []kernel.Measure{measured(1, nil), measured(2, func(m *kernel.Measure) { m.UID = 0 })}, first: 1})
	if got := d.policing.permit(context.Background(), numberedFlows(3)); len(got) != 3 {
		t.Errorf("without a policy %v may move", got)
	}
	if _, err := d.ApplyPolicy(context.Background(), "p", []byte("rules: [{name: root, when: uid == 0, action: never}]")); err != nil {
		t.Fatal(err)
	}
	if got := d.policing.permit(context.Background(), numberedFlows(3)); len(got) != 2 || got[0] != numbered(1) || got[1] != numbered(3) {
		t.Errorf("%v may move", got)
	}
	events := d.journal.Events()
	if last := events[len(events)-1]; last.Kind != EventRefused || last.Reason != "policy" || last.Detail != "rule root forbids it" {
		t.Errorf("refused as %+v", last)
	}
}

// What an operator moves the policy leaves alone; not what was refused to
// him.
func TestByHand(t *testing.T) {
	d := testPolicing(&gauge{measures: []kernel.Measure{measured(1, nil), measured(2, nil)}, first: 1})
	if _, err := d.ApplyPolicy(context.Background(), "p", []byte("rules: [{name: all, action: offload}]")); err != nil {
		t.Fatal(err)
	}
	d.policing.byHand(policy.Hand{To: OnDevice}, numberedFlows(2), func() (Result, error) {
		return Result{Refused: []Refusal{
			{Local: numbered(1).Local, Remote: numbered(1).Remote, Reason: "already-in-kernel"},
			{Local: numbered(2).Local, Remote: numbered(2).Remote, Reason: "device-full"},
		}}, nil
	})
	groups := d.policing.turn()
	if len(groups) != 1 || len(groups[0].ids) != 1 || groups[0].ids[0] != numbered(2) {
		t.Errorf("to be moved: %+v", groups)
	}
}

// A slow is a meter that takes its time.
type slow struct {
	gauge
	takes time.Duration
	reads atomic.Int64
}

func (s *slow) Read(now mono.Time) ([]kernel.Measure, error) {
	s.reads.Add(1)
	time.Sleep(s.takes)
	return s.gauge.Read(now)
}

// However often somebody has the policy look, it rests between two looks.
func TestPolicyRests(t *testing.T) {
	const takes, looks = 10 * time.Millisecond, 5
	d := testPolicing(nil)
	m := &slow{gauge: gauge{measures: []kernel.Measure{measured(1, nil)}, first: 1}, takes: takes}
	d.policing.observer.meter = m
	p, err := ParsePolicy("p", []byte("rules: [{name: a, when: uid == 0, action: never}]"), nil)
	if err != nil {
		t.Fatal(err)
	}
	d.policing.apply(p)
	begin := time.Now()
	d.policing.start()
	defer func() { d.policing.stop() }()
	for m.reads.Load() < looks && time.Since(begin) < 10*time.Second {
		d.policing.nudge()
		d.policing.permit(context.Background(), numberedFlows(1))
	}
	if n, past := m.reads.Load(), time.Since(begin); n < looks || past < (looks-1)*(1+restTimes)*takes {
		t.Errorf("%d looks of %v within %v", n, takes, past)
	}
}

// While there is no policy nobody asks whose connections there are.
func TestOwnersOfNoPolicy(t *testing.T) {
	d := testPolicing(&gauge{measures: []kernel.Measure{measured(1, nil)}, first: 1})
	d.policing.observer.owners = func([]kernel.Socket) error {
		t.Error("owners are looked for")
		return nil
	}
	if d.policing.turn(); len(d.policing.observer.known) != 1 {
		t.Error("the connection is not known")
	}
}

// Without measures nothing is moved, and it is said once.
func TestLookFails(t *testing.T) {
	d := testPolicing(&gauge{err: errors.New("no BPF today")})
	var said strings.Builder
	d.log = slog.New(slog.NewTextHandler(&said, nil))
	for range 3 {
		if groups := d.policing.turn(); groups != nil {
			t.Errorf("to be moved: %+v", groups)
		}
	}
	if n := strings.Count(said.String(), "no BPF today"); n != 1 {
		t.Errorf("said %d times:\n%s", n, &said)
	}
}

// A turn over many connections without their measuring: facts and rules.
func BenchmarkTurn(b *testing.B) {
	const conns = 10000
	g := &gauge{first: 1}
	for n := range conns {
		g.measures = append(g.measures, measured(n+1, nil))
	}
	d := testPolicing(g)
	p, err := ParsePolicy(policy.DefaultName, []byte(policy.DefaultSource()), nil)
	if err != nil {
		b.Fatal(err)
	}
	d.policing.apply(p)
	for b.Loop() {
		d.policing.turn()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/conns, "ns/connection")
}
