package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// The test binary is the toehold binary too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		main()
	}
	os.Exit(m.Run())
}

// documented reads the commands of docs/OBJECTIONS.md.
func documented(t *testing.T) (commands []string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/OBJECTIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(b), "\n```") {
		if i%2 == 1 { // inside
			commands = append(commands, strings.Split(strings.TrimSpace(block), "\n")...)
		}
	}
	if len(commands) < 20 {
		t.Fatalf("only %d commands: %q", len(commands), commands)
	}
	return commands
}

// unquote parts a command as a shell does, as far as these commands go.
func unquote(command string) (words []string) {
	for i, part := range strings.Split(command, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

// station is a daemon with one connection.
func station(t *testing.T) (*rig.Rig, driver.Selector) {
	t.Helper()
	r, err := rig.Start(context.Background(), rig.Options{Name: "obj"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	l, err := r.Net.Host.Listen("tcp", r.Net.HostIP4.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := r.Net.Peer.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	host, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close(); peer.Close() })
	return r, rig.Peer(rig.Address(peer.LocalAddr()))
}

// TestObjections runs the commands that answer Linux's objections.
func TestObjections(t *testing.T) {
	r, conn := station(t)
	ctx := context.Background()
	done := map[string]bool{}
	for _, command := range documented(t) {
		words := unquote(command)
		switch {
		case done[command]:
			continue
		case words[0] == "curl":
			checkMetrics(t, r.Socket, words)
		case words[0] == "go":
			checkTests(t, command, words)
		case words[0] != "toehold" || len(words) < 2:
			t.Errorf("%s: nobody knows how to check that", command)
		default:
			prepare(ctx, r, conn, words[1])
			runDocumented(t, r, command, words[1:])
		}
		done[command] = true
	}
}

// prepare puts the connection where the command looks for it. A refusal is the
// command's to show.
func prepare(ctx context.Context, r *rig.Rig, conn driver.Selector, verb string) {
	if verb == "offload" {
		r.Upload(ctx, conn)
	} else {
		r.Offload(ctx, conn)
	}
}

func runDocumented(t *testing.T, r *rig.Rig, command string, args []string) {
	t.Helper()
	if args[0] == "demo" || args[0] == "bench" {
		args = append(args, "--help") // flags that it does not know are an error all the same
	}
	out, errs, code, err := r.Toehold(context.Background(), args...)
	if err != nil || code != 0 || len(out) == 0 {
		t.Errorf("%s: exit %d, %v\n%s%s", command, code, err, out, errs)
	}
}

// checkMetrics asks what curl would, at this daemon's socket.
func checkMetrics(t *testing.T, socket string, words []string) {
	t.Helper()
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) },
	}}
	resp, err := c.Get(words[len(words)-1])
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); resp.StatusCode != 200 || err != nil || !strings.Contains(string(body), "toehold_connections{") {
		t.Errorf("%q: %s, %v", words, resp.Status, err)
	}
}

// checkTests looks whether there are the tests that a command names.
func checkTests(t *testing.T, command string, words []string) {
	t.Helper()
	if len(words) != 5 || words[1] != "test" || words[2] != "-run" {
		t.Errorf("%s is not of the form go test -run NAMES PACKAGE", command)
		return
	}
	files, err := filepath.Glob(filepath.Join("../..", words[4], "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Errorf("%s: no tests there, %v", command, err)
	}
	var sources strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		sources.Write(b)
	}
	for _, name := range strings.Split(words[3], "|") {
		if !regexp.MustCompile(`(?m)^func ` + name).MatchString(sources.String()) {
			t.Errorf("%s: there is no %s", command, name)
		}
	}
}
