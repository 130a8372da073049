package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"toehold/internal/abi"
	"toehold/internal/driver"
)

// A source answers always the same.
type source struct {
	figures driver.Figures
	err     error
}

func (s *source) Figures(context.Context) (driver.Figures, error) { return s.figures, s.err }

// sample has something in every field.
func sample() *source {
	h := driver.Histogram{Sum: 7 * time.Second}
	h.Count[2], h.Count[len(driver.Bounds)] = 3, 1 // up to 50 us, and longer than 5 s
	port := driver.PortLoad{RxFrames: 1, RxBytes: 2, RxDropped: 3, RxNoBuffer: 4, RxTooLarge: 5, TxFrames: 6, TxBytes: 7, TxErrors: 8, TxBlocked: 9, TxPending: 10}
	f := driver.Figures{
		Devices: []driver.Device{
			{Device: "eth0", State: "running", Capacity: 16384, Memory: 1 << 30, Connections: 20, Moving: 2, HeartbeatAge: 3000, Restarts: 1,
				ToDevice: 11, Injected: 12, Kept: 13, Bypassed: 14, Fences: 15, Requests: 16, Messages: 17,
				Load: &driver.Load{BusyShare: 0.25, Busy: 1_500_000, PoolUsed: 4096, Frames: 18, Unknown: 19, Bad: 20, Untaken: 21,
					BytesSent: 22, BytesReceived: 23, SegsSent: 24, SegsReceived: 25, Retransmits: 26, OutOfOrder: 27, Uplink: port, Host: port}},
			{Device: "eth1", State: "down"},
		},
		Connections: []driver.Population{{Place: "kernel", Count: 5}, {Place: "device", Attachment: "shadow", Device: "eth0", Count: 18}, {Place: "moving", Attachment: "shadow", Device: "eth0", Count: 2}},
		Timings:     []driver.Timing{{Kind: driver.EventOffloaded, Device: "eth0", Took: h, Stall: h}, {Kind: driver.EventUploaded, Device: "eth0", Took: h, Stall: h}},
		Kernel:      driver.KernelTraffic{BytesSent: 28, BytesReceived: 29, Retransmits: 30},
		Windows:     31, Histories: 32,
	}
	for _, kind := range driver.EventKinds() {
		f.Tallies = append(f.Tallies, driver.Tally{Kind: kind.Name, Device: "eth0", Reason: "asked", Count: 2})
	}
	return &source{figures: f}
}

func TestNamesFollowTheConventions(t *testing.T) {
	problems, err := testutil.CollectAndLint(&collector{source: sample()})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// What is described comes out of figures that have everything, so that no
// metric is without a source.
func TestEveryMetricIsMade(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(&collector{source: sample()})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]bool{}
	for _, f := range families {
		made[f.GetName()] = true
	}
	for _, d := range all {
		name, _, _ := strings.Cut(strings.TrimPrefix(d.String(), `Desc{fqName: "`), `"`)
		if !made[name] {
			t.Errorf("%s is described and never made", name)
		}
	}
	if len(made) != len(all) {
		t.Errorf("%d metrics are made, %d described", len(made), len(all))
	}
}

func TestValues(t *testing.T) {
	want := `
# HELP toehold_connections TCP connections of the namespace, by where they are.
# TYPE toehold_connections gauge
toehold_connections{attachment="",device="",place="kernel"} 5
toehold_connections{attachment="shadow",device="eth0",place="device"} 18
toehold_connections{attachment="shadow",device="eth0",place="moving"} 2
# HELP toehold_device_busy_seconds_total Time that the device's loop did not sleep; its rate is the load.
# TYPE toehold_device_busy_seconds_total counter
toehold_device_busy_seconds_total{device="eth0"} 1.5
# HELP toehold_device_up 1 while the device serves.
# TYPE toehold_device_up gauge
toehold_device_up{device="eth0"} 1
toehold_device_up{device="eth1"} 0
# HELP toehold_moves_total Connections moved to the device (offload) and home to the kernel (upload), by reason.
# TYPE toehold_moves_total counter
toehold_moves_total{device="eth0",direction="offload",reason="asked"} 2
toehold_moves_total{device="eth0",direction="upload",reason="asked"} 2
# HELP toehold_payload_bytes_total Payload of connections by where they were: of a device all, first transmissions only; of the kernel what was seen from one scrape to the next.
# TYPE toehold_payload_bytes_total counter
toehold_payload_bytes_total{device="",direction="received",place="kernel"} 29
toehold_payload_bytes_total{device="",direction="sent",place="kernel"} 28
toehold_payload_bytes_total{device="eth0",direction="received",place="device"} 23
toehold_payload_bytes_total{device="eth0",direction="sent",place="device"} 22
`
	err := testutil.CollectAndCompare(&collector{source: sample()}, strings.NewReader(want),
		"toehold_connections", "toehold_device_busy_seconds_total", "toehold_device_up", "toehold_moves_total", "toehold_payload_bytes_total")
	if err != nil {
		t.Error(err)
	}
}

// However many connections there are, the number of series is bounded by
// uplinks and reasons.
func TestSeriesAreBounded(t *testing.T) {
	s := sample()
	s.figures.Tallies = nil
	for _, kind := range driver.EventKinds() {
		for _, r := range abi.Reasons() {
			s.figures.Tallies = append(s.figures.Tallies, driver.Tally{Kind: kind.Name, Device: "eth0", Reason: r.String(), Count: 1})
		}
	}
	series := testutil.CollectAndCount(&collector{source: s})
	if most := 100 + 6*len(abi.Reasons()); series > most {
		t.Errorf("%d series of one device, more than %d", series, most)
	}
}

func scrape(s Source) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	Handler(s, "v1", slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w
}

func TestHandler(t *testing.T) {
	w := scrape(sample())
	for _, line := range []string{
		`toehold_build_info{version="v1"} 1`,
		`toehold_move_duration_seconds_bucket{device="eth0",direction="offload",le="2.5e-05"} 0`,
		`toehold_move_duration_seconds_bucket{device="eth0",direction="offload",le="5e-05"} 3`,
		`toehold_move_duration_seconds_bucket{device="eth0",direction="offload",le="5"} 3`,
		`toehold_move_duration_seconds_bucket{device="eth0",direction="offload",le="+Inf"} 4`,
		`toehold_move_duration_seconds_sum{device="eth0",direction="offload"} 7`,
		`toehold_device_dropped_frames_total{cause="no-buffer",device="eth0",port="uplink"} 4`,
		`go_goroutines `, `process_start_time_seconds `,
	} {
		if !strings.Contains(w.Body.String(), "\n"+line) {
			t.Errorf("no line %q", line)
		}
	}
	if w.Code != 200 {
		t.Errorf("status %d", w.Code)
	}
}

// Half the figures would look like a change of them all.
func TestNoFigures(t *testing.T) {
	if w := scrape(&source{err: errors.New("the iterator is gone")}); w.Code != 500 || !strings.Contains(w.Body.String(), "the iterator is gone") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}
