package tcp_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/seqnum"
	"toehold/internal/tcp"
	"toehold/internal/tcptest"
)

// table is what the octets of all streams are taken from.
var table = func() []byte {
	b := make([]byte, 1<<20)
	r := rand.New(rand.NewPCG(7, 7))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}()

// octets returns n octets that follow from seed. They are shared: nobody may
// write to them.
func octets(seed uint64, n int) []byte {
	if n > len(table)/2 {
		panic("the table has not so many octets")
	}
	at := seed * 7919 % uint64(len(table)/2)
	return table[at:][:n:n]
}

// weather returns a path with a bit of everything.
func weather(r *rand.Rand) tcptest.Path {
	p := tcptest.Path{Delay: time.Duration(1+r.IntN(50)) * time.Millisecond, Whole: r.IntN(2) == 0}
	if r.IntN(3) > 0 {
		p.Loss = r.Float64() * 0.15
	}
	if r.IntN(4) == 0 {
		p.Burst = tcptest.Burst{Start: r.Float64() * 0.02, End: 0.1 + r.Float64()*0.5, Loss: 0.4 + r.Float64()*0.4}
	}
	if r.IntN(3) == 0 {
		p.Corrupt = r.Float64() * 0.05
	}
	if r.IntN(4) == 0 {
		p.AckLoss = r.Float64() * 0.3
	}
	if r.IntN(3) == 0 {
		p.Double = r.Float64() * 0.2
	}
	if r.IntN(3) == 0 {
		p.Rate, p.Queue = 1e5+r.Float64()*1e7, 20000+r.IntN(200000)
		p.Mark = r.IntN(2) * (1 + r.IntN(p.Queue))
	}
	timing(r, &p)
	return p
}

// timing is the part of the weather that moves segments in time.
func timing(r *rand.Rand, p *tcptest.Path) {
	ms := func(n int) time.Duration { return time.Duration(r.IntN(n)) * time.Millisecond }
	if r.IntN(3) == 0 {
		p.Jitter = ms(40)
	}
	if r.IntN(4) == 0 {
		p.Wobble = ms(30)
	}
	if r.IntN(3) == 0 {
		p.Late, p.Behind = r.Float64()*0.1, ms(1500)
	}
	if r.IntN(4) == 0 {
		p.AckHold = ms(20)
	}
	if r.IntN(3) == 0 {
		p.Merge = time.Duration(1+r.IntN(3000)) * time.Microsecond
	}
}

// narrows lets the path from a box become narrower than its segments, once or
// twice: with a signal of it for good, without one for some seconds.
func narrows(w *tcptest.World, b *tcptest.Box) {
	r := w.Rand
	link, signal := b.Out, r.IntN(2) == 0
	if r.IntN(5) > 0 {
		return
	}
	if signal {
		link.TooBig = b.TooBig
	} else {
		w.After(time.Duration(10+r.IntN(10))*time.Second, func() { link.MTU = 0 })
	}
	for range 1 + r.IntN(2) {
		w.After(time.Duration(r.IntN(4000))*time.Millisecond, func() { link.MTU = 128 + w.Rand.IntN(1400) })
	}
}

func shape(r *rand.Rand) tcptest.Shape {
	mss := []uint32{536, 1000, 1448, 8960, 88}[r.IntN(5)]
	return tcptest.Shape{
		MSS: mss, SACK: r.IntN(4) > 0, TS: r.IntN(4) > 0, ECN: r.IntN(3) == 0, ShiftA: uint8(r.IntN(10)), ShiftB: uint8(r.IntN(10)),
		WindowA: uint32(2000 + r.IntN(60000)), WindowB: uint32(2000 + r.IntN(60000)),
		ISNA: seqnum.Value(r.Uint32()), ISNB: seqnum.Value(0) - seqnum.Value(r.IntN(100000)),
	}
}

// habits makes an end's program write and read in its own way: some at once,
// some in small pieces, some only now and then, so that windows close and
// lines fall idle.
func habits(w *tcptest.World, e *tcptest.End) {
	r := w.Rand
	e.Chunk, e.Backlog = 1+r.IntN([]int{100, 3000, 60000}[r.IntN(3)]), uint32(1+r.IntN(300000))
	if r.IntN(2) == 0 && e.Chunk > 20 {
		e.Gap = 1
	}
	if r.IntN(3) == 0 {
		slow(w, e)
	}
	if r.IntN(5) == 0 {
		lazy(w, e)
	}
}

func slow(w *tcptest.World, e *tcptest.End) {
	r := w.Rand
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

func lazy(w *tcptest.World, e *tcptest.End) {
	r := w.Rand
	e.Lazy = true
	bite, pause := 1+r.IntN(40000), 1+r.IntN(900)
	var write func()
	write = func() {
		e.Write(min(bite, len(e.Source)-e.Wrote))
		e.Pump()
		if e.Wrote < len(e.Source) && e.Err == nil {
			w.After(time.Duration(r.IntN(pause))*time.Millisecond, write)
		}
	}
	w.After(0, write)
}

// urges asks an engine for what its driver or its program may ask at any time.
func urges(w *tcptest.World, b *tcptest.Box) {
	r := w.Rand
	for range r.IntN(6) {
		on := r.IntN(2) == 0
		do := []func(){
			b.AckNow, b.Probe, b.FlushAll,
			func() { b.SetNoDelay(on) }, func() { b.SetCork(on) }, func() { b.SetQuickAck(on) },
			func() { b.SetKeepalive(w.Now, tcp.Keepalive{Idle: time.Second, Interval: 24 * time.Hour, Count: 255}) }, // too slow to give up
		}[r.IntN(7)]
		w.After(time.Duration(r.IntN(3000))*time.Millisecond, func() { do(); b.Pump() })
	}
}

// controls are the congestion controls that there are, but for none.
var controls = []string{"cubic", "reno", "dctcp", "bbr"}

// anyControl is one of them, by name or as what is usual, or none.
func anyControl(r *rand.Rand) string {
	return slices.Concat(controls, []string{"none", ""})[r.IntN(len(controls)+2)]
}

// wishes are options of an endpoint.
func wishes(r *rand.Rand) tcp.Options {
	o := tcp.Options{CC: anyControl(r), RcvBuf: uint32(4000 + r.IntN(300000)), NoDelay: r.IntN(2) == 0, MTUProbing: r.IntN(2) == 0}
	if r.IntN(2) == 0 {
		o.RcvBufMax = o.RcvBuf + uint32(r.IntN(1000000))
	}
	return o
}

// lawRun is one connection between two engines; what the ends read must be
// what was written, and it must come to its end.
func lawRun(w *tcptest.World, seed uint64) ([]*tcptest.Box, error) {
	r := w.Rand
	a := w.NewEnd("a", octets(seed, r.IntN(200000)), octets(seed+1, r.IntN(50000)*r.IntN(3)))
	b := w.NewEnd("b", a.Want, a.Source)
	tcptest.Join(w, a.Box, b.Box, weather(r), weather(r))
	sa, sb := shape(r).Snapshots(w.Now)
	oa, ob := wishes(r), wishes(r)
	if r.IntN(2) == 0 {
		ob.MaxOOO = uint32(32+r.IntN(200)) * frame.Small
	}
	boxes := []*tcptest.Box{a.Box, b.Box}
	if err := errors.Join(a.Restore(w.Now, sa, oa), b.Restore(w.Now, sb, ob)); err != nil {
		return boxes, err
	}
	for _, e := range []*tcptest.End{a, b} {
		habits(w, e)
		narrows(w, e.Box)
		urges(w, e.Box)
	}
	var err error
	for range r.IntN(5) {
		w.After(time.Duration(r.IntN(3000))*time.Millisecond, func() {
			err = errors.Join(err, a.Move(oa), b.Move(ob))
			a.Pump() // else what is unsent waits for nothing
			b.Pump()
		})
	}
	a.Pump()
	b.Pump()
	return boxes, finish(w, a, b, func() error { return err })
}

// errNoEnd is a connection that did not come to its end in the time it had.
var errNoEnd = errors.New("no end")

// finish runs until both ends are done or something is wrong.
func finish(w *tcptest.World, a, b *tcptest.End, wrong func() error) error {
	n, broken := 0, error(nil)
	failed := func() error {
		if n++; n%200 == 0 && broken == nil {
			broken = errors.Join(a.Promises(), b.Promises())
		}
		return errors.Join(a.Err, b.Err, broken, wrong())
	}
	if !w.Run(30*24*time.Hour, 1<<23, func() bool { return a.Done() && b.Done() || failed() != nil }) {
		return fmt.Errorf("%w: %s wrote %d of %d, read %d of %d; %s wrote %d of %d, read %d of %d", errNoEnd, a.Name, a.Wrote, len(a.Source), a.Read, len(a.Want),
			b.Name, b.Wrote, len(b.Source), b.Read, len(b.Want))
	}
	return failed()
}

func TestLawTwoEngines(t *testing.T) { law(t, lawRun) }
