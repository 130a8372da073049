// Package demo shows the whole system at work in a network of its own:
// connections of programs that know nothing of it move to the device and back
// under traffic, the device is killed, and every octet is checked.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"toehold/internal/rig"
	"toehold/internal/testnet"
)

// Options say how to run the demo.
type Options struct {
	JSON    bool      // print one object at the end, and nothing else
	Seconds int       // of traffic; 0: 10
	Out     io.Writer // nil: standard output
	Program string    // the toehold binary; empty: this process's own
}

// How a demo ends, other than well.
var (
	ErrLost        = errors.New("the demo failed") // the report says why
	ErrInterrupted = errors.New("interrupted; everything is removed")
)

const (
	defaultSeconds = 10
	minRounds      = 6 // one of them loses the device instead of uploading
	killRound      = 3 // counted from 1
	threads        = 16
	// settleTimeout bounds every wait for all connections to be where they
	// should be, or to carry something.
	settleTimeout = 15 * time.Second
)

// A run is one run of the demo.
type run struct {
	options Options
	out     io.Writer
	begin   time.Time
	rig     *rig.Rig
	folder  string
	servers []*rig.Program
	crew    crew
	report  report
}

// Run runs the demo. It returns nil when every connection moved to the device
// and back at least five times, survived the device's death, and not one
// octet was lost, doubled or reordered. It leaves nothing behind, also when
// the context ends it.
func Run(ctx context.Context, o Options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the demo makes network namespaces and needs root: run it with sudo")
	}
	if o.Seconds <= 0 {
		o.Seconds = defaultSeconds
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	// More threads than processors: a request then waits for the system's
	// scheduler, which favours it over the bulk, and not for Go's.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(threads))
	d := &run{options: o, out: o.Out, begin: time.Now()}
	if o.JSON {
		d.out = io.Discard
	}
	err = d.all(ctx)
	if err != nil && d.rig != nil {
		err = fmt.Errorf("%w\nthe daemon logged: %s", err, d.rig.Log())
	}
	left := d.clean()
	switch {
	case ctx.Err() != nil && left == nil:
		return ErrInterrupted
	case ctx.Err() != nil:
		return left
	}
	d.report.finish(errors.Join(err, left))
	d.report.print(o.Out, o.JSON)
	if !d.report.OK {
		return ErrLost
	}
	return nil
}

// all runs the demo's acts; the first that fails ends it.
func (d *run) all(ctx context.Context) error {
	for _, act := range []func(context.Context) error{d.build, d.connect, d.compare, d.finish} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// say prints what happens as it happens.
func (d *run) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%6.2f s  %s\n", time.Since(d.begin).Seconds(), fmt.Sprintf(format, args...))
}

// build makes the network and starts daemon and servers.
func (d *run) build(ctx context.Context) (err error) {
	if d.folder, err = os.MkdirTemp("", "toehold-demo-"); err != nil {
		return err
	}
	d.rig, err = rig.Start(ctx, rig.Options{Name: "demo", Program: d.options.Program})
	if err != nil {
		return err
	}
	n := d.rig.Net
	d.say("two namespaces: host %v %v, peer %v %v, joined by a veth", n.HostIP4, n.HostIP6, n.PeerIP4, n.PeerIP6)
	if err := d.showDevice(ctx); err != nil {
		return err
	}
	server, err := startServer(ctx, n, d.folder)
	if d.keep(server); err != nil {
		return err
	}
	d.addWorkers(n)
	return d.addPrograms(ctx, n)
}

func (d *run) showDevice(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	pid, err := d.rig.AwaitDevice(ctx, 0)
	if err == nil {
		d.say("daemon on %s, device process %d", d.rig.Net.HostIf, pid)
	}
	return err
}

// The workers of the demo's own server, for each of IPv4 and IPv6.
var hands = []struct {
	kind  string
	count int
}{{"download", 4}, {"upload", 3}, {"request", 4}}

func (d *run) addWorkers(n *testnet.Net) {
	for _, h := range hands {
		for range h.count {
			d.addPair(n, h.kind, serverPort, httpTransfers[h.kind])
		}
	}
}

// addPair adds a worker over IPv4 and one over IPv6.
func (d *run) addPair(n *testnet.Net, kind string, port uint16, transfer func(w *worker) (int64, error)) {
	for network, host := range map[string]netip.Addr{"tcp4": n.HostIP4, "tcp6": n.HostIP6} {
		seed := uint64(len(d.crew.workers)+1) << 32
		d.crew.workers = append(d.crew.workers,
			&worker{kind: kind, network: network, server: at(host, port), seed: seed, ns: n.Peer, transfer: transfer})
	}
}

// addPrograms adds nginx and redis where they are installed.
func (d *run) addPrograms(ctx context.Context, n *testnet.Net) error {
	if path, err := exec.LookPath("nginx"); err == nil {
		p, digest, err := startNginx(ctx, n, d.folder, path)
		if d.keep(p); err != nil {
			return err
		}
		d.addPair(n, "nginx", nginxPort, fromNginx(digest))
	}
	if path, err := exec.LookPath("redis-server"); err == nil {
		p, err := startRedis(ctx, n, d.folder, path)
		if d.keep(p); err != nil {
			return err
		}
		d.addPair(n, "redis", redisPort, setAndGet)
	}
	return nil
}

// keep notes a server, if it was started, to be stopped in the end.
func (d *run) keep(p *rig.Program) {
	if p != nil {
		d.servers = append(d.servers, p)
	}
}

// connect starts the traffic and waits until every connection has some.
func (d *run) connect(ctx context.Context) error {
	var names []string
	for _, p := range d.servers {
		names = append(names, fmt.Sprintf("%s (process %d)", p.Name, p.PID()))
	}
	d.say("servers that know nothing of toehold: %s", strings.Join(names, ", "))
	d.crew.start(ctx)
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := d.crew.awaitProgress(ctx); err != nil {
		return err
	}
	d.report.Connections = len(d.crew.workers)
	d.say("%d connections: %s", len(d.crew.workers), kinds(d.crew.workers))
	return nil
}

// kinds counts workers by what they do.
func kinds(workers []*worker) string {
	var names []string
	count := map[string]int{}
	for _, w := range workers {
		if count[w.kind]++; count[w.kind] == 1 {
			names = append(names, w.kind)
		}
	}
	for i, name := range names {
		names[i] = fmt.Sprintf("%d %s", count[name], name)
	}
	return strings.Join(names, ", ") + "; half IPv4, half IPv6"
}

// finish ends the traffic and counts.
func (d *run) finish(context.Context) error {
	failed := d.crew.finish()
	d.crew.stop = nil
	for _, w := range d.crew.workers {
		d.report.Bytes += w.octets.Load()
		d.report.Transfers += w.transfers.Load()
	}
	d.report.Lost = len(failed)
	return errors.Join(failed...)
}

// clean ends whatever still runs and removes what was made.
func (d *run) clean() error {
	if d.crew.stop != nil {
		d.crew.finish()
	}
	var errs []error
	for _, p := range d.servers {
		errs = append(errs, p.Stop())
	}
	if d.rig != nil {
		errs = append(errs, d.rig.Close())
	}
	if d.folder != "" {
		errs = append(errs, os.RemoveAll(d.folder))
	}
	return errors.Join(errs...)
}
