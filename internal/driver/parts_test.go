package driver

import (
	"context"
	"log/slog"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/kernel"
	"toehold/internal/mono"
)

func testUplink() *uplink {
	return newUplink("eth9", &Config{MaxConnections: 4, StaleAfter: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}, testJournal(), newHeirs())
}

// The time of moves that overlap is shared out; refusals stand apart.
func TestResult(t *testing.T) {
	us := time.Microsecond
	var r Result
	r.add([]handover.Outcome{{Kind: handover.Offloaded, Flow: numbered(1), HWID: abi.MakeHWID(3, 1), Took: 200 * us, Stall: 7 * us, Bytes: 9}})
	if m := r.Moved[0]; m.Took != 200 || m.Stall != 7 || m.Bytes != 9 || m.ID != "3-1" || m.Remote != numbered(1).Remote {
		t.Errorf("one move: %+v", m)
	}
	r = Result{}
	r.add([]handover.Outcome{
		{Kind: handover.Offloaded, Took: 300 * us},
		{Kind: handover.Refused, Flow: numbered(2), Reason: abi.MPTCP, Detail: "so it is", Took: 900 * us},
		{Kind: handover.Uploaded, Took: 800 * us},
		{Kind: handover.Over, Reason: abi.Closed},
	})
	if len(r.Moved) != 2 || r.Moved[0].Took != 400 || r.Moved[1].Took != 400 {
		t.Errorf("two moves: %+v", r.Moved)
	}
	if len(r.Refused) != 2 || r.Refused[0].Reason != "mptcp" || r.Refused[0].Detail != "so it is" || r.Refused[1].Reason != "closed" {
		t.Errorf("refused: %+v", r.Refused)
	}
}

// A request is answered when its last outcome has come, also when nothing
// could be tried.
func TestRequests(t *testing.T) {
	u := testUplink()
	done := u.offload(1, Options{why: asked}, candidates(1, 2))
	outcomes := <-done
	if len(outcomes) != 2 || outcomes[0].Reason != abi.UplinkGone || outcomes[0].Detail == "" {
		t.Errorf("with the uplink down: %+v", outcomes)
	}
	u.up = true
	outcomes = <-u.offload(1, Options{why: asked}, candidates(1))
	if len(outcomes) != 1 || outcomes[0].Reason != abi.DeviceDown || !strings.Contains(outcomes[0].Detail, "not started") {
		t.Errorf("without a device: %+v", outcomes)
	}
	home := u.upload(numberedFlows(3), asked)
	u.settle()
	if outcomes = <-home; len(outcomes) != 3 || outcomes[2].Reason != abi.AlreadyInKernel {
		t.Errorf("upload of what is home: %+v", outcomes)
	}
	if len(u.requests) != 0 {
		t.Errorf("%d requests are left", len(u.requests))
	}
	if n := u.counters.refused["already-in-kernel"]; n != 3 {
		t.Errorf("%d refusals counted", n)
	}
}

func TestCollectEnds(t *testing.T) {
	u := testUplink()
	never := share{uplink: u, done: make(chan []handover.Outcome)}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := collect(gone, 0, nil, []share{never}); err == nil {
		t.Error("it waited for nobody")
	}
	close(u.ended)
	if _, err := collect(context.Background(), 0, nil, []share{never}); err == nil || !strings.Contains(err.Error(), "eth9 has been stopped") {
		t.Errorf("a stopped uplink: %v", err)
	}
	refused := []Refusal{{Reason: "nat"}}
	if r, err := collect(context.Background(), mono.Now(), refused, nil); err != nil || len(r.Refused) != 1 || r.Moved == nil {
		t.Errorf("nothing to wait for: %+v, %v", r, err)
	}
}

// Only a selector that names both ends can turn out to name nothing; what a
// group's named has gone since, which is a refusal.
func TestMatched(t *testing.T) {
	d := &Driver{uplinks: []*uplink{testUplink()}}
	close(d.uplinks[0].ended)
	gone := Result{Refused: []Refusal{{Reason: abi.NoConnection.String(), Detail: abi.NoConnection.Text()}}}
	for _, s := range []Selector{{All: true}, {PID: 7}, {State: InKernel}, {Local: Endpoint{Port: 80}}} {
		if err := d.matched(s, &gone); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	both := Selector{Local: Endpoint{numbered(1).Local.Addr(), 80}, Remote: Endpoint{numbered(1).Remote.Addr(), 1}}
	if _, ok := both.exact(); !ok {
		t.Error("both ends do not name one connection")
	}
	both.PID = 7
	if _, ok := both.exact(); ok {
		t.Error("with a pid it is taken at its word")
	}
	for s, general := range map[Selector]bool{{All: true}: true, {State: OnDevice}: true, {All: true, State: OnDevice}: true,
		{All: true, PID: 7}: false, {PID: 7}: false, {ID: 7}: false, {Local: Endpoint{Port: 80}}: false} {
		if s.general() != general {
			t.Errorf("%s is general: %v", s, !general)
		}
	}
}

// With every interface gone the connections are refused, each.
func TestOffloadWithoutInterface(t *testing.T) {
	d := &Driver{uplinks: []*uplink{testUplink()}, journal: testJournal()}
	close(d.uplinks[0].ended)
	r, err := d.OffloadFlows(context.Background(), []flow.ID{numbered(2), numbered(1)}, Options{})
	if err != nil || r.Moved == nil || len(r.Refused) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	for i, f := range r.Refused {
		if f.Reason != abi.UplinkGone.String() || f.Detail == "" || f.Remote != numbered(i+1).Remote {
			t.Errorf("refusal %d: %+v", i, f)
		}
	}
	if n := len(d.journal.Events()); n != 2 {
		t.Errorf("%d events", n)
	}
}

// A device is tried again at once, then later and later.
func TestRetry(t *testing.T) {
	u := testUplink()
	var waits []time.Duration
	for range 9 {
		u.retry(1, "it ended")
		waits = append(waits, u.retryAt.Sub(1))
	}
	if waits[0] != 0 || waits[1] != firstBackOff || waits[2] != 2*firstBackOff || waits[8] != lastBackOff {
		t.Errorf("it waits %v", waits)
	}
}

// Without an interface hands do nothing, and un-steering is no error: there
// is no steering map.
func TestHandsWithoutInterface(t *testing.T) {
	u := testUplink()
	keys := []abi.HWID{1}
	if u.Probe(nil, nil) == nil || u.Steer(nil, keys) == nil || u.Command(abi.Own, keys) == nil || u.Offer(1, nil) == nil {
		t.Error("something was done")
	}
	if err := u.Unsteer(nil); err != nil {
		t.Errorf("unsteer: %v", err)
	}
	if u.hardware(1) != nil {
		t.Error("a block was read")
	}
}

// What a route cannot be asked about is answered without one.
func TestRuleWithoutRoute(t *testing.T) {
	d := &Driver{}
	r := d.rule(numbered(1), &abi.KernelState{Special: abi.SpecialMissing})
	if r.uplink != nil || r.reason != abi.NoConnection {
		t.Errorf("a missing connection: %+v", r)
	}
	same := numbered(1)
	same.Remote = same.Local
	if r := d.rule(same, &abi.KernelState{}); r.reason != abi.NoUplink || !strings.Contains(r.detail, "this host") {
		t.Errorf("a connection with itself: %+v", r)
	}
}

func TestPathOf(t *testing.T) {
	mac := func(s string) net.HardwareAddr {
		m, err := net.ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	p := pathOf(&kernel.Route{PathMTU: 1400, NextHop: mac("02:00:00:00:00:01"), Source: mac("02:00:00:00:00:02")})
	if p.MTU != 1400 || p.NextHop != [6]byte{2, 0, 0, 0, 0, 1} || p.Source != [6]byte{2, 0, 0, 0, 0, 2} {
		t.Errorf("%+v", p)
	}
	if p := pathOf(&kernel.Route{PathMTU: 1420}); p.NextHop != [6]byte{} {
		t.Errorf("without link addresses: %+v", p)
	}
}

func TestSameSocket(t *testing.T) {
	for _, tt := range []struct {
		a, b uint64
		same bool
	}{{5, 5, true}, {5, 6, false}, {0, 6, true}, {5, 0, true}} {
		if sameSocket(tt.a, tt.b) != tt.same {
			t.Errorf("inodes %d and %d", tt.a, tt.b)
		}
	}
}

// What a device says is shown, whatever it says.
func TestHardwarePart(t *testing.T) {
	h := hardwarePart(&abi.HardwarePart{Place: abi.PlaceOwned, Recovery: 1, SRTT: 9, Reason: uint32(abi.ECN)})
	if h.Place != "owned" || h.Recovery != "recovery" || h.RTT != 9 || h.Reason != "ecn" {
		t.Errorf("%+v", h)
	}
	h = hardwarePart(&abi.HardwarePart{Place: 200, State: 200, Recovery: 200, Reason: 1 << 30})
	if h.Place != "unknown" || h.State == "" || h.Recovery != "unknown" || h.Reason != "unknown" {
		t.Errorf("of garbage: %+v", h)
	}
	if hardwarePart(nil) != nil || stateName(250) != "unknown" || stateName(1) != "established" {
		t.Error("names")
	}
}

// The device's figures take the place of the kernel's, but for the octets.
func TestPlace(t *testing.T) {
	s := &kernel.Socket{Flow: numbered(1), State: abi.KernelState{State: 1, BytesSent: 100, SRTT: 5, SndCwnd: 10, Retransmits: 2}}
	c := connection(s)
	if c.Place != InKernel || c.BytesSent != 100 || c.State != "established" || c.ID != "" {
		t.Errorf("in the kernel: %+v", c)
	}
	c.place(&placed{hwid: abi.MakeHWID(3, 1), place: OnDevice, attached: Shadow, device: "eth9", hardware: &abi.HardwarePart{SRTT: 7, Cwnd: 20, Retransmits: 3, BytesSent: 1}})
	if c.Place != OnDevice || c.ID != "3-1" || c.Attachment != Shadow || c.RTT != 7 || c.Cwnd != 20 || c.Retransmits != 5 || c.BytesSent != 100 {
		t.Errorf("on the device: %+v", c)
	}
	c = connection(s)
	c.place(&placed{place: OnTheWay, device: "eth9", hardware: &abi.HardwarePart{}})
	if c.Place != OnTheWay || c.RTT != 5 {
		t.Errorf("on the way: %+v", c)
	}
}

// The event of a connection's end says nothing of its offload's stall.
func TestEnded(t *testing.T) {
	u := testUplink()
	for _, k := range []handover.Kind{handover.Uploaded, handover.Over} {
		u.arrive(handover.Outcome{Kind: k, Flow: numbered(1), Reason: abi.Closed, Stall: time.Millisecond, Bytes: 9})
	}
	e := u.journal.Events()
	if e[0].Stall != 1000 || e[0].Bytes != 9 || e[1].Kind != EventEnded || e[1].Stall != 0 || e[1].Bytes != 0 {
		t.Errorf("%+v", e)
	}
}

func TestDescribeStatus(t *testing.T) {
	for _, tt := range []struct {
		status syscall.WaitStatus
		want   string
	}{{0, "exit status 0"}, {3 << 8, "exit status 3"}, {9, "killed by SIGKILL"}} {
		if got := describeStatus(tt.status); got != tt.want {
			t.Errorf("%#x is %q", tt.status, got)
		}
	}
}

// A device that waits for a processor is not taken for one that hangs.
func TestRunnable(t *testing.T) {
	busy := exec.Command("/bin/sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	pid := busy.Process.Pid
	defer func() { busy.Process.Kill(); busy.Wait() }()
	await := func(want bool, what string) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Second); runnable(pid) != want; {
			if time.Now().After(deadline) {
				t.Fatalf("%s: runnable is %v", what, !want)
			}
			runtime.Gosched()
		}
	}
	await(true, "busy")
	syscall.Kill(pid, syscall.SIGSTOP)
	await(false, "stopped")
	syscall.Kill(pid, syscall.SIGCONT)
	await(true, "busy again")
	busy.Process.Kill()
	busy.Wait()
	await(false, "gone")
}

// candidates are operators' ones, with the flows numbered so.
func candidates(numbers ...int) (all []candidate) {
	for _, n := range numbers {
		all = append(all, candidate{Candidate: handover.Candidate{Flow: numbered(n)}, state: &abi.KernelState{State: 1, MSS: 1448}, claim: admission.Claim{Asked: true}})
	}
	return all
}

// However often rules change, a look at the paths does not wait for them.
func TestLooks(t *testing.T) {
	var l looks
	now := time.Now()
	l.after(&kernel.Change{Kind: kernel.RulesChanged}, now)
	if l.paths != nil || l.rules == nil {
		t.Error("a change of rules has paths looked at")
	}
	was := l.rules
	l.after(&kernel.Change{Kind: kernel.RulesChanged}, now)
	l.after(&kernel.Change{Kind: kernel.RouteChanged}, now)
	if l.rules != was || l.paths == nil {
		t.Error("the next changes are not noted as they should be")
	}
	l = looks{}
	if l.after(&kernel.Change{Kind: kernel.Overrun}, now); l.paths == nil || l.rules == nil {
		t.Error("what was missed may be anything")
	}
}
