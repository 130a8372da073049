package bench

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

// Every kind of path is measured once, for a moment, all at the same time: the
// figures mean nothing, but octets are carried in both places.
func TestPaths(t *testing.T) {
	var out, log bytes.Buffer
	err := Run(t.Context(), Options{JSON: true, Only: []string{"paths"}, Out: &out, Progress: &log, Paths: PathOptions{
		Rounds: 2, Most: 2, Window: 400 * time.Millisecond, Match: "^RTT 20ms, 1 BDP.*cubic, send|^RTT 20ms.*1/4 BDP, loss 1.*reno, receive"}})
	if err != nil {
		t.Fatalf("%v, after %q", err, log.String())
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if len(r.Paths) != 9 || r.Bulk != nil {
		t.Fatalf("%d paths: %s", len(r.Paths), out.String())
	}
	for _, p := range r.Paths {
		if p.Kernel.Mbits <= 0 || p.Device.Mbits <= 0 || p.Ratio <= 0 || len(p.Ratios) != 2 || p.RTT != 20 {
			t.Errorf("%+v", p)
		}
	}
	first, last := r.Paths[0], r.Paths[8]
	if first.Path != "1 BDP" || first.Congestion != "cubic" || first.Direction != "send" {
		t.Errorf("the first is %+v", first)
	}
	if last.Path != "1/4 BDP, loss 1 % in bursts of 5" || last.Congestion != "reno" || last.Direction != "receive" {
		t.Errorf("the last is %+v", last)
	}
}

// A path that fails ends the others, and says which it was.
func TestPathThatFails(t *testing.T) {
	var out bytes.Buffer
	err := Run(t.Context(), Options{Only: []string{"paths"}, Out: &out, Paths: PathOptions{
		Rounds: 1, Window: 400 * time.Millisecond, AtOnce: 2, Congestion: []string{"cubic", "no-such"}, Match: "RTT 20ms, 1/4 BDP, .*(send|receive)"}})
	if err == nil || !strings.Contains(err.Error(), "no-such") {
		t.Errorf("got %v", err)
	}
}

func TestCells(t *testing.T) {
	var o PathOptions
	o.defaults()
	all := o.cells()
	if want := len(adversePaths()) * 2 * len(pathCongestion); len(all) != want {
		t.Errorf("%d cells, not %d", len(all), want)
	}
	seen := map[string]bool{}
	for _, c := range all {
		if seen[c.String()] {
			t.Errorf("%v is there twice", c)
		}
		seen[c.String()] = true
		if c.path.Delay*2 != c.path.rtt || c.path.Rate == 0 || c.path.Queue < 20*1514 {
			t.Errorf("%v: %+v", c, c.path)
		}
	}
	o.Match = "nothing like it"
	if len(o.cells()) != 0 {
		t.Errorf("%v match", o.cells())
	}
}

func TestPathOfRounds(t *testing.T) {
	c := cell{path: adversePaths()[1], direction: 1, congestion: "reno"}
	p := newPath(c, []transfer{{10, 1, 2}, {30, 3, 4}}, []transfer{{5, 6, 7}, {33, 8, 9}})
	if p.Kernel != (PathPlace{20, 4, 6}) || p.Device != (PathPlace{19, 14, 16}) || p.Ratio != 0.95 {
		t.Errorf("%+v", p)
	}
	if len(p.Ratios) != 2 || p.Ratios[0] != 0.5 || p.Ratios[1] != 1.1 || p.Direction != "receive" || p.Congestion != "reno" {
		t.Errorf("%+v", p)
	}
}

func TestPathsTable(t *testing.T) {
	r := Report{Idle: 0.256, Paths: []Path{
		{RTT: 10, Path: "a", Congestion: "cubic", Direction: "send", Ratio: 0.987, Kernel: PathPlace{Mbits: 12.34}},
		{RTT: 10, Path: "long", Congestion: "cubic", Direction: "send", Ratio: 1, Kernel: PathPlace{Mbits: 5}},
		{RTT: 10, Path: "long", Congestion: "reno", Direction: "send", Ratio: 0.5, Kernel: PathPlace{Mbits: 6}},
	}}
	var out bytes.Buffer
	if err := r.pathsTable(&out); err != nil {
		t.Fatal(err)
	}
	said, got, _ := strings.Cut(out.String(), "|")
	if !strings.Contains(said, "idle for 26 % of") {
		t.Errorf("above the table stands %q", said)
	}
	const want = ` RTT ms | path | cubic, send | reno, send |
| ------ | ---- | ----------- | ---------- |
| 10     | a    | 0.99 (12.3) |            |
| 10     | long | 1.00 (5.0)  | 0.50 (6.0) |
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

// Rounds that agree say that the ratio is known; such that do not, that it is
// not. A round in which both are twice as fast says nothing about it.
func TestStandardError(t *testing.T) {
	of := func(mbits ...float64) (all []transfer) {
		for _, m := range mbits {
			all = append(all, transfer{mbits: m})
		}
		return all
	}
	for _, tt := range []struct {
		kernel, device []transfer
		want           float64
	}{
		{of(10), of(9), 0},
		{of(10, 20, 40), of(9, 18, 36), 0},
		{of(10, 10), of(8, 12), 0.2}, // one in sqrt(2) of a deviation of 0.2 sqrt(2)
		{of(10, 10, 10, 10), of(8, 12, 8, 12), 0.4 / math.Sqrt(12)},
	} {
		if got := standardError(tt.kernel, tt.device); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("%v by %v: %v, want %v", tt.device, tt.kernel, got, tt.want)
		}
	}
}
