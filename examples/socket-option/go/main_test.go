package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"toehold/internal/rig"
)

// example is the first argument that makes this binary the example.
const example = "example"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == example {
		os.Args = os.Args[1:]
		main()
		os.Exit(0)
	}
	rig.Become()
	os.Exit(m.Run())
}

// An echo serves at the peer until the test ends.
func echo(t *testing.T, r *rig.Rig) *net.TCPAddr {
	t.Helper()
	l, err := r.Net.Peer.Listen("tcp", net.JoinHostPort(r.Net.PeerIP4.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	return l.Addr().(*net.TCPAddr)
}

func compiled(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "offload")
	if out, err := exec.Command("gcc", "-Wall", "-Werror", "-o", to, "../c/offload.c").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return to
}

// Each example moves its own connection to the device and goes on there.
func TestExamples(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a daemon needs root")
	}
	r, err := rig.Start(t.Context(), rig.Options{Name: "ex"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	at := echo(t, r)
	host, port, _ := net.SplitHostPort(at.String())
	for name, tt := range map[string]struct {
		needs   string
		command func() []string
	}{
		"Go":     {"", func() []string { return []string{"/proc/self/exe", example, at.String()} }},
		"C":      {"gcc", func() []string { return []string{compiled(t), host, port} }},
		"Python": {"python3", func() []string { return []string{"python3", "../python/offload.py", host, port} }},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(tt.needs); tt.needs != "" && err != nil {
				t.Skip(err)
			}
			args := tt.command()
			cmd := r.Net.Host.Command(args[0], args[1:]...)
			stuck := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
			defer stuck.Stop()
			out, err := cmd.CombinedOutput()
			if want := "device program-asked\nhello\n"; err != nil || string(out) != want {
				t.Errorf("%v\n got %q\nwant %q", err, out, want)
			}
		})
	}
}
