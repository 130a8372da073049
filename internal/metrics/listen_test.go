package metrics

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestCheckAddress(t *testing.T) {
	for _, good := range []string{":9100", "127.0.0.1:0", "[::1]:9100", "localhost:9100", "[fe80::1%eth0]:9100"} {
		if err := CheckAddress(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"":                   "form",
		"9100":               "form",
		"127.0.0.1":          "form",
		"::1:9100":           "form",
		"127.0.0.1:http":     "port",
		"127.0.0.1:":         "port",
		":65536":             "port",
		"example.org:9100":   "address",
		"300.0.0.1:9100":     "address",
		"http://[::1]:9100/": "form",
	} {
		if err := CheckAddress(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPortInUse(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Listen(l.Addr().String()); err == nil || !strings.Contains(err.Error(), l.Addr().String()+": ") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second listener: %v", err)
	}
}

// Metrics are served and nothing else; connections that are open do not keep
// the server from ending.
func TestServe(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, Handler(sample(), "v1", log), log) }()
	for _, tt := range []struct {
		method, path string
		status       int
		has          string
	}{
		{"GET", "/metrics", 200, "toehold_connections"},
		{"HEAD", "/metrics", 200, ""},
		{"GET", "/", 200, "/metrics"},
		{"POST", "/metrics", 405, ""},
		{"POST", "/v1/upload?all=true", 404, ""},
		{"GET", "/v1/connections", 404, ""},
	} {
		r, err := http.NewRequest(tt.method, "http://"+l.Addr().String()+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.has) {
			t.Errorf("%s %s: %s\n%.100s", tt.method, tt.path, resp.Status, body)
		}
	}
	idle, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not end")
	}
}
