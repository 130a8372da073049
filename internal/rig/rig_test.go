package rig

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStreamIsTheSameHoweverItIsRead(t *testing.T) {
	const size = 3*chunk + 17
	whole := make([]byte, size)
	NewStream(7).Read(whole)
	for _, step := range []int{1, 1000, chunk - 1, chunk, chunk + 1} {
		s, got := NewStream(7), make([]byte, 0, size)
		for len(got) < size {
			b := make([]byte, min(step, size-len(got)))
			s.Read(b)
			got = append(got, b...)
		}
		if !bytes.Equal(got, whole) {
			t.Errorf("in steps of %d another stream", step)
		}
	}
	h := sha256.New()
	h.Write(whole)
	if got := NewStream(7).Digest(size); got != Hex(h) {
		t.Errorf("digest %s", got)
	}
}

func TestStreamRepeatsNothing(t *testing.T) {
	a, b := make([]byte, chunk), make([]byte, chunk)
	s := NewStream(1)
	s.Read(a)
	s.Read(b)
	if bytes.Equal(a, b) {
		t.Error("the second chunk is the first: a doubled one would not be seen")
	}
	NewStream(2).Read(b)
	if bytes.Equal(a, b) {
		t.Error("two seeds, one stream")
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(100 - i) // unsorted
	}
	tests := []struct {
		values []int64
		q      float64
		want   int64
	}{
		{nil, 0.5, 0},
		{[]int64{7}, 0, 7}, {[]int64{7}, 0.99, 7}, {[]int64{7}, 1, 7},
		{[]int64{1, 2}, 0.5, 1}, {[]int64{3, 1, 2}, 0.5, 2},
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0, 1},
	}
	for _, tt := range tests {
		if got := Quantile(tt.values, tt.q); got != tt.want {
			t.Errorf("quantile %v of %d values is %d, want %d", tt.q, len(tt.values), got, tt.want)
		}
	}
}

func TestAddress(t *testing.T) {
	for text, want := range map[string]string{"10.0.0.1:80": "10.0.0.1:80", "[::ffff:10.0.0.1]:80": "10.0.0.1:80", "[fd77::1]:80": "[fd77::1]:80"} {
		a := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text))
		if got := Address(a); got != netip.MustParseAddrPort(want) {
			t.Errorf("%s is %s", text, got)
		}
	}
	if Address(&net.UnixAddr{}).IsValid() {
		t.Error("a unix socket has a TCP address")
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var copied bytes.Buffer
	l := &tail{copy: &copied}
	if !strings.Contains(l.String(), "nothing") {
		t.Errorf("an empty log says %q", l)
	}
	for range 100 {
		io.WriteString(l, strings.Repeat("x", 100))
	}
	io.WriteString(l, "the end")
	if s := l.String(); len(s) > tailSize || !strings.HasSuffix(s, "the end") {
		t.Errorf("%d octets, ending in %q", len(s), s[len(s)-10:])
	}
	if copied.Len() != 10007 {
		t.Errorf("%d octets copied", copied.Len())
	}
}

func TestStopOfAnObedientProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	if err := Stop(cmd.Process, ended); err != nil {
		t.Error(err)
	}
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}

func TestStartWithoutADaemon(t *testing.T) {
	begin := time.Now()
	_, err := Start(t.Context(), Options{Name: "rig", Program: "false"})
	if err == nil || !strings.Contains(err.Error(), "ended at its start") {
		t.Errorf("a program that is no daemon gives %v", err)
	}
	if time.Since(begin) > startTimeout/2 {
		t.Error("the end of the daemon was not seen")
	}
	if _, err := Start(t.Context(), Options{Name: "a name too long"}); err == nil {
		t.Error("no error for a name that cannot be")
	}
}
