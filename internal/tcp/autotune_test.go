package tcp_test

import (
	"testing"
	"time"

	"toehold/internal/tcp"
	"toehold/internal/tcptest"
)

// fetch is how long 8 MB take over a path of 100 ms and 20 MB/s, and the
// largest window that the receiver offered meanwhile. With pause it reads
// 10 000 octets each time that so long has passed.
func fetch(t *testing.T, ts bool, limit uint32, pause time.Duration) (took time.Duration, window uint32) {
	w := tcptest.NewWorld(1)
	a := w.NewEnd("a", make([]byte, 8<<20), nil)
	a.Backlog = 16 << 20
	b := w.NewEnd("b", nil, a.Source)
	path := tcptest.Path{Delay: 50 * time.Millisecond, Rate: 20e6}
	tcptest.Join(w, a.Box, b.Box, path, path)
	sa, sb := tcptest.Shape{MSS: 1448, SACK: true, TS: ts, ShiftA: 7, ShiftB: 7, WindowA: 65535, WindowB: 65535}.Snapshots(w.Now)
	if err := a.Restore(w.Now, sa, tcp.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Restore(w.Now, sb, tcp.Options{RcvBuf: 65535, RcvBufMax: limit}); err != nil {
		t.Fatal(err)
	}
	var eat func()
	eat = func() { b.ReadSome(10000); b.Pump(); w.After(pause, eat) }
	if pause > 0 {
		b.Slow = true
		w.After(pause, eat)
	}
	start := w.Now
	a.Pump()
	for n := 0; b.Read < len(b.Want) && b.Err == nil && w.Now.Sub(start) < time.Minute; n++ {
		w.RunUntil(w.Now.Add(10 * time.Millisecond))
		var m tcp.Metrics
		b.Metrics(&m)
		window = max(window, m.RcvWnd)
	}
	if b.Err != nil {
		t.Error(b.Err)
	}
	return w.Now.Sub(start), window
}

// TestBufferFollowsTheProgram: the path holds 2 MB, so a buffer of 64 KB gives
// 0.65 MB/s and one that grows gives nearly all of its 20.
func TestBufferFollowsTheProgram(t *testing.T) {
	for _, ts := range []bool{false, true} {
		fixed, window := fetch(t, ts, 0, 0)
		if window > 65535 || fixed < 12*time.Second {
			t.Errorf("timestamps %v: a fixed buffer offered %d octets and took %v", ts, window, fixed)
		}
		tuned, window := fetch(t, ts, 6<<20, 0)
		t.Logf("timestamps %v: %v with a fixed buffer, %v with one that grew to %d octets", ts, fixed, tuned, window)
		if tuned > 2*time.Second || window < 2<<20 || window > 6<<20 {
			t.Errorf("timestamps %v: a buffer that grows offered %d octets and took %v", ts, window, tuned)
		}
		if _, window = fetch(t, ts, 300000, 0); window > 300000 {
			t.Errorf("timestamps %v: beyond its limit to %d", ts, window)
		}
		// 1 MB/s, 100 KB in a round trip.
		if _, window = fetch(t, ts, 6<<20, 10*time.Millisecond); window > 500000 {
			t.Errorf("timestamps %v: for a slow program it grew to %d", ts, window)
		}
	}
}
