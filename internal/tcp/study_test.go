package tcp_test

import (
	"fmt"
	"testing"
	"time"

	"toehold/internal/tcp"
	"toehold/internal/tcptest"
)

func TestStudy(t *testing.T) {
	for _, cc := range []string{"cubic", "reno"} {
		for _, sack := range []bool{true, false} {
			for _, p := range []tcptest.Path{
				{Delay: 20 * time.Millisecond, Rate: 12.5e6, Queue: 500000},
				{Delay: 20 * time.Millisecond, Rate: 12.5e6, Queue: 60000},
				{Delay: 20 * time.Millisecond, Rate: 12.5e6, Queue: 500000, Loss: 0.001},
				{Delay: 20 * time.Millisecond, Rate: 12.5e6, Queue: 500000, Loss: 0.01},
				{Delay: 20 * time.Millisecond, Rate: 12.5e6, Queue: 500000, Late: 0.01, Behind: 5 * time.Millisecond},
				{Delay: 100 * time.Microsecond, Rate: 1.25e9, Queue: 1000000},
				{Delay: 100 * time.Microsecond, Rate: 1.25e9, Queue: 1000000, Loss: 0.001},
			} {
				w := tcptest.NewWorld(1)
				a := w.NewEnd("a", octets(1, 50000000), nil)
				b := w.NewEnd("b", a.Want, a.Source)
				back := tcptest.Path{Delay: p.Delay}
				tcptest.Join(w, a.Box, b.Box, p, back)
				sa, sb := tcptest.Shape{MSS: 1448, SACK: sack, TS: true, ShiftA: 7, ShiftB: 7, WindowA: 65535, WindowB: 65535}.Snapshots(w.Now)
				a.Backlog = 4 << 20
				a.Restore(w.Now, sa, tcp.Options{CC: cc})
				b.Restore(w.Now, sb, tcp.Options{CC: cc, RcvBuf: 4 << 20})
				a.Pump()
				b.Pump()
				start := w.Now
				ok := w.Run(time.Hour, 1<<22, func() bool { return a.Done() && b.Done() || a.Err != nil || b.Err != nil })
				d := w.Now.Sub(start)
				s := a.Stats()
				var m tcp.Metrics
				a.Metrics(&m)
				fmt.Printf("%s sack=%v %+v: %v %v %.1f Mbit/s rexmit %d (lost %d) rto %d fr %d bsegs %d cwnd %d srtt %d ooodrop %d\n", cc, sack, p, ok, d, 50e6*8/d.Seconds()/1e6, s.Retransmits, a.Out.Lost, s.RTOs, s.FastRecoveries, b.Stats().SegsOut, m.Cwnd, m.SRTT, b.Stats().OOODropped)
			}
		}
	}
}
