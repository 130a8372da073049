package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"toehold/internal/cli"
	"toehold/internal/driver"
	"toehold/internal/rig"
)

func TestMain(m *testing.M) {
	rig.Become()
	os.Exit(m.Run())
}

// Everything is measured once, for a moment: the figures mean nothing, but
// every part of the benchmark works on real connections.
func TestRun(t *testing.T) {
	var out, log bytes.Buffer
	err := Run(t.Context(), Options{JSON: true, Rounds: 1, Window: 100 * time.Millisecond, Batch: 50, Out: &out, Progress: &log})
	if err != nil {
		t.Fatalf("%v, after %q", err, log.String())
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if len(r.Bulk) != 4 || len(r.Moves) != 3 || r.Request == nil || r.Batch == nil {
		t.Fatalf("parts are missing: %s", out.String())
	}
	for _, b := range r.Bulk {
		if b.Kernel.Gbits <= 0 || b.Device.Gbits <= 0 || b.Device.DeviceCPU <= 0 {
			t.Errorf("%d %s: %+v", b.Connections, b.Direction, b)
		}
	}
	if r.Request.Kernel.P50 <= 0 || r.Request.Device.P50 <= 0 {
		t.Errorf("requests: %+v", r.Request)
	}
	for _, m := range r.Moves {
		if m.Offload.Count != moveTimes || m.Upload.Count != moveTimes || m.Offload.Took.P50 <= 0 {
			t.Errorf("moves: %+v", m)
		}
	}
	if r.Batch.Offload <= 0 || r.Batch.Upload <= 0 {
		t.Errorf("batch: %+v", r.Batch)
	}
}

// What cannot be meant is a usage error before anything is made.
func TestFlags(t *testing.T) {
	for _, args := range []string{"--rounds 0", "--rounds -1", "--rounds 1001", "--window 0s", "--window -1s", "--window 2h",
		"--batch 0", "--batch 99999", "--only everything",
		"--path-rounds 0", "--path-error 0", "--path-error -1", "--path-most 1001", "--path-most 0", "--path-window 2h", "--paths-at-once 65", "--path-match (", "--cpu-match ("} {
		var out, errs bytes.Buffer
		env := &cli.Env{Out: &out, Err: &errs, Getenv: os.Getenv, Now: time.Now, Extra: []func(*cli.Env) *cobra.Command{Command}}
		if code := cli.Run(t.Context(), env, append([]string{"bench"}, strings.Fields(args)...)); code != cli.ExitUsage || out.Len() > 0 {
			t.Errorf("%s: exit %d, %s%s", args, code, &out, &errs)
		}
	}
}

// An interrupted run says so, without figures and without the daemon's log.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	stop := writer(func([]byte) { cancel() }) // as soon as it measures
	err := Run(ctx, Options{Window: time.Minute, Only: []string{"bulk"}, Out: &out, Progress: stop})
	if err == nil || err.Error() != ErrInterrupted.Error() || out.Len() > 0 {
		t.Errorf("%v, %q", err, &out)
	}
}

// A writer is a function that is told what is written.
type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func TestCheckParts(t *testing.T) {
	for _, names := range [][]string{nil, {"bulk"}, {"batch", "moves", "request"}} {
		if err := CheckParts(names); err != nil {
			t.Errorf("%v: %v", names, err)
		}
	}
	for _, name := range []string{"", "bul", "bulk request", "all"} {
		if CheckParts([]string{name}) == nil {
			t.Errorf("%q is taken", name)
		}
	}
}

func TestParseMachine(t *testing.T) {
	got, err := parseMachine("cpu  100 20 300 9999 888 7 6 5 4 3")
	if want := (100 + 20 + 300 + 7 + 6) / 100.0; err != nil || got != want {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, line := range []string{"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8 9", "cpu  x 20 300 9999 888 7 6 5 4 3"} {
		if _, err := parseMachine(line); err == nil {
			t.Errorf("%q is taken", line)
		}
	}
	if s, err := machineCPU(); err != nil || s <= 0 {
		t.Errorf("this machine: %v, %v", s, err)
	}
}

func TestProcessCPU(t *testing.T) {
	before, err := processCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 50*time.Millisecond; {
	}
	after, err := processCPU(os.Getpid())
	if used := after - before; err != nil || used <= 0 || used > 10 {
		t.Errorf("50 ms of work are %v s, %v", used, err)
	}
	if _, err := processCPU(1 << 30); err == nil {
		t.Error("a process that is not has run")
	}
	for _, b := range []string{"", "x 1 2"} {
		if _, err := parseSchedstat([]byte(b)); err == nil {
			t.Errorf("%q is taken", b)
		}
	}
}

func TestMedianOfRounds(t *testing.T) {
	kernel := []rate{{10, 1, 0}, {30, 3, 0}, {20, 2, 0}}
	device := []rate{{5, 2, 1}, {12, 4, 3}, {14, 3, 2}}
	b := newBulk(1, "send", kernel, device)
	if b.Kernel != (BulkPlace{20, 2, 0}) || b.Device != (BulkPlace{12, 3, 2}) || b.Ratio != 0.5 {
		t.Errorf("%+v", b)
	}
}

func TestLatency(t *testing.T) {
	l := newLatency([]int64{1000, 2000, 3000, 4000})
	if l.P50 != 2 || l.P99 != 4 || math.Round(l.PerSecond) != 400000 {
		t.Errorf("%+v", l)
	}
	if newLatency(nil) != (latency{}) {
		t.Error("no requests have a latency")
	}
	if m := medianLatency([]latency{{1, 9, 5}, {3, 7, 6}, {2, 8, 4}}); m != (latency{2, 8, 5}) {
		t.Errorf("%+v", m)
	}
}

func TestMoveSet(t *testing.T) {
	var s moveSet
	for i := range int64(100) {
		s.add(driver.Result{Moved: []driver.Moved{{Took: i + 1, Stall: 2 * (i + 1)}}})
	}
	if got := s.quantiles(); got != (Move{100, quantiles{50, 99}, quantiles{100, 198}}) {
		t.Errorf("%+v", got)
	}
}

func TestTables(t *testing.T) {
	r := Report{Kernel: "6.18.0", CPUs: 2,
		Bulk:    []Bulk{{8, "receive", BulkPlace{20, 0.4, 0}, BulkPlace{10, 0.8, 0.25}, 0.5}},
		Request: &Request{latency{60, 90, 15000}, latency{80, 120, 11000}},
		Moves:   []Moves{{"idle", Move{100, quantiles{200, 300}, quantiles{10, 20}}, Move{100, quantiles{150, 250}, quantiles{11, 21}}}},
		Batch:   &Batch{1000, 33.3, 22.2},
	}
	var out bytes.Buffer
	if err := r.print(&out, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Linux 6.18.0, 2 processors", "8 receive", "0.50", "64-octet requests", "offload, idle", "upload, idle", "moves of 1000 at once", "33.3"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := (&Report{}).print(&out, false); err != nil || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("a report of nothing is %q, %v", out.String(), err)
	}
}
