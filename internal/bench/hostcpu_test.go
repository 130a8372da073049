package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"toehold/internal/control"
	"toehold/internal/driver"
)

// measured runs the benchmark for a moment.
func measured(t *testing.T, o Options) Report {
	t.Helper()
	var out, log bytes.Buffer
	o.JSON, o.Rounds, o.Window, o.Out, o.Progress = true, 1, 50*time.Millisecond, &out, &log
	if err := Run(t.Context(), o); err != nil {
		t.Fatalf("%v, after %q", err, log.String())
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return r
}

// Requests of every program that is installed are measured in every place that
// there is.
func TestHostCPU(t *testing.T) {
	r := measured(t, Options{Only: []string{"cpu"}, CPUMatch: "echo, 64 octets, connections: 64|echo, 16384 octets, connections: 1$|redis, 1024 octets, connections: 1$|nginx, 16384 octets, connections: 1$"})
	want := []string{"echo 64 64", "echo 16384 1"}
	for _, s := range subjects[1:] {
		switch _, err := exec.LookPath(s.binary); {
		case err != nil:
			if !strings.Contains(strings.Join(r.CPU.Missing, "\n"), s.binary) {
				t.Errorf("%s is not installed, and not said to be missing", s.binary)
			}
		case s.name == "redis":
			want = append(want, "redis 1024 1")
		case s.name == "nginx":
			want = append(want, "nginx 16384 1")
		}
	}
	var got []string
	for _, c := range r.CPU.Requests {
		got = append(got, fmt.Sprintf("%s %d %d", c.Program, c.Octets, c.Connections))
		checkPlaces(t, c)
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("measured %q, want %q", got, want)
	}
}

func checkPlaces(t *testing.T, c CPURequests) {
	t.Helper()
	for _, place := range places {
		p := c.Places[place]
		if p.Refused != "" && place == driver.Bypass {
			continue
		}
		if p.Refused != "" || p.Busy <= 0 || p.PerSecond <= 0 || len(p.Rounds) != 1 || p.P99 <= 0 || p.Ratio <= 0 {
			t.Errorf("%s, %d octets, %d connections, %s: %+v", c.Program, c.Octets, c.Connections, place, p)
		}
	}
}

func TestAttach(t *testing.T) {
	r := measured(t, Options{Only: []string{"attach"}, Moves: 5})
	if r.Attach == nil || len(r.Attach.Bulk) != len(directions) || len(r.Attach.Moves) != len(moveLoads) {
		t.Fatalf("parts are missing: %+v", r.Attach)
	}
	for _, b := range r.Attach.Bulk {
		for _, place := range places {
			if p := b.Places[place]; p.Gbits <= 0 && (place != driver.Bypass || p.Refused == "") {
				t.Errorf("%s in %s: %+v", b.Direction, place, p)
			}
		}
	}
	for i, m := range r.Attach.Moves {
		times := 5 / moveLoads[i].turns()
		for _, place := range places[1:] {
			p := m.Attachments[place]
			done := p.Offload.Count == times && p.Upload.Count == times && p.Offload.Took.P50 > 0
			if !done && (place != driver.Bypass || p.Refused == "") {
				t.Errorf("%s to %s: %+v", m.Load, place, p)
			}
		}
	}
}

func TestMatchOfNothing(t *testing.T) {
	var out bytes.Buffer
	err := Run(t.Context(), Options{Only: []string{"cpu"}, CPUMatch: "none", Out: &out})
	if err == nil || !strings.Contains(err.Error(), `no requests match "none"`) {
		t.Errorf("%v", err)
	}
}

func TestRefused(t *testing.T) {
	tests := []struct {
		name   string
		result driver.Result
		err    error
		want   string
	}{
		{"done", driver.Result{Moved: make([]driver.Moved, 1)}, nil, ""},
		{"one is not moved", driver.Result{Refused: []driver.Refusal{{Reason: "socket-blocking", Detail: "no O_NONBLOCK"}}}, fmt.Errorf("0 of 1"), "socket-blocking: no O_NONBLOCK"},
		{"the daemon does not know it", driver.Result{}, &control.Error{Kind: control.Usage, Message: "unknown"}, "unknown"},
		{"attached otherwise", driver.Result{Moved: make([]driver.Moved, 1)}, &refusal{"shadow"}, "shadow"},
		{"a failure is none", driver.Result{}, &control.Error{Kind: control.Failed, Message: "broken"}, ""},
	}
	for _, tt := range tests {
		got := refused(tt.result, tt.err)
		if got == nil && tt.want != "" || got != nil && got.why != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestCPUTable(t *testing.T) {
	c := CPURequests{Program: "redis", Octets: 64, Connections: 1, PerSecond: 1000, Background: 0.01, Places: map[string]CPUPlace{
		driver.InKernel: {Busy: 20, BusyError: 0.5, Ratio: 1, PerSecond: 1000},
		driver.Shadow:   {Busy: 30, BusyError: 0.25, Ratio: 1.5, RatioError: 0.1, PerSecond: 900},
		driver.Bypass:   {Refused: "no bypass here"},
	}}
	r := Report{CPU: &CPU{Requests: []CPURequests{c, c}, Missing: []string{"nginx is not installed"}}}
	var out bytes.Buffer
	if err := r.print(&out, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"20.00 ± 0.50", "30.00 ± 0.25 (1.50 ± 0.10)", "| refused", "1.0 %", "nginx is not installed",
		"shadow, redis, 64 octets, connections: 1: not at equal load: 900 of 1000"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &out)
		}
	}
	if strings.Count(out.String(), "no bypass here") != 1 {
		t.Errorf("a note is not there once in\n%s", &out)
	}
}

func TestRatioOf(t *testing.T) {
	tests := []struct {
		below, above     []float64
		ratio, deviation float64
	}{
		{[]float64{2}, []float64{1}, 0.5, 0},
		{[]float64{2, 4, 6}, []float64{1, 2, 3}, 0.5, 0}, // in step
		{[]float64{1, 1}, []float64{1, 3}, 2, 1},
	}
	for _, tt := range tests {
		if ratio, deviation := ratioOf(tt.below, tt.above); ratio != tt.ratio || deviation != tt.deviation {
			t.Errorf("%v by %v: %v ± %v, want %v ± %v", tt.above, tt.below, ratio, deviation, tt.ratio, tt.deviation)
		}
	}
	if mean, deviation := meanOf([]float64{1, 3}); mean != 2 || deviation != 1 {
		t.Errorf("%v ± %v", mean, deviation)
	}
}

// Requests are due evenly, and at once when as many are asked for as can be.
func TestDue(t *testing.T) {
	if at := due(1000, 5, time.Second); at != 5*time.Millisecond {
		t.Errorf("the sixth of 1000 a second is due at %v", at)
	}
	if at := due(0, 5, time.Second); at != time.Second {
		t.Errorf("without a rate a request is due at %v", at)
	}
}
