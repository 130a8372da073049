package tcp_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"toehold/internal/seqnum"
	"toehold/internal/tcp"
	"toehold/internal/tcptest"
)

// octets returns n octets that follow from seed.
func octets(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 7))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// weather returns a path with a bit of everything.
func weather(r *rand.Rand) tcptest.Path {
	p := tcptest.Path{Delay: time.Duration(1+r.IntN(50)) * time.Millisecond, Whole: r.IntN(2) == 0}
	if r.IntN(3) > 0 {
		p.Loss = r.Float64() * 0.15
	}
	if r.IntN(3) == 0 {
		p.Corrupt = r.Float64() * 0.05
	}
	if r.IntN(3) == 0 {
		p.Double = r.Float64() * 0.2
	}
	if r.IntN(3) == 0 {
		p.Jitter = time.Duration(r.IntN(40)) * time.Millisecond
	}
	if r.IntN(3) == 0 {
		p.Late, p.Behind = r.Float64()*0.1, time.Duration(r.IntN(1500))*time.Millisecond
	}
	if r.IntN(3) == 0 {
		p.Rate, p.Queue = 1e5+r.Float64()*1e7, 20000+r.IntN(200000)
	}
	return p
}

func shape(r *rand.Rand) tcptest.Shape {
	mss := []uint32{536, 1000, 1448, 8960, 88}[r.IntN(5)]
	return tcptest.Shape{
		MSS: mss, SACK: r.IntN(4) > 0, TS: r.IntN(4) > 0, ShiftA: uint8(r.IntN(10)), ShiftB: uint8(r.IntN(10)),
		WindowA: uint32(2000 + r.IntN(60000)), WindowB: uint32(2000 + r.IntN(60000)),
		ISNA: seqnum.Value(r.Uint32()), ISNB: seqnum.Value(0) - seqnum.Value(r.IntN(100000)),
	}
}

func lawRun(seed uint64) error {
	w := tcptest.NewWorld(seed)
	r := w.Rand
	a := w.NewEnd("a", octets(seed, r.IntN(200000)), octets(seed+1, r.IntN(50000)*r.IntN(3)))
	b := w.NewEnd("b", a.Want, a.Source)
	tcptest.Join(w, a.Box, b.Box, weather(r), weather(r))
	sa, sb := shape(r).Snapshots(w.Now)
	cc := []string{"cubic", "reno", "none", ""}
	oa := tcp.Options{CC: cc[r.IntN(4)], RcvBuf: uint32(4000 + r.IntN(300000))}
	ob := tcp.Options{CC: cc[r.IntN(4)], RcvBuf: uint32(4000 + r.IntN(300000)), MaxOOO: uint32(r.IntN(200000))}
	if err := a.Restore(w.Now, sa, oa); err != nil {
		return err
	}
	if err := b.Restore(w.Now, sb, ob); err != nil {
		return err
	}
	a.Chunk, b.Chunk = 1+r.IntN(60000), 1+r.IntN(3000)
	a.Pump()
	b.Pump()
	done := func() bool { return a.Done() && b.Done() || a.Err != nil || b.Err != nil }
	ok := w.Run(time.Hour, 1<<20, done)
	if a.Err != nil || b.Err != nil {
		return fmt.Errorf("%v, %v", a.Err, b.Err)
	}
	if !ok {
		return fmt.Errorf("not done: a wrote %d/%d read %d/%d %+v\nb wrote %d/%d read %d/%d %+v", a.Wrote, len(a.Source), a.Read, len(a.Want), *a.Stats(),
			b.Wrote, len(b.Source), b.Read, len(b.Want), *b.Stats())
	}
	a.Close()
	b.Close()
	a.Pool.Recycle()
	b.Pool.Recycle()
	if a.Pool.Used()+b.Pool.Used() != 0 {
		return fmt.Errorf("%d and %d octets leaked", a.Pool.Used(), b.Pool.Used())
	}
	return nil
}

func TestLawTwoEngines(t *testing.T) {
	for seed := range uint64(500) {
		if err := lawRun(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
