package tcp_test

import (
	"testing"
	"time"

	"toehold/internal/tcp"
	"toehold/internal/tcptest"
)

// The delivery rate that tools are told is the last one that the program did not
// limit, or a higher one since, as Linux has it (tcp_rate_gen): a program that
// has little to send has not made the path slower.
func TestRateIsOfThePath(t *testing.T) {
	w := tcptest.NewWorld(1)
	a, b := w.NewEnd("a", table, nil), w.NewEnd("b", nil, table)
	a.Endless, b.Endless, a.Lazy, b.Stay, b.Lazy = true, true, true, true, true
	line := &tcptest.Line{Rate: 5e6}
	tcptest.Join(w, a.Box, b.Box, tcptest.Path{Line: line, Delay: 10 * time.Millisecond}, tcptest.Path{Delay: 10 * time.Millisecond})
	sa, sb := tcptest.Shape{MSS: 1448, SACK: true, TS: true, ShiftA: 9, ShiftB: 9, WindowA: 65535, WindowB: 65535}.Snapshots(w.Now)
	// What Nagle holds back would count as something to send.
	if err := a.Restore(w.Now, sa, tcp.Options{NoDelay: true}); err != nil {
		t.Fatal(err)
	}
	if err := b.Restore(w.Now, sb, tcp.Options{RcvBuf: 4 << 20}); err != nil {
		t.Fatal(err)
	}
	write := func(octets, times int, every, rest time.Duration) (rate uint64) {
		for range times {
			a.Write(octets)
			a.Pump()
			w.RunUntil(w.Now.Add(every))
		}
		w.RunUntil(w.Now.Add(rest))
		var m tcp.Metrics
		a.Metrics(&m)
		return m.DeliveryRate
	}
	little := write(100, 50, 25*time.Millisecond, 0)
	if little < 3000 || little > 6000 {
		t.Errorf("a hundred octets in a round trip are %d octets/s", little)
	}
	more := write(4000, 50, 25*time.Millisecond, 0)
	if more < 100_000 || more > 250_000 {
		t.Errorf("four thousand octets in a round trip are %d octets/s", more)
	}
	if rate := write(100, 50, 25*time.Millisecond, 0); rate != more {
		t.Errorf("with little to send again it is %d octets/s, and was %d", rate, more)
	}
	filled := write(50_000, 80, time.Millisecond, 5*time.Second)
	if filled < 3e6 || filled > 5e6 {
		t.Errorf("the path is full at %d octets/s", filled)
	}
	if rate := write(100, 50, 25*time.Millisecond, 0); rate != filled {
		t.Errorf("with little to send it is %d octets/s, and was %d", rate, filled)
	}
	line.Rate = 2e5
	slow := write(50_000, 80, time.Millisecond, 40*time.Second)
	if slow < 1e5 || slow > 2e5 {
		t.Errorf("the path is full at %d octets/s, after it was at %d", slow, filled)
	}
	a.Close()
	b.Close()
	if a.Err != nil || b.Err != nil {
		t.Error(a.Err, b.Err)
	}
}
