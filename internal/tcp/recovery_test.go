package tcp_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"toehold/internal/tcp"
	"toehold/internal/tcptest"
)

// TestBulk moves 20 MB over a path of 100 Mbit/s and 40 ms and holds the
// engine to how well it used it: what the line carried, what was sent again
// beside what was lost, how often only the timer helped.
func TestBulk(t *testing.T) {
	const line = 12.5e6 // octets a second
	for _, tt := range []struct {
		name    string
		cc      string
		sack    bool
		path    tcptest.Path
		part    float64 // of the line
		surplus float64 // sent again for each one lost, at most
		rtos    uint64
	}{
		{"clean, cubic", "cubic", true, tcptest.Path{Rate: line}, 0.8, 0, 0},
		{"clean, reno", "reno", true, tcptest.Path{Rate: line}, 0.8, 0, 0},
		{"clean, no control", "none", true, tcptest.Path{Rate: line}, 0.9, 0, 0},
		{"full queue, cubic", "cubic", true, tcptest.Path{Rate: line, Queue: 500000}, 0.6, 1.01, 1},
		{"full queue, reno", "reno", true, tcptest.Path{Rate: line, Queue: 500000}, 0.6, 1.01, 1},
		{"one in a thousand", "cubic", true, tcptest.Path{Rate: line, Loss: 0.001}, 0.1, 1.1, 1},
		{"one in a thousand, no control", "none", true, tcptest.Path{Rate: line, Loss: 0.001}, 0.75, 1.1, 0},
		{"one in a thousand, no SACK", "reno", false, tcptest.Path{Rate: line, Loss: 0.001}, 0.05, 2, 3},
		{"one in a hundred", "cubic", true, tcptest.Path{Rate: line, Loss: 0.01}, 0.03, 1.1, 5},
		{"doubled", "cubic", true, tcptest.Path{Rate: line, Double: 0.1}, 0.8, 0, 0},
	} {
		w := tcptest.NewWorld(1)
		tt.path.Delay = 20 * time.Millisecond
		a := w.NewEnd("a", make([]byte, 20e6), nil)
		b := w.NewEnd("b", nil, a.Source)
		a.Backlog = 4 << 20
		tcptest.Join(w, a.Box, b.Box, tt.path, tcptest.Path{Delay: tt.path.Delay})
		sa, sb := tcptest.Shape{MSS: 1448, SACK: tt.sack, TS: true, ShiftA: 7, ShiftB: 7, WindowA: 65535, WindowB: 65535}.Snapshots(w.Now)
		if err := errors.Join(a.Restore(w.Now, sa, tcp.Options{CC: tt.cc}), b.Restore(w.Now, sb, tcp.Options{RcvBuf: 2 << 20})); err != nil {
			t.Fatal(err)
		}
		start := w.Now
		a.Pump()
		if err := finish(w, a, b, func() error { return nil }); err != nil && b.Read != len(b.Want) {
			t.Fatalf("%s: %v", tt.name, err)
		}
		s := a.Stats()
		part := 20e6 / w.Now.Sub(start).Seconds() / line
		again := float64(s.Retransmits) / float64(max(a.Out.Lost, 1))
		t.Logf("%-30s %3.0f %% of the line, %d lost, %d sent again, %d recoveries, %d timeouts", tt.name, 100*part, a.Out.Lost, s.Retransmits, s.FastRecoveries, s.RTOs)
		if part < tt.part || again > tt.surplus || uint64(s.RTOs) > tt.rtos {
			t.Errorf("%s: %.2f of the line, %.2f sent again for each lost, %d timeouts", tt.name, part, again, s.RTOs)
		}
	}
}

// TestWorkIsBounded: the worst that a peer can make of reassembly, single
// octets with gaps between them, and one segment over all of them.
func TestWorkIsBounded(t *testing.T) {
	s := tcptest.NewScript()
	if _, err := s.Do("conn", tcptest.Args{"mss": "1000", "sack": "", "rcvbuf": "60000"}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	const n = 20000
	for i := range n {
		if _, err := s.Do("recv", tcptest.Args{"seq": strconv.Itoa(1 + 2*(i*7919%20000)), "len": "1"}); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(start) / n; d > 100*time.Microsecond {
		t.Errorf("%v a segment", d)
	}
	if said, _ := s.Do("recv", tcptest.Args{"seq": "0", "len": "60000"}); said == "" {
		t.Error("no acknowledgment")
	}
	if said, _ := s.Do("read", nil); !strings.HasPrefix(said, "read: 60000\n") {
		t.Errorf("%q", said)
	}
}
