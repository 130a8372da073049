package tcp_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"toehold/internal/tcp"
	"toehold/internal/tcptest"
)

// TestLinux checks rules of Linux's sender that no RFC has.
func TestLinux(t *testing.T) {
	checkRules(t, []rule{
		{"tcp_send_loss_probe", "The retransmission timer starts anew with a probe: its answer takes a round trip.", `
			conn sack mss=1000 srtt=100 cwnd=10
			send n=3000  => 0s: seq=0 len=3000 size=1000 psh ack=0 win=65535
			wait ms=202  => 202ms: seq=2000 len=1000 psh ack=0 win=65535
			wait ms=299  => nothing
			wait ms=1    => 502ms: seq=0 len=1000 ack=0 win=65535`},
		{"tcp_clean_rtx_queue", "What arrives that was sent before the first segment in flight was sent again puts off that one's timeout.", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=10000
			wait ms=100
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535
			wait ms=50
			recv sack=1000-4100
			wait ms=260
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=0 undone=0`},
		{"tcp_process_tlp_ack", "A duplicate acknowledgment after all was acknowledged: the segment and its probe arrived, nothing was lost.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=1000
			wait ms=300    => 300ms: seq=0 len=1000 psh ack=0 win=65535
			recv ack=1000
			recv ack=1000
			send n=1000
			recv ack=2000
			show => established una=2000 nxt=2000 end=2000 edge=66000 rcv=0 acked=0 cwnd=10 ssthresh=2147483647 recovery=0 rto=287.5ms held=0/0`},
		{"tcp_init_undo", "A probe in flight counts as sent again: its D-SACK does not take the reduction back.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			wait ms=202               => 202ms: seq=9000 len=1000 psh ack=0 win=65535
			recv sack=1000-10000      => 202ms: seq=0 len=1000 ack=0 win=65535
			recv sack=9000-10000,1000-10000
			show stats => again=2 recoveries=1 probes=1 timeouts=0 dsacks=1 undone=0`},
		{"tcp_dsack_seen", "More doubled than was sent twice: the network doubles segments, nothing is taken back.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			recv ack=3000
			recv ack=3000 sack=0-1000
			recv ack=3000 sack=1000-2000
			recv ack=3000 sack=4000-10000 => 0s: seq=3000 len=1000 ack=0 win=65535
			recv ack=3000 sack=5000-6000,4000-10000
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=3 undone=0`},
		{"tcp_sacktag_one", "A report of something that was sent once says nothing of what was sent again.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			recv sack=1000-10000 => 0s: seq=0 len=1000 ack=0 win=65535
			recv sack=5000-6000,1000-10000
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=1 undone=0`},
		{"tcp_ack, old_ack", "An acknowledgment that was overtaken may still report a duplicate.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			wait ms=100
			recv sack=1000-10000 => 100ms: seq=0 len=1000 ack=0 win=65535
			recv ack=10000
			send n=1000
			recv ack=11000
			recv ack=10000 sack=0-1000
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=1 undone=1`},
		{"tcp_fastretrans_alert", "ECE says that the network is full: a spurious timeout does not bring the window back then.", `
			conn sack ecn mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			wait ms=502
			recv sack=5000-9000 ece
			show stats => again=2 recoveries=0 probes=1 timeouts=1 dsacks=0 undone=0`},
	})
}

// TestNumbersWrap: what is remembered of a recovery must not become the future
// two billion octets later.
func TestNumbersWrap(t *testing.T) {
	s := tcptest.NewScript()
	do := func(cmd string, args tcptest.Args) string {
		said, err := s.Do(cmd, args)
		if err != nil {
			t.Fatal(err)
		}
		return said
	}
	do("conn", tcptest.Args{"cc": "reno", "srtt": "100", "win": "1000000", "shift": "5", "cwnd": "1000", "mss": "1000"})
	for n := int64(0); n < 5<<29; n += 50000 {
		do("send", tcptest.Args{"n": "50000"})
		do("recv", tcptest.Args{"ack": strconv.FormatInt(n+50000, 10), "win": "1000000"})
	}
	do("send", tcptest.Args{"n": "5000"})
	got := ""
	for range 4 {
		got += do("recv", tcptest.Args{"win": "1000000"})
	}
	if st := do("show", tcptest.Args{"stats": ""}); st != "again=1 recoveries=1 probes=0 timeouts=0 dsacks=0 undone=0\n" {
		t.Errorf("after 2.6 GB three duplicates: %s%s", got, st)
	}
}

// TestLaterRoundTrips: the delay of a path goes from 50 ms to three seconds at
// once. The timeouts until the first answer are spurious; what arrives then says
// how long it takes now, so that there are no more. (Without timestamps RACK takes
// the answer of the first segment for that of its repetition, and the rest for
// lost.)
func TestLaterRoundTrips(t *testing.T) {
	for _, stamps := range []bool{false, true} {
		w := tcptest.NewWorld(1)
		a := w.NewEnd("a", make([]byte, 2e6), nil)
		b := w.NewEnd("b", nil, a.Source)
		path := tcptest.Path{Rate: 1e6, Delay: 25 * time.Millisecond}
		tcptest.Join(w, a.Box, b.Box, path, path)
		sa, sb := tcptest.Shape{MSS: 1448, SACK: true, TS: stamps, ShiftA: 7, ShiftB: 7, WindowA: 65535, WindowB: 65535}.Snapshots(w.Now)
		if err := errors.Join(a.Restore(w.Now, sa, tcp.Options{}), b.Restore(w.Now, sb, tcp.Options{RcvBuf: 2 << 20})); err != nil {
			t.Fatal(err)
		}
		w.After(time.Second, func() { a.Out.Delay = 2975 * time.Millisecond })
		a.Pump()
		if err := finish(w, a, b, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if s := a.Stats(); s.RTOs > 3 || s.Undos == 0 || stamps && s.Retransmits > 4 {
			t.Errorf("timestamps %v: %d timeouts, %d undone, %d segments sent again, %d probes", stamps, s.RTOs, s.Undos, s.Retransmits, s.TailProbes)
		}
	}
}
