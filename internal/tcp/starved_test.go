package tcp_test

import (
	"testing"
	"time"

	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/tcptest"
)

// A sender whose buffer holds less than the window has nothing to send for most
// of the time. That is no reason to think that it had not filled the path: BBR
// would stay in Startup, and overflow every queue. A sender that writes little is
// another matter, whatever its buffer.
func TestFullBufferIsNotLittleToSend(t *testing.T) {
	const backlog = 768 << 10 // 1.5 BDP; Startup's window is of nearly 3
	for _, tt := range []struct {
		name   string
		sndBuf uint32
		filled bool
	}{
		{"its buffer is full", backlog, true},
		{"its buffer is large", 16 << 20, false},
	} {
		w := tcptest.NewWorld(1)
		a, b := w.NewEnd("a", table, nil), w.NewEnd("b", nil, table)
		a.Endless, b.Endless, b.Stay, b.Lazy, a.Backlog = true, true, true, true, backlog
		there := tcptest.Path{Delay: 40 * time.Millisecond, Rate: 6.25e6, Queue: 2 << 20}
		tcptest.Join(w, a.Box, b.Box, there, tcptest.Path{Delay: there.Delay})
		sa, sb := tcptest.Shape{MSS: 1448, SACK: true, TS: true, ShiftA: 9, ShiftB: 9, WindowA: 65535, WindowB: 65535}.Snapshots(w.Now)
		if err := a.Restore(w.Now, sa, tcp.Options{CC: "bbr", SndBuf: tt.sndBuf}); err != nil {
			t.Fatal(err)
		}
		if err := b.Restore(w.Now, sb, tcp.Options{RcvBuf: 4 << 20}); err != nil {
			t.Fatal(err)
		}
		a.Pump()
		w.RunUntil(w.Now.Add(4 * time.Second))
		var s tcb.Snapshot
		a.Snapshot(w.Now, &s)
		if s.CCState.BBR.Filled != tt.filled {
			t.Errorf("%s: %+v", tt.name, s.CCState.BBR)
		}
		a.Close()
		b.Close()
	}
}
