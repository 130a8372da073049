package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/driver"
)

// stub is a Service that answers what it holds and keeps what it was asked.
type stub struct {
	sel     driver.Selector
	options driver.Options
	err     error
	events  chan driver.Event
}

var sample = driver.Connection{
	ID: "3-1", Place: driver.OnDevice, Attachment: driver.Shadow,
	Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("[fd00::2]:40000"),
	State: "established", PID: 4242, Comm: "nginx", FD: 7, Device: "eth0", Cwnd: 10, Offloads: 1, Reason: "asked",
}

func (s *stub) List(_ context.Context, sel driver.Selector) ([]driver.Connection, error) {
	s.sel = sel
	return []driver.Connection{sample}, s.err
}

func (s *stub) Show(_ context.Context, sel driver.Selector) (driver.Detail, error) {
	s.sel = sel
	return driver.Detail{Connection: sample, History: []driver.Move{}}, s.err
}

func (s *stub) Offload(_ context.Context, sel driver.Selector, o driver.Options) (driver.Result, error) {
	s.sel, s.options = sel, o
	return driver.Result{Moved: []driver.Moved{{Local: sample.Local, Took: 7}}, Refused: []driver.Refusal{}}, s.err
}

func (s *stub) Upload(_ context.Context, sel driver.Selector) (driver.Result, error) {
	s.sel = sel
	return driver.Result{Moved: []driver.Moved{}, Refused: []driver.Refusal{{Reason: "moving"}}}, s.err
}

func (s *stub) Events(ctx context.Context, follow bool, emit func(driver.Event) error) error {
	if err := emit(driver.Event{Kind: driver.EventOffloaded, ID: "1-1"}); err != nil || !follow {
		return err
	}
	for {
		select {
		case e := <-s.events:
			if err := emit(e); err != nil || e.Kind == driver.EventDropped {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *stub) Devices(context.Context) ([]driver.Device, error) {
	return []driver.Device{{Device: "eth0", State: "running"}}, s.err
}

func (s *stub) RestartDevices(context.Context) ([]driver.Device, error) {
	return []driver.Device{{Device: "eth0", Restarts: 1}}, s.err
}

func (s *stub) Figures(context.Context) (driver.Figures, error) {
	return driver.Figures{Connections: []driver.Population{{Place: driver.InKernel, Count: 7}}}, s.err
}

func (s *stub) PauseDevices(_ context.Context, device string, paused bool) ([]driver.Device, error) {
	return []driver.Device{{Device: device, Paused: paused}}, s.err
}

// serve runs a server on a real socket and returns its path.
func serve(t *testing.T, s Service) (path string, stop func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "run", "control.sock")
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, s, "v-test", slog.New(slog.NewTextHandler(io.Discard, nil))) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(stop)
	return path, stop
}

// A daemon that is stopped takes connections, by its backlog, and is silent.
func TestSilentDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := NewClient(path)
	c.patience = 20 * time.Millisecond
	defer c.Close()
	ctx := context.Background()
	want := fmt.Sprintf("the daemon on %s, process %d, does not answer", path, os.Getpid())
	for what, f := range map[string]func() error{
		"list": func() error { _, err := c.List(ctx, driver.Selector{}); return err },
		"offload": func() error {
			_, err := c.Offload(ctx, driver.Selector{}, driver.Options{Timeout: time.Millisecond})
			return err
		},
		"restart": func() error { _, err := c.RestartDevices(ctx); return err },
		"events":  func() error { return c.Events(ctx, true, nil) },
	} {
		if err := f(); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
}

// One that stops in the middle of its answer is as silent; who follows events
// waits for ever.
func TestDaemonStops(t *testing.T) {
	s := &stub{events: make(chan driver.Event)}
	path, _ := serve(t, s)
	c := NewClient(path)
	c.patience = 50 * time.Millisecond
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		time.Sleep(4 * c.patience)
		s.events <- driver.Event{Kind: driver.EventUploaded}
	}()
	var kinds []string
	err := c.Events(ctx, true, func(e driver.Event) error {
		if kinds = append(kinds, e.Kind); len(kinds) == 2 {
			cancel()
		}
		return nil
	})
	if err != nil || len(kinds) != 2 {
		t.Errorf("followed %v, %v", kinds, err)
	}

	half := filepath.Join(t.TempDir(), "half")
	l, err := net.Listen("unix", half)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "[{")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	c = NewClient(half)
	c.patience = 50 * time.Millisecond
	defer c.Close()
	if _, err := c.List(context.Background(), driver.Selector{}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("half an answer: %v", err)
	}
}

func TestClientAndServer(t *testing.T) {
	s := &stub{}
	path, _ := serve(t, s)
	c := NewClient(path)
	defer c.Close()
	ctx := context.Background()
	sel := driver.Selector{PID: 4242, Remote: driver.Endpoint{Port: 443}}

	list, err := c.List(ctx, sel)
	if err != nil || len(list) != 1 || list[0] != sample || s.sel != sel {
		t.Errorf("list of %v gave %+v, %v", s.sel, list, err)
	}
	show, err := c.Show(ctx, driver.Selector{ID: abi.MakeHWID(3, 1)})
	if err != nil || show.Connection != sample || s.sel.ID != abi.MakeHWID(3, 1) {
		t.Errorf("show of %v gave %+v, %v", s.sel, show, err)
	}
	o := driver.Options{Attachment: driver.Shadow, Timeout: 3 * time.Second}
	moved, err := c.Offload(ctx, driver.Selector{All: true}, o)
	if err != nil || len(moved.Moved) != 1 || moved.Moved[0].Took != 7 || s.options != o || !s.sel.All {
		t.Errorf("offload of %v with %v gave %+v, %v", s.sel, s.options, moved, err)
	}
	home, err := c.Upload(ctx, sel)
	if err != nil || len(home.Refused) != 1 || home.Refused[0].Reason != "moving" {
		t.Errorf("upload gave %+v, %v", home, err)
	}
	devices, err := c.Devices(ctx)
	if err != nil || len(devices) != 1 || devices[0].Device != "eth0" {
		t.Errorf("devices gave %+v, %v", devices, err)
	}
	restarted, err := c.RestartDevices(ctx)
	if err != nil || len(restarted) != 1 || restarted[0].Restarts != 1 {
		t.Errorf("restart gave %+v, %v", restarted, err)
	}
	v, err := c.Version(ctx)
	if err != nil || v.Version != "v-test" || v.PID != os.Getpid() || v.ABI != abi.Version {
		t.Errorf("version gave %+v, %v", v, err)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	s := &stub{}
	path, _ := serve(t, s)
	c := NewClient(path)
	defer c.Close()
	for _, tt := range []struct {
		err  error
		kind string
	}{
		{fmt.Errorf("%w: no", driver.ErrSelector), Usage},
		{fmt.Errorf("%w matches --pid 1", driver.ErrNoMatch), NoMatch},
		{driver.ErrAmbiguous, Ambiguous},
		{errors.New("the sky fell"), Failed},
	} {
		s.err = tt.err
		_, err := c.List(context.Background(), driver.Selector{})
		var e *Error
		if !errors.As(err, &e) || e.Kind != tt.kind || e.Message != tt.err.Error() {
			t.Errorf("%v came as %+v", tt.err, err)
		}
	}
}

// The API refuses what cannot be meant before the service hears of it.
func TestBadRequests(t *testing.T) {
	h := Handler(&stub{err: errors.New("reached the service")}, "v", slog.New(slog.DiscardHandler))
	for _, tt := range []struct {
		method, url, want string
		status            int
	}{
		{"POST", "/v1/offload", "none is given", 400},
		{"POST", "/v1/upload", "none is given", 400},
		{"POST", "/v1/offload?all=true&timeout=1y", "no duration", 400},
		{"POST", "/v1/offload?all=true&timeout=-1s", "no duration", 400},
		{"POST", "/v1/offload?all=true&attach=glue", "unknown", 400},
		{"POST", "/v1/offload?everything=true", "unknown part", 400},
		{"POST", "/v1/offload?all=true&all=true", "2 times", 400},
		{"GET", "/v1/connections?pid=-3", "no process id", 400},
		{"GET", "/v1/connections?id=7", "INDEX-GENERATION", 400},
		{"GET", "/v1/connection?state=heaven", "neither kernel nor device", 400},
		{"GET", "/v1/connection?id=1-1&state=kernel", "leave out", 400},
		{"GET", "/v1/policy/explain", "none is given", 400},
		{"GET", "/v1/policy/check", "", 405},
		{"GET", "/v1/events?follow=perhaps", "follow", 400},
		{"GET", "/v1/offload?all=true", "", 405},
		{"GET", "/v2/connections", "", 404},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.url, nil))
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s gave %d %s", tt.method, tt.url, w.Code, w.Body)
		}
	}
}

func TestEventsFollow(t *testing.T) {
	s := &stub{events: make(chan driver.Event)}
	path, stop := serve(t, s)
	c := NewClient(path)
	defer c.Close()
	var once []driver.Event
	err := c.Events(context.Background(), false, func(e driver.Event) error { once = append(once, e); return nil })
	if err != nil || len(once) != 1 {
		t.Fatalf("events gave %v, %v", once, err)
	}
	got, ended := make(chan driver.Event), make(chan error)
	go func() {
		ended <- c.Events(context.Background(), true, func(e driver.Event) error { got <- e; return nil })
	}()
	if e := <-got; e.Kind != driver.EventOffloaded {
		t.Errorf("first came %+v", e)
	}
	for _, id := range []string{"2-1", "3-1"} {
		s.events <- driver.Event{ID: id}
		if e := <-got; e.ID != id {
			t.Errorf("%s came as %+v", id, e)
		}
	}
	stop() // a daemon that ends lets its followers go
	if err := <-ended; err != ErrFollowEnds {
		t.Errorf("followed to the end: %v", err)
	}
}

// Who does not read fast enough is told why the events end.
func TestFollowTooSlow(t *testing.T) {
	s := &stub{events: make(chan driver.Event, 1)}
	s.events <- driver.Event{Kind: driver.EventDropped}
	path, _ := serve(t, s)
	c := NewClient(path)
	defer c.Close()
	var last string
	err := c.Events(context.Background(), true, func(e driver.Event) error { last = e.Kind; return nil })
	if err != errTooSlow || last != driver.EventDropped {
		t.Errorf("after %s: %v", last, err)
	}
}

func TestFollowEndsWithTheClient(t *testing.T) {
	s := &stub{events: make(chan driver.Event)}
	path, _ := serve(t, s)
	c := NewClient(path)
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	if err := c.Events(ctx, true, func(driver.Event) error { cancel(); return nil }); err != nil {
		t.Errorf("a client that left: %v", err)
	}
	enough := errors.New("enough")
	if err := c.Events(context.Background(), true, func(driver.Event) error { return enough }); err != enough {
		t.Errorf("emit's error came as %v", err)
	}
}

func TestListenTwice(t *testing.T) {
	path, _ := serve(t, &stub{})
	_, err := Listen(path, "")
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("served already by process %d", os.Getpid())) {
		t.Errorf("the second gets %v", err)
	}
}

func TestListenReplacesWhatWasLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	again, err := Listen(path, "0")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != socketMode {
		t.Errorf("socket's mode is %v, %v", info.Mode(), err)
	}
}

func TestListenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, group, want string }{
		{file, "", "is no socket"},
		{filepath.Join(file, "s"), "", "not a directory"},
		{filepath.Join(t.TempDir(), "s"), "no-such-group", "there is no group"},
		{filepath.Join(t.TempDir(), strings.Repeat("x", 200)), "", "invalid argument"},
	} {
		if l, err := Listen(tt.path, tt.group); err == nil || !strings.Contains(err.Error(), tt.want) {
			if l != nil {
				l.Close()
			}
			t.Errorf("listen on %s for %q gave %v, want %q", tt.path, tt.group, err, tt.want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Error("the file was touched")
	}
}

func TestNoDaemon(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "none"))
	_, err := c.List(context.Background(), driver.Selector{})
	if !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), "toehold daemon") {
		t.Errorf("got %v", err)
	}
}

// What is no answer of ours is an error and no panic.
func TestForeignAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	srv := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/devices" {
			w.WriteHeader(http.StatusTeapot)
		}
		fmt.Fprint(w, "<html>")
	})}
	go srv.Serve(l)
	defer srv.Close()
	c := NewClient(path)
	defer c.Close()
	if _, err := c.List(context.Background(), driver.Selector{}); err == nil {
		t.Error("html was taken for a list")
	}
	if _, err := c.Devices(context.Background()); err == nil || !strings.Contains(err.Error(), "418") {
		t.Errorf("a teapot gave %v", err)
	}
	if err := c.Events(context.Background(), false, func(driver.Event) error { return nil }); err == nil {
		t.Error("html was taken for events")
	}
}

func TestSocketPath(t *testing.T) {
	env := func(v string) func(string) string { return func(string) string { return v } }
	for _, tt := range []struct{ given, env, want string }{
		{"/a", "/b", "/a"}, {"", "/b", "/b"}, {"", "", DefaultSocket},
	} {
		if got := SocketPath(tt.given, env(tt.env)); got != tt.want {
			t.Errorf("given %q, environment %q: %q", tt.given, tt.env, got)
		}
	}
}

// The names of the fields are a contract with scripts.
func TestConnectionFields(t *testing.T) {
	b, err := json.Marshal(sample)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"3-1","place":"device","attachment":"shadow","local":"10.0.0.1:80","remote":"[fd00::2]:40000","state":"established",` +
		`"pid":4242,"comm":"nginx","fd":7,"device":"eth0","bytes_sent":0,"bytes_received":0,"rtt_us":0,"cwnd":10,"ssthresh":0,` +
		`"retransmits":0,"offloads":1,"uploads":0,"reason":"asked"}`
	if string(b) != want {
		t.Errorf("a connection is\n%s", b)
	}
	var back driver.Connection
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, sample) {
		t.Errorf("and back: %+v, %v", back, err)
	}
}

func TestMetricsOnTheSocket(t *testing.T) {
	path, _ := serve(t, &stub{})
	c := NewClient(path)
	defer c.Close()
	resp, err := c.http.Get("http://toehold/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), "place=\"kernel\"} 7\n") {
		t.Errorf("%s, %v: %.200s", resp.Status, err, body)
	}
}

func TestPauseOverTheSocket(t *testing.T) {
	path, _ := serve(t, &stub{})
	c := NewClient(path)
	defer c.Close()
	for _, tt := range []driver.Device{{Device: "eth0", Paused: true}, {Paused: true}, {Device: "eth1"}} {
		got, err := c.PauseDevices(context.Background(), tt.Device, tt.Paused)
		if err != nil || len(got) != 1 || got[0].Device != tt.Device || got[0].Paused != tt.Paused {
			t.Errorf("%+v: %+v, %v", tt, got, err)
		}
	}
}
