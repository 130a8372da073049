package driver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

const metricsAt = "127.0.0.1:9100"

// metrics are the values of a scrape, by series.
func (r *rig) metrics() map[string]float64 {
	r.t.Helper()
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return r.Host.Dial("tcp", metricsAt) },
	}}
	resp, err := c.Get("http://" + metricsAt + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		text, _ := io.ReadAll(resp.Body)
		r.t.Fatalf("%s: %s", resp.Status, text)
	}
	values := make(map[string]float64)
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		at := strings.LastIndexByte(lines.Text(), ' ')
		var v float64
		if fmt.Sscan(lines.Text()[at+1:], &v); !strings.HasPrefix(lines.Text(), "#") {
			values[lines.Text()[:at]] = v
		}
	}
	return values
}

// TestMetrics moves a connection under traffic and reads what was counted.
func TestMetrics(t *testing.T) {
	r := newRig(t, "--listen", metricsAt)
	p := r.connect(1, false)[0]
	before := r.metrics()
	if n := before[`toehold_connections{attachment="",device="",place="kernel"}`]; n < 1 {
		t.Errorf("%v connections in the kernel", n)
	}
	p.exchange(t, "in the kernel")
	r.moved(r.offload(p.selector()), 1)
	onDevice := strings.Repeat("on the device ", 1000)
	p.exchange(t, onDevice)
	d := fmt.Sprintf("device=%q", r.HostIf)
	during := r.metrics()
	if n := during[`toehold_connections{attachment="shadow",`+d+`,place="device"}`]; n != 1 {
		t.Errorf("%v connections on the device", n)
	}
	r.moved(r.upload(p.selector()), 1)
	p.exchange(t, "at home")
	var after map[string]float64
	eventually(t, "the device has published what it did", func() bool {
		after = r.metrics()
		return after["toehold_payload_bytes_total{"+d+`,direction="received",place="device"}`] == float64(len(onDevice)) &&
			after["toehold_payload_bytes_total{"+d+`,direction="sent",place="device"}`] == float64(len(onDevice))
	})
	for series, want := range map[string]float64{
		"toehold_payload_bytes_total{" + d + `,direction="sent",place="device"}`:         float64(len(onDevice)),
		"toehold_payload_bytes_total{" + d + `,direction="received",place="device"}`:     float64(len(onDevice)),
		"toehold_moves_total{" + d + `,direction="offload",reason="asked"}`:              1,
		"toehold_moves_total{" + d + `,direction="upload",reason="asked"}`:               1,
		"toehold_move_duration_seconds_count{" + d + `,direction="offload"}`:             1,
		"toehold_move_stall_seconds_count{" + d + `,direction="upload"}`:                 1,
		"toehold_device_up{" + d + "}":                                                   1,
		"toehold_device_connections{" + d + "}":                                          0,
		"toehold_device_restarts_total{" + d + "}":                                       0,
		`toehold_connections{attachment="",device="",place="kernel"}`:                    after[`toehold_connections{attachment="",device="",place="kernel"}`],
		"toehold_events_total{" + d + `,kind="device-started"}`:                          1,
		"toehold_device_dropped_frames_total{cause=\"no-buffer\"," + d + `,port="host"}`: 0,
	} {
		if got, ok := after[series]; !ok || got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	for _, series := range []string{
		"toehold_device_busy_seconds_total{" + d + "}", "toehold_device_frames_total{" + d + `,direction="sent",port="uplink"}`,
		"toehold_steered_frames_total{" + d + `,way="to-device"}`, "toehold_device_segments_total{" + d + `,direction="sent"}`,
	} {
		if after[series] <= before[series] {
			t.Errorf("%s has not grown: %v, %v", series, before[series], after[series])
		}
	}
	status := r.device()
	if l := status.Load; l == nil || l.BytesSent != uint64(len(onDevice)) || l.Busy == 0 || l.BusyShare > 1 || l.Uplink.TxFrames == 0 || l.Host.RxFrames == 0 {
		t.Errorf("device-status says %+v", l)
	}
}

// What cannot be listened on is said before anything is started, and leaves
// nothing behind.
func TestMetricsPortInUse(t *testing.T) {
	r := newRig(t)
	l, err := r.Host.Listen("tcp", metricsAt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.stop()
	socket := r.socket + "2"
	if err := r.launch(socket, "--listen", metricsAt); err == nil || !strings.Contains(r.errs.String(), "listen on "+metricsAt+": ") || !strings.Contains(r.errs.String(), "in use") {
		t.Errorf("the daemon says %v, %q", err, r.errs)
	}
	r.cmd = nil
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the control socket was left behind")
	}
	if links, err := r.Host.Command("ls", "/sys/class/net").Output(); err != nil || strings.Contains(string(links), "toehold") {
		t.Errorf("left behind: %s, %v", links, err)
	}
}

// A refusal that no device was asked about counts too.
func TestMetricsOfRefusals(t *testing.T) {
	r := newRig(t, "--listen", metricsAt)
	l, err := r.Host.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := r.connectTo(l, r.Host, 1)[0]
	if res := r.offload(p.selector()); reasons(res) != "no-uplink" {
		t.Fatalf("%+v", res)
	}
	if n := r.metrics()[`toehold_refusals_total{device="",reason="no-uplink"}`]; n != 1 {
		t.Errorf("%v refusals counted", n)
	}
}
