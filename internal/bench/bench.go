// Package bench measures connections on the device beside connections in the
// kernel, by turns, in one run and over the same veth.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// Options say what to measure.
type Options struct {
	JSON   bool
	Rounds int           // of kernel and device by turns, whose medians count; 0: 5
	Window time.Duration // of one measurement; 0: 1 s
	Only   []string      // of parts; empty: all but paths, cpu and attach
	Batch  int           // connections moved at once; 0: 1000
	Moves  int           // of one connection, each way; 0: 100
	Paths  PathOptions
	// CPUMatch is a regular expression that chooses requests whose CPU is
	// measured, by their description.
	CPUMatch string
	Out      io.Writer // nil: standard output
	// Progress is told what is being measured; nil: nobody.
	Progress io.Writer
	Program  string // the toehold binary; empty: this process's own
}

const (
	defaultRounds = 5
	defaultWindow = time.Second
	defaultBatch  = 1000
	settle        = 300 * time.Millisecond // after a move, before it is measured
	listenTimeout = 10 * time.Second
	moveDeadline  = 20 * time.Second
	closeTimeout  = 10 * time.Second
	// A device that other load keeps off the processors is to be measured,
	// not replaced.
	staleAfter = "5s"
)

// ErrInterrupted is that the context ended.
var ErrInterrupted = errors.New("interrupted; everything is removed")

type bench struct {
	Options
	rig     *rig.Rig
	address string // of the server
	server  *exec.Cmd
	ended   chan struct{}
	report  Report
	saying  sync.Mutex // that progress is told by one at a time
}

// Run measures and prints, also what it had measured when something failed, but
// not when the context ended. It needs root.
func Run(ctx context.Context, o Options) error {
	o.defaults()
	if os.Geteuid() != 0 {
		return errors.New("the benchmark makes network namespaces and needs root: run it with sudo")
	}
	if err := errors.Join(CheckParts(o.Only), o.Paths.check(), o.checkMatch()); err != nil {
		return err
	}
	b := &bench{Options: o}
	err := b.all(ctx)
	if ctx.Err() != nil {
		if err := b.clean(); err != nil {
			return err
		}
		return ErrInterrupted
	}
	if err != nil && b.rig != nil {
		err = fmt.Errorf("%w\nthe daemon logged: %s", err, b.rig.Log())
	}
	return errors.Join(err, b.clean(), b.report.print(o.Out, o.JSON))
}

func (o *Options) defaults() {
	if o.Rounds <= 0 {
		o.Rounds = defaultRounds
	}
	if o.Window <= 0 {
		o.Window = defaultWindow
	}
	if o.Batch <= 0 {
		o.Batch = defaultBatch
	}
	if o.Moves <= 0 {
		o.Moves = moveTimes
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	o.Paths.defaults()
}

// all makes the places to measure in and measures.
func (b *bench) all(ctx context.Context) error {
	b.report.CPUs = runtime.NumCPU()
	b.report.Kernel = kernelRelease()
	if err := b.ownNetworks(ctx); err != nil {
		return err
	}
	if !slices.ContainsFunc(parts, func(part string) bool { return b.wanted(part) && part != "paths" && part != "cpu" }) {
		return nil
	}
	if err := b.build(ctx, rig.Options{Name: "bench"}); err != nil {
		return err
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context) error
	}{{"bulk", b.bulk}, {"request", b.requests}, {"moves", b.moves}, {"batch", b.batch}, {"attach", b.attach}} {
		if !b.wanted(part.name) {
			continue
		}
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// ownNetworks measures the parts that make networks of their own.
func (b *bench) ownNetworks(ctx context.Context) error {
	if slices.Contains(b.Only, "paths") {
		if err := b.paths(ctx); err != nil {
			return fmt.Errorf("paths: %w", err)
		}
	}
	if slices.Contains(b.Only, "cpu") {
		if err := b.hostCPU(ctx); err != nil {
			return fmt.Errorf("cpu: %w", err)
		}
	}
	return nil
}

func (b *bench) wanted(part string) bool {
	if len(b.Only) == 0 {
		return part != "attach"
	}
	return slices.Contains(b.Only, part)
}

// parts are what Only may name.
var parts = []string{"bulk", "request", "moves", "batch", "paths", "cpu", "attach"}

// CheckParts refuses a part that there is not.
func CheckParts(names []string) error {
	for _, name := range names {
		if !slices.Contains(parts, name) {
			return fmt.Errorf("there is no %q to measure, only %s", name, strings.Join(parts, ", "))
		}
	}
	return nil
}

func (o *Options) checkMatch() error {
	_, err := regexp.Compile(o.CPUMatch)
	return err
}

const port = 7000

// build starts a rig and the server in it.
func (b *bench) build(ctx context.Context, o rig.Options) (err error) {
	o.Program, o.Daemon = b.Program, []string{"--stale-after", staleAfter}
	if b.rig, err = rig.Start(ctx, o); err != nil {
		return err
	}
	b.address = netip.AddrPortFrom(b.rig.Net.HostIP4, port).String()
	b.server = rig.Command(b.rig.Net.Host, "/proc/self/exe", serverName, b.address)
	b.server.Stderr = os.Stderr
	if err := rig.Run(b.server); err != nil {
		return err
	}
	b.ended = make(chan struct{})
	go func() { b.server.Wait(); close(b.ended) }()
	return b.awaitServer(ctx)
}

func kernelRelease() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(release))
}

func (b *bench) awaitServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	for {
		c, err := b.ask(askIdle)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server does not listen: %w", err)
		case <-b.ended:
			return fmt.Errorf("the server ended: %s", b.server.ProcessState)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (b *bench) clean() error {
	var errs []error
	if b.ended != nil {
		errs = append(errs, rig.Stop(b.server.Process, b.ended))
	}
	if b.rig != nil {
		errs = append(errs, b.rig.Close())
	}
	return errors.Join(errs...)
}

func (b *bench) progress(format string, args ...any) {
	b.saying.Lock()
	defer b.saying.Unlock()
	fmt.Fprintf(b.Progress, format+"\n", args...)
}

// toDevice moves n connections, every one there is, to the device. Those of
// the measurement before may still be closing, and would move with them.
func (b *bench) toDevice(ctx context.Context, n int) (driver.Result, error) {
	if err := b.alone(ctx, n); err != nil {
		return driver.Result{}, err
	}
	return expect(ctx, n, b.rig.Offload)
}

// alone waits until there are n connections.
func (b *bench) alone(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	for {
		all, err := b.rig.Control.List(ctx, rig.All)
		if err == nil && len(all) == n {
			return nil
		}
		if wait(ctx, 5*time.Millisecond) != nil {
			return fmt.Errorf("%d connections instead of %d: %w", len(all), n, errors.Join(err, ctx.Err()))
		}
	}
}

// toKernel brings n connections home.
func (b *bench) toKernel(ctx context.Context, n int) (driver.Result, error) {
	return expect(ctx, n, b.rig.Upload)
}

func expect(ctx context.Context, n int, move func(context.Context, driver.Selector) (driver.Result, error)) (driver.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, moveDeadline)
	defer cancel()
	r, err := move(ctx, rig.All)
	if err == nil && len(r.Moved) != n {
		err = fmt.Errorf("%d of %d connections moved", len(r.Moved), n)
		if len(r.Refused) > 0 {
			err = fmt.Errorf("%w: %s: %s", err, r.Refused[0].Reason, r.Refused[0].Detail)
		}
	}
	return r, err
}

// wait lets time pass, or the context end.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
