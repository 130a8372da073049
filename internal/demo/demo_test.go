package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"toehold/internal/rig"
	"toehold/internal/testnet"
)

func TestServerRefusesWhatItDoesNotKnow(t *testing.T) {
	s := httptest.NewServer(handler())
	defer s.Close()
	for path, want := range map[string]int{
		"/download/x/1": http.StatusBadRequest, "/download/1/x": http.StatusBadRequest,
		"/elsewhere": http.StatusNotFound, "/download/1/10": http.StatusOK,
	} {
		r, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
	r, err := http.Post(s.URL+"/echo", "", bytes.NewReader(make([]byte, maxEcho+1)))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusBadRequest {
		t.Errorf("an echo too long: %s", r.Status)
	}
}

// The demo without the daemon: every kind of worker, over both families,
// against the servers as processes of their own.
func TestCrewOverTheKernelAlone(t *testing.T) {
	d := &run{out: io.Discard, begin: time.Now(), folder: t.TempDir()}
	n := testnet.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server, err := startServer(ctx, n, d.folder)
	if err != nil {
		t.Fatal(err)
	}
	d.servers = append(d.servers, server)
	d.addWorkers(n)
	if err := d.addPrograms(ctx, n); err != nil {
		t.Fatal(err)
	}
	if err := d.connect(ctx); err != nil {
		t.Fatal(err)
	}
	if d.report.Connections < 20 {
		t.Errorf("only %d connections", d.report.Connections)
	}
	if err := d.finish(ctx); err != nil {
		t.Error(err)
	}
	if err := d.clean(); err != nil {
		t.Error(err)
	}
	for _, w := range d.crew.workers {
		if w.transfers.Load() == 0 || w.octets.Load() == 0 {
			t.Errorf("%s over %s: %d transfers, %d octets", w.kind, w.network, w.transfers.Load(), w.octets.Load())
		}
	}
}

// corrupt changes one octet of a response's body.
func corrupt(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		result := rec.Result()
		for key, values := range result.Header {
			w.Header()[key] = values
		}
		body, _ := io.ReadAll(result.Body)
		body[len(body)/2] ^= 1
		w.Write(body)
		for key, values := range result.Trailer {
			w.Header()[key] = values
		}
	})
}

// workerOf is a worker with a server of a test, in a network of its own.
func workerOf(t *testing.T, kind string, h http.Handler) (*worker, *httptest.Server) {
	t.Helper()
	n := testnet.New(t)
	l, err := n.Host.Listen("tcp", at(n.HostIP4, 0))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	w := &worker{kind: kind, network: "tcp4", server: l.Addr().String(), seed: 3, ns: n.Peer, transfer: httpTransfers[kind]}
	t.Cleanup(w.close)
	return w, s
}

func TestOneWrongOctetIsSeen(t *testing.T) {
	for kind := range httpTransfers {
		w, _ := workerOf(t, kind, corrupt(handler()))
		if err := w.once(t.Context()); !errors.Is(err, errDigest) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestConnectionThatIsLost(t *testing.T) {
	w, s := workerOf(t, "request", handler())
	if err := w.once(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.CloseClientConnections()
	if err := w.once(t.Context()); err == nil {
		t.Error("a connection that was closed was opened again, and nobody noticed")
	}
}

func TestInterruptEndsATransfer(t *testing.T) {
	release := make(chan struct{})
	w, _ := workerOf(t, "request", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	begin := time.Now()
	if err := w.once(ctx); err == nil || time.Since(begin) > transferTimeout/2 {
		t.Errorf("after %s: %v", time.Since(begin), err)
	}
}

func TestStandStillIsAnError(t *testing.T) {
	c := crew{workers: []*worker{{kind: "request", network: "tcp4"}}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.awaitProgress(ctx); err == nil || !strings.Contains(err.Error(), "stands still") {
		t.Errorf("standstill gives %v", err)
	}
}

func TestSetAndGet(t *testing.T) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Log("redis is not installed; its answers are checked where it is")
		return
	}
	n := testnet.New(t)
	p, err := startRedis(t.Context(), n, t.TempDir(), path)
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{kind: "redis", network: "tcp4", server: at(n.HostIP4, redisPort), ns: n.Peer, transfer: setAndGet}
	defer w.close()
	for range 3 {
		if err := w.once(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

// goodReport is a report of two connections that did all that is asked.
func goodReport() *report {
	r := &report{Bytes: 1e9, Connections: 2, DeviceKills: 1, Transfers: 10}
	for range minMoves {
		for _, verb := range []string{"offload", "upload"} {
			for port := range uint16(2) {
				r.moved(verb, netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), 1000+port), 100, 10)
			}
		}
	}
	return r
}

func TestVerdict(t *testing.T) {
	tests := []struct {
		name string
		edit func(r *report)
		err  error
		want string // part of the error; "" for OK
	}{
		{"good", func(r *report) {}, nil, ""},
		{"an error", func(r *report) {}, errDigest, "disagree"},
		{"a connection that did not move", func(r *report) { r.Connections++ }, nil, "only 2 of 3"},
		{"no kill", func(r *report) { r.DeviceKills = 0 }, nil, "not killed"},
		{"nothing moved", func(r *report) { *r = report{Connections: 1, DeviceKills: 1} }, nil, "only 0 of 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := goodReport()
			tt.edit(r)
			r.finish(tt.err)
			if r.OK != (tt.want == "") || !strings.Contains(r.Error, tt.want) {
				t.Errorf("ok %v, error %q", r.OK, r.Error)
			}
			var text bytes.Buffer
			r.print(&text, false)
			if strings.Contains(text.String(), "OK:") != r.OK || strings.Contains(text.String(), "FAILED") == r.OK {
				t.Errorf("the text says %q", text.String())
			}
		})
	}
}

func TestReportAsJSON(t *testing.T) {
	r := goodReport()
	r.Kernel = throughput{octets: 1e9, requests: 500, time: 2 * time.Second}
	r.finish(nil)
	var out bytes.Buffer
	r.print(&out, true)
	var got struct {
		OK          bool
		Bytes, Lost int64
		Moves       int
		DeviceKills int       `json:"device_kills"`
		OffloadUS   quantiles `json:"offload_us"`
		UploadUS    quantiles `json:"upload_us"`
		Kernel      map[string]float64
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if !got.OK || got.Bytes != 1e9 || got.Moves != 4*minMoves || got.DeviceKills != 1 || got.OffloadUS != (quantiles{100, 100}) {
		t.Errorf("%+v", got)
	}
	if got.Kernel["bits_per_second"] != 4e9 || got.Kernel["requests_per_second"] != 250 {
		t.Errorf("%v", got.Kernel)
	}
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("not one line: %q", out.String())
	}
}

func TestMain(m *testing.M) {
	rig.Become()
	os.Exit(m.Run())
}

// The demo as a person runs it, only shorter.
func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), Options{Seconds: 3, Out: &out}); err != nil {
		t.Errorf("%v", err)
	}
	t.Log("\n" + out.String())
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	before := leftovers(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(1500*time.Millisecond, cancel)
	if err := Run(ctx, Options{Seconds: 60, Out: io.Discard}); !errors.Is(err, ErrInterrupted) {
		t.Errorf("it ended with %v", err)
	}
	if after := leftovers(t); after != before {
		t.Errorf("processes, folders before %q, after %q", before, after)
	}
}

// leftovers lists the children of this process and the demo's folders.
func leftovers(t *testing.T) string {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	var children string
	for _, task := range tasks {
		b, _ := os.ReadFile(task) // a thread that has ended has none
		children += string(b)
	}
	folders, err := filepath.Glob(filepath.Join(os.TempDir(), "toehold-*"))
	if err != nil {
		t.Fatal(err)
	}
	return children + strings.Join(folders, " ")
}
