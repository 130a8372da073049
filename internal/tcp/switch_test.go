package tcp_test

import (
	"testing"
	"time"

	"toehold/internal/tcb"
	"toehold/internal/tcp"
)

// The window outlives a change of the congestion control; but BBR knows no
// threshold (Linux bbr_init).
func TestSetCongestion(t *testing.T) {
	for _, from := range tcp.Algorithms() {
		for _, to := range tcp.Algorithms() {
			var c tcp.Conn
			s := established(func(s *tcb.Snapshot) { s.Cwnd, s.Ssthresh, s.SRTT, s.ECN = 40, 30, 10*time.Millisecond, true })
			if err := c.Restore(noon, s, tcp.Options{Through: true, CC: from}); err != nil {
				t.Fatal(err)
			}
			if !c.SetCongestion(noon, to) {
				t.Errorf("%s to %s: refused", from, to)
			}
			var m tcp.Metrics
			c.Metrics(&m)
			want := uint32(30)
			if from == "bbr" || to == "bbr" {
				want = tcb.NoThreshold
			}
			var after tcb.Snapshot
			c.Snapshot(noon, &after)
			if m.Cwnd != 40 || m.Ssthresh != want || after.CC != to {
				t.Errorf("%s to %s: it has %s, cwnd %d, ssthresh %d", from, to, after.CC, m.Cwnd, m.Ssthresh)
			}
			c.Close()
		}
	}
}

func TestSetCongestionRefuses(t *testing.T) {
	var c tcp.Conn
	if c.SetCongestion(noon, "reno") {
		t.Error("a connection that is none took it")
	}
	for _, cc := range []string{"none", "cubic"} {
		if err := c.Restore(noon, established(func(*tcb.Snapshot) {}), tcp.Options{Through: true, CC: cc}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"none", "", "vegas"} {
			if c.SetCongestion(noon, name) {
				t.Errorf("from %s it changed to %q", cc, name)
			}
		}
		if cc == "none" && c.SetCongestion(noon, "reno") {
			t.Error("the hop to the program's socket took one")
		}
		c.Close()
	}
}
