package tcp_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"toehold/internal/frame"
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

// habits makes an end's program write and read in its own way: some at once,
// some in small pieces, some only now and then, so that windows close.
func habits(w *tcptest.World, e *tcptest.End) {
	r := w.Rand
	e.Chunk, e.Backlog = 1+r.IntN([]int{100, 3000, 60000}[r.IntN(3)]), uint32(1+r.IntN(300000))
	if r.IntN(3) > 0 {
		return
	}
	e.Slow = true
	bite, pause := 1+r.IntN(40000), time.Duration(1+r.IntN(300))*time.Millisecond
	var eat func()
	eat = func() {
		e.ReadSome(bite)
		e.Pump()
		if e.Read < len(e.Want) && e.Err == nil {
			w.After(pause, eat)
		}
	}
	w.After(pause, eat)
}

// lawRun is one connection between two engines; what the ends read must be
// what was written, and it must come to its end.
func lawRun(seed uint64) error {
	w := tcptest.NewWorld(seed)
	r := w.Rand
	a := w.NewEnd("a", octets(seed, r.IntN(200000)), octets(seed+1, r.IntN(50000)*r.IntN(3)))
	b := w.NewEnd("b", a.Want, a.Source)
	tcptest.Join(w, a.Box, b.Box, weather(r), weather(r))
	sa, sb := shape(r).Snapshots(w.Now)
	cc := []string{"cubic", "reno", "none", ""}
	oa := tcp.Options{CC: cc[r.IntN(4)], RcvBuf: uint32(4000 + r.IntN(300000))}
	ob := tcp.Options{CC: cc[r.IntN(4)], RcvBuf: uint32(4000 + r.IntN(300000)), MaxOOO: uint32(32+r.IntN(200)) * frame.Small}
	if err := errors.Join(a.Restore(w.Now, sa, oa), b.Restore(w.Now, sb, ob)); err != nil {
		return err
	}
	habits(w, a)
	habits(w, b)
	var err error
	for range r.IntN(5) {
		w.After(time.Duration(r.IntN(3000))*time.Millisecond, func() { err = errors.Join(err, a.Move(oa), b.Move(ob)) })
	}
	a.Pump()
	b.Pump()
	if e := finish(w, a, b, func() error { return err }); e != nil {
		return fmt.Errorf("%w\na %+v\nb %+v", e, *a.Stats(), *b.Stats())
	}
	return leaks(a.Box, b.Box)
}

// finish runs until both ends are done or something is wrong.
func finish(w *tcptest.World, a, b *tcptest.End, wrong func() error) error {
	failed := func() error { return errors.Join(a.Err, b.Err, wrong()) }
	if !w.Run(3*time.Hour, 1<<21, func() bool { return a.Done() && b.Done() || failed() != nil }) {
		return fmt.Errorf("no end: %s wrote %d of %d, read %d of %d; %s wrote %d of %d, read %d of %d", a.Name, a.Wrote, len(a.Source), a.Read, len(a.Want),
			b.Name, b.Wrote, len(b.Source), b.Read, len(b.Want))
	}
	return failed()
}

// leaks closes the boxes and looks for buffers still in use.
func leaks(boxes ...*tcptest.Box) error {
	for _, b := range boxes {
		b.Close()
		b.Pool.Recycle()
	}
	for _, b := range boxes {
		if n := b.Pool.Used(); n != 0 {
			return fmt.Errorf("%s: %d octets of buffers leaked", b.Name, n)
		}
	}
	return nil
}

// runs is how many seeds a law is tried with.
func runs() uint64 {
	if testing.Short() {
		return 200
	}
	return 1500
}

func TestLawTwoEngines(t *testing.T) {
	for seed := range runs() {
		if err := lawRun(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
