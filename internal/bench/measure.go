package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// directions are the program's: it sends, or it receives.
var directions = []struct {
	name string
	ask  byte
}{{"send", askSend}, {"receive", askReceive}}

// bulk measures 1 and 8 connections in both directions.
func (b *bench) bulk(ctx context.Context) error {
	for _, n := range []int{1, 8} {
		for _, d := range directions {
			b.progress("bulk, connections: %d, the program's direction: %s", n, d.name)
			if err := b.bulkOf(ctx, n, d.name, d.ask); err != nil {
				return fmt.Errorf("%d connections, %s: %w", n, d.name, err)
			}
		}
	}
	return nil
}

func (b *bench) bulkOf(ctx context.Context, n int, direction string, ask byte) error {
	f, err := b.startFlood(n, ask)
	if err != nil {
		return err
	}
	defer f.stop()
	var kernel, device []rate
	for range b.Rounds {
		k, d, err := b.byTurns(ctx, n, f)
		if err != nil {
			return err
		}
		kernel, device = append(kernel, k), append(device, d)
	}
	b.report.Bulk = append(b.report.Bulk, newBulk(n, direction, kernel, device))
	return nil
}

// byTurns measures one round of kernel and device.
func (b *bench) byTurns(ctx context.Context, n int, f *flood) (kernel, device rate, err error) {
	if kernel, err = b.rate(ctx, f); err != nil {
		return kernel, device, err
	}
	if _, err = b.toDevice(ctx, n); err != nil {
		return kernel, device, err
	}
	if device, err = b.rate(ctx, f); err != nil {
		return kernel, device, err
	}
	_, err = b.toKernel(ctx, n)
	return kernel, device, err
}

// A rate is what one measurement of bulk traffic gave.
type rate struct {
	gbits   float64 // Gbit/s
	machine float64 // CPU seconds of the whole machine per 10^9 octets
	device  float64 // CPU seconds of the device per 10^9 octets
}

// sample is what is counted at one moment.
type sample struct {
	at              time.Time
	octets          int64
	machine, device float64 // CPU seconds
}

func (b *bench) sample(ctx context.Context, f *flood) (s sample, err error) {
	d, err := b.rig.Device(ctx)
	if err != nil {
		return s, err
	}
	if s.device, err = processCPU(d.PID); err != nil {
		return s, err
	}
	if s.machine, err = machineCPU(); err != nil {
		return s, err
	}
	s.at, s.octets = time.Now(), f.octets.Load()
	return s, nil
}

// rate lets the traffic settle and then measures it for a window, or a few of
// them where a busy machine carries nothing in one.
func (b *bench) rate(ctx context.Context, f *flood) (rate, error) {
	if err := wait(ctx, min(settle, b.Window)); err != nil {
		return rate{}, err
	}
	before, err := b.sample(ctx, f)
	if err != nil {
		return rate{}, err
	}
	after := before
	for after.octets == before.octets && after.at.Sub(before.at) < b.Window+answerTimeout {
		if err := wait(ctx, b.Window); err != nil {
			return rate{}, err
		}
		if after, err = b.sample(ctx, f); err != nil {
			return rate{}, err
		}
	}
	gigas := float64(after.octets-before.octets) / 1e9
	if gigas == 0 {
		return rate{}, fmt.Errorf("nothing was carried in %s", after.at.Sub(before.at))
	}
	return rate{
		gbits:   8 * gigas / after.at.Sub(before.at).Seconds(),
		machine: (after.machine - before.machine) / gigas,
		device:  (after.device - before.device) / gigas,
	}, nil
}

// requests measures the latency of small requests over one connection.
func (b *bench) requests(ctx context.Context) error {
	b.progress("request and response of %d octets", requestSize)
	c, err := b.newCaller()
	if err != nil {
		return err
	}
	defer c.close()
	var kernel, device []latency
	for range b.Rounds {
		took, err := c.calls(b.Window)
		if err != nil {
			return err
		}
		kernel = append(kernel, newLatency(took))
		if _, err := b.toDevice(ctx, 1); err != nil {
			return err
		}
		if took, err = c.calls(b.Window); err != nil {
			return err
		}
		device = append(device, newLatency(took))
		if _, err := b.toKernel(ctx, 1); err != nil {
			return err
		}
	}
	b.report.Request = &Request{medianLatency(kernel), medianLatency(device)}
	return nil
}

// moveTimes is how often one connection goes to the device and home, unless
// options say otherwise.
const moveTimes = 100

// moves measures the moves of one connection, idle and in bulk.
func (b *bench) moves(ctx context.Context) error {
	c, err := b.ask(askIdle)
	if err != nil {
		return err
	}
	err = b.movesOf(ctx, "idle", 0)
	c.Close()
	if err != nil {
		return err
	}
	for _, d := range directions {
		f, err := b.startFlood(1, d.ask)
		if err != nil {
			return err
		}
		err = b.movesOf(ctx, "bulk "+d.name, 10*time.Millisecond)
		f.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// movesOf moves the only connection back and forth, with pauses between.
func (b *bench) movesOf(ctx context.Context, load string, pause time.Duration) error {
	b.progress("moves of one connection, %s", load)
	var off, up moveSet
	if err := wait(ctx, settle); err != nil {
		return err
	}
	for range b.Moves {
		r, err := b.toDevice(ctx, 1)
		if err != nil {
			return err
		}
		off.add(r)
		if err := wait(ctx, pause); err != nil {
			return err
		}
		if r, err = b.toKernel(ctx, 1); err != nil {
			return err
		}
		up.add(r)
		if err := wait(ctx, pause); err != nil {
			return err
		}
	}
	b.report.Moves = append(b.report.Moves, Moves{Load: load, Offload: off.quantiles(), Upload: up.quantiles()})
	return nil
}

// A moveSet collects what moves took.
type moveSet struct{ took, stall []int64 }

func (s *moveSet) add(r driver.Result) {
	for _, m := range r.Moved {
		s.took, s.stall = append(s.took, m.Took), append(s.stall, m.Stall)
	}
}

func (s *moveSet) quantiles() Move {
	return Move{len(s.took), quantilesOf(s.took), quantilesOf(s.stall)}
}

// batch moves many idle connections at once.
func (b *bench) batch(ctx context.Context) error {
	b.progress("moves of %d connections at once", b.Batch)
	var conns []io.Closer
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range b.Batch {
		c, err := b.ask(askIdle)
		if err != nil {
			return err
		}
		c.(*net.TCPConn).SetKeepAlive(false)
		conns = append(conns, c)
	}
	var off, up []float64
	for range b.Rounds {
		r, err := b.toDevice(ctx, b.Batch)
		if err != nil {
			return err
		}
		off = append(off, float64(r.Wall)/float64(b.Batch))
		if r, err = b.toKernel(ctx, b.Batch); err != nil {
			return err
		}
		up = append(up, float64(r.Wall)/float64(b.Batch))
	}
	b.report.Batch = &Batch{b.Batch, rig.Quantile(off, 0.5), rig.Quantile(up, 0.5)}
	return nil
}
