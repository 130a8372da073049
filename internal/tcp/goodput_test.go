package tcp_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"toehold/internal/tcp"
	"toehold/internal/tcptest"
)

// A reach is a distance with the line that is measured over it, and for how
// long: at 20 to 100 Mbit/s long enough for some periods of Reno's saw where
// nothing but its own queue drops.
type reach struct {
	rtt  time.Duration
	rate float64 // octets a second
	warm time.Duration
	span time.Duration
}

var reaches = []reach{
	{1 * time.Millisecond, 12.5e6, 1 * time.Second, 5 * time.Second},
	{10 * time.Millisecond, 12.5e6, 2 * time.Second, 8 * time.Second},
	{50 * time.Millisecond, 6.25e6, 5 * time.Second, 15 * time.Second},
	{200 * time.Millisecond, 2.5e6, 20 * time.Second, 40 * time.Second},
}

// bdp is the octets that fill the path.
func (r reach) bdp() float64 { return r.rate * r.rtt.Seconds() }

// A harm is what the path does to segments besides its queue.
type harm struct {
	name string
	path tcptest.Path
}

var harms = []harm{
	{"none", tcptest.Path{}},
	{"0.1 %", tcptest.Path{Loss: 0.001}},
	{"1 %", tcptest.Path{Loss: 0.01}},
	{"5 %", tcptest.Path{Loss: 0.05}},
	{"20 %", tcptest.Path{Loss: 0.2}},
	{"1 % in bursts", tcptest.Path{Burst: tcptest.Burst{Start: 0.002, End: 0.1, Loss: 0.5}}},
}

var buffers = []float64{0.25, 1, 4} // BDP

// marks is the threshold of the line's marks that a congestion control wants, 0
// for those without ECN: for DCTCP a sixth of the BDP, as its authors ask for
// more than a seventh (Alizadeh and others, 2010, section 3.4), and two
// segments at least.
func marks(cc string, bdp float64) int {
	if cc != "dctcp" {
		return 0
	}
	return max(int(bdp/6), 2*1514)
}

// A bulk is a connection whose a sends to b for ever.
type bulk struct{ a, b *tcptest.End }

// newBulk starts one. Neither the program nor the windows are in its way, as
// long as no more than backlog octets are on theirs.
func newBulk(w *tcptest.World, cc string, there, back tcptest.Path, backlog uint32) (bulk, error) {
	f := bulk{w.NewEnd("a", table, nil), w.NewEnd("b", nil, table)}
	f.a.Endless, f.b.Endless, f.b.Stay, f.a.Backlog = true, true, true, backlog
	f.b.Source = nil
	f.b.Lazy = true
	tcptest.Join(w, f.a.Box, f.b.Box, there, back)
	sa, sb := tcptest.Shape{MSS: 1448, SACK: true, TS: true, ECN: marks(cc, 0) > 0, ShiftA: 9, ShiftB: 9, WindowA: 65535, WindowB: 65535}.Snapshots(w.Now)
	if err := f.a.Restore(w.Now, sa, tcp.Options{CC: cc}); err != nil {
		return f, err
	}
	return f, f.b.Restore(w.Now, sb, tcp.Options{CC: cc, RcvBuf: backlog, MaxOOO: 1 << 28})
}

// goodput is the share of the line that a connection has made of it.
func goodput(w *tcptest.World, cc string, r reach, h harm, buffer float64) (float64, error) {
	there := h.path
	there.Delay, there.Rate, there.Queue = r.rtt/2, r.rate, int(buffer*r.bdp())
	there.Mark = marks(cc, r.bdp())
	f, err := newBulk(w, cc, there, tcptest.Path{Delay: r.rtt / 2}, uint32(2*(1+buffer)*r.bdp())+1<<20)
	if err != nil {
		return 0, err
	}
	f.a.Pump()
	w.RunUntil(w.Now.Add(r.warm))
	before := f.b.Read
	w.RunUntil(w.Now.Add(r.span))
	share := float64(f.b.Read-before) / r.span.Seconds() / r.rate
	f.a.Close()
	f.b.Close()
	return share, f.b.Err
}

// average is the mean over seeds; without chance one is enough.
func average(w *tcptest.World, cc string, r reach, h harm, buffer float64) (float64, error) {
	seeds := uint64(5)
	if h.path == (tcptest.Path{}) {
		seeds = 1
	}
	sum := 0.0
	for seed := range seeds {
		w.Reset(seed)
		share, err := goodput(w, cc, r, h, buffer)
		if err != nil {
			return 0, fmt.Errorf("seed %d: %w", seed, err)
		}
		sum += share
	}
	return sum / float64(seeds), nil
}

// spread does n things on all processors, each of which has a world.
func spread(n int, do func(w *tcptest.World, i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			w := tcptest.NewWorld(0)
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(w, i)
			}
		})
	}
	all.Wait()
}

// TestGoodput compares with testdata/goodput.txt; -rewrite writes it.
func TestGoodput(t *testing.T) {
	perControl := len(harms) * len(buffers) * len(reaches)
	shares := make([]float64, len(controls)*perControl)
	spread(len(shares), func(w *tcptest.World, i int) {
		cc, h := controls[i/perControl], harms[i%perControl/len(buffers)/len(reaches)]
		buffer, r := buffers[i/len(reaches)%len(buffers)], reaches[i%len(reaches)]
		share, err := average(w, cc, r, h, buffer)
		if err != nil {
			t.Errorf("%s, loss %s, %v, %g BDP: %v", cc, h.name, r.rtt, buffer, err)
		}
		if most := 1448.0 / 1514 * (1 - h.path.Loss); share > most*1.02 {
			t.Errorf("%s, loss %s, %v, %g BDP: %.3f of the line is more than there is", cc, h.name, r.rtt, buffer, share)
		}
		shares[i] = share
	})
	var text strings.Builder
	text.WriteString("# Octets that one connection delivers, in percent of the line's.\n")
	for i, cc := range controls {
		goodputTable(&text, cc, shares[i*perControl:][:perControl])
	}
	golden(t, "testdata/goodput.txt", text.String())
}

// goodputTable writes the table of one congestion control.
func goodputTable(text *strings.Builder, cc string, shares []float64) {
	fmt.Fprintf(text, "\n%-16s", cc)
	for _, b := range buffers {
		fmt.Fprintf(text, "| queue %4g BDP             ", b)
	}
	fmt.Fprintf(text, "\n%-16s", "")
	for range buffers {
		text.WriteString("|")
		for _, r := range reaches {
			fmt.Fprintf(text, "%6s", strings.ReplaceAll(r.rtt.String(), "ms", " ms"))
		}
		text.WriteString(" ")
	}
	for i, share := range shares {
		if i%(len(buffers)*len(reaches)) == 0 {
			fmt.Fprintf(text, "\n%-16s", harms[i/len(buffers)/len(reaches)].name)
		}
		if i%len(reaches) == 0 {
			text.WriteString("|")
		}
		fmt.Fprintf(text, "%6.2f", 100*share)
		if i%len(reaches) == len(reaches)-1 {
			text.WriteString(" ")
		}
	}
	text.WriteString("\n")
}
