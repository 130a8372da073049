package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/control"
	"toehold/internal/driver"
	"toehold/internal/rig"
	"toehold/internal/testnet"
)

// PathOptions say how to measure over adverse paths.
type PathOptions struct {
	Rounds     int           // of kernel and device by turns, whose sums count, at least; 0: 3
	Error      float64       // more rounds until the ratio's standard error is no greater; 0: 0.03
	Most       int           // rounds; 0: 16
	Window     time.Duration // of one transfer; 0: 4 s
	AtOnce     int           // cells that are measured at the same time; 0: 10
	Congestion []string      // controls of both ends; empty: pathCongestion
	Match      string        // a regular expression that chooses cells by their description
	Blank      bool          // Linux in the device's place too
}

// pathCongestion are the congestion controls that the device has.
var pathCongestion = []string{"cubic", "reno", "bbr"}

const (
	defaultPathRounds  = 3
	defaultPathError   = 0.03
	defaultPathMost    = 16
	defaultPathWindow  = 4 * time.Second
	defaultPathsAtOnce = 10
)

func (o *PathOptions) defaults() {
	o.Rounds = cmp.Or(o.Rounds, defaultPathRounds)
	o.Error = cmp.Or(o.Error, defaultPathError)
	o.Most = max(cmp.Or(o.Most, defaultPathMost), o.Rounds)
	o.Window = cmp.Or(o.Window, defaultPathWindow)
	o.AtOnce = cmp.Or(o.AtOnce, defaultPathsAtOnce)
	if len(o.Congestion) == 0 {
		o.Congestion = pathCongestion
	}
}

// check says what is wrong with the options; defaults are filled in.
func (o *PathOptions) check() error {
	switch {
	case o.Rounds < 1 || o.Rounds > maxRounds:
		return fmt.Errorf("%d rounds over a path are not from 1 to %d", o.Rounds, maxRounds)
	case o.Most < 1 || o.Most > maxRounds:
		return fmt.Errorf("%d rounds over a path at most are not from 1 to %d", o.Most, maxRounds)
	case !(o.Error > 0):
		return fmt.Errorf("a standard error of %v is not above 0", o.Error)
	case o.Window < minWindow || o.Window > maxWindow:
		return fmt.Errorf("window %v of a path is not from %v to %v", o.Window, minWindow, maxWindow)
	case o.AtOnce < 1 || o.AtOnce > maxAtOnce:
		return fmt.Errorf("%d paths at once are not from 1 to %d", o.AtOnce, maxAtOnce)
	}
	_, err := regexp.Compile(o.Match)
	return err
}

// An adversePath is a path for both directions.
type adversePath struct {
	name string
	rtt  time.Duration
	testnet.Path
}

const (
	pathRate = 50_000_000 // bits a second: ten at once leave the processors half idle
)

// adversePaths are the rows of the table: round trip, queue and harm.
func adversePaths() (all []adversePath) {
	for _, rtt := range []time.Duration{20 * time.Millisecond, 80 * time.Millisecond} {
		product := int(pathRate / 8 * rtt / time.Second) // of rate and delay, octets
		add := func(name string, queue int, harm testnet.Path) {
			harm.Rate, harm.Delay, harm.Queue = pathRate, rtt/2, queue
			all = append(all, adversePath{name, rtt, harm})
		}
		for _, q := range []struct {
			name   string
			octets int
		}{{"1 BDP", product}, {"1/4 BDP", product / 4}} {
			add(q.name, q.octets, testnet.Path{})
			add(q.name+", loss 0.1 %", q.octets, testnet.Path{Loss: 0.001})
			add(q.name+", loss 1 %", q.octets, testnet.Path{Loss: 0.01})
			add(q.name+", loss 1 % in bursts of 5", q.octets, testnet.Path{Loss: 0.01, Burst: 5})
		}
		add("1 BDP, loss 3 %", product, testnet.Path{Loss: 0.03})
		add("1 BDP, 1 % late by RTT/4", product, testnet.Path{Late: 0.01, Behind: rtt / 4})
		add("1 BDP, 1 % doubled", product, testnet.Path{Double: 0.01})
	}
	return all
}

// A cell is what one figure of the table is about.
type cell struct {
	path       adversePath
	direction  int // of directions
	congestion string
}

func (c cell) String() string {
	return fmt.Sprintf("RTT %v, %s, %s, %s", c.path.rtt, c.path.name, c.congestion, directions[c.direction].name)
}

// cells are those that match.
func (o *PathOptions) cells() (all []cell) {
	match := regexp.MustCompile(o.Match)
	for _, congestion := range o.Congestion {
		for direction := range directions {
			for _, p := range adversePaths() {
				if c := (cell{p, direction, congestion}); match.MatchString(c.String()) {
					all = append(all, c)
				}
			}
		}
	}
	return all
}

// paths measures the cells, and how idle the processors are meanwhile.
func (b *bench) paths(ctx context.Context) error {
	all := b.Paths.cells()
	if len(all) == 0 {
		return fmt.Errorf("no path matches %q", b.Paths.Match)
	}
	begin := time.Now()
	before, err := machineCPU()
	if err != nil {
		return err
	}
	if err := b.cells(ctx, all); err != nil {
		return err
	}
	after, err := machineCPU()
	b.report.Idle = max(0, 1-(after-before)/time.Since(begin).Seconds()/float64(runtime.NumCPU()))
	return err
}

// cells measures cells, some at the same time, each in a network of its own.
func (b *bench) cells(ctx context.Context, cells []cell) error {
	workers := min(b.Paths.AtOnce, len(cells))
	// Every bridge is a thread that must not wait for its turn in this process.
	runtime.GOMAXPROCS(runtime.NumCPU() + 2*workers)
	b.report.Paths = make([]Path, len(cells))
	todo := make(chan int, len(cells))
	for i := range cells {
		todo <- i
	}
	close(todo)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			if err := b.cellsOf(ctx, cells, todo); err != nil {
				cancel(err) // the first counts, and ends the others
			}
		})
	}
	all.Wait()
	b.report.Paths = slices.DeleteFunc(b.report.Paths, func(p Path) bool { return p.Ratios == nil }) // not reached
	return context.Cause(ctx)
}

// cellsOf measures cells, as long as there are some to do, in one network.
func (b *bench) cellsOf(ctx context.Context, cells []cell, todo <-chan int) (err error) {
	w := &bench{Options: b.Options}
	defer func() {
		if err != nil && ctx.Err() == nil && w.rig != nil {
			err = fmt.Errorf("%w\nthe daemon logged: %s", err, w.rig.Log())
		}
		err = errors.Join(err, w.clean())
	}()
	if err := w.build(ctx, rig.Options{Name: "path", Bridged: true}); err != nil {
		return err
	}
	for i := range todo {
		b.progress("%d of %d: %v", i+1, len(cells), cells[i])
		if b.report.Paths[i], err = w.path(ctx, cells[i]); err != nil {
			return fmt.Errorf("%v: %w", cells[i], err)
		}
	}
	return nil
}

// path measures one cell, kernel and device by turns over the same fates of
// frames, until the ratio is known well enough. When that is does not depend on
// what the ratio is.
func (b *bench) path(ctx context.Context, c cell) (Path, error) {
	if err := b.rig.Net.SetCongestion(c.congestion); err != nil {
		return Path{}, err
	}
	var kernel, device []transfer
	for round := range b.Paths.Most {
		if round >= b.Paths.Rounds && standardError(kernel, device) <= b.Paths.Error {
			break
		}
		k, err := b.transfer(ctx, c, uint64(round), false)
		if err != nil {
			return Path{}, fmt.Errorf("in the kernel: %w", err)
		}
		d, err := b.transfer(ctx, c, uint64(round), !b.Paths.Blank)
		if err != nil {
			return Path{}, fmt.Errorf("on the device: %w", err)
		}
		kernel, device = append(kernel, k), append(device, d)
	}
	return newPath(c, kernel, device), nil
}

// A transfer is what one connection carried.
type transfer struct {
	mbits       float64 // a second
	retransmits int     // segments that the sender sent again
	lost        int     // frames of the data's direction that the path lost
}

// transfer carries data over a fresh connection for a while. Until it begins,
// and after its end, the path does no harm.
func (b *bench) transfer(ctx context.Context, c cell, seed uint64, onDevice bool) (t transfer, err error) {
	calm := c.path.Harmless()
	b.rig.Net.Bridge.Set(calm, calm, seed)
	conn, err := b.rig.Net.Peer.Dial("tcp", b.address)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, b.abort(ctx, c, conn)) }()
	if err := wait(ctx, c.path.rtt); err != nil { // the host still waits for the last of three segments
		return t, err
	}
	if onDevice {
		if err := b.offload(ctx, conn); err != nil {
			return t, err
		}
	}
	return b.carry(ctx, c, seed, conn)
}

// offload moves one connection to the device, as soon as the host knows it: the
// last segment of the handshake may be late on a busy machine.
func (b *bench) offload(ctx context.Context, conn net.Conn) error {
	move := func(ctx context.Context, _ driver.Selector) (driver.Result, error) {
		return b.rig.Offload(ctx, rig.Peer(rig.Address(conn.LocalAddr())))
	}
	for end := time.Now().Add(moveDeadline); ; {
		_, err := expect(ctx, 1, move)
		var unknown *control.Error
		if !errors.As(err, &unknown) || unknown.Kind != control.NoMatch || time.Now().After(end) {
			return err
		}
		if err := wait(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// carry lets one end send, and counts at the peer: what it has received in
// order, or what of its own was acknowledged. The harm begins while the
// question is under way.
func (b *bench) carry(ctx context.Context, c cell, seed uint64, conn net.Conn) (t transfer, err error) {
	ask, traffic := directions[c.direction].ask, drain
	if ask == askReceive {
		traffic = pump
	}
	if _, err := conn.Write([]byte{ask}); err != nil {
		return t, err
	}
	if err := wait(ctx, c.path.rtt/4); err != nil {
		return t, err
	}
	b.rig.Net.Bridge.Set(c.path.Path, c.path.Path, seed)
	begin := time.Now()
	go traffic(conn, new(atomic.Int64))
	if err := wait(ctx, b.Paths.Window); err != nil {
		return t, err
	}
	peer, err := tcpInfo(conn)
	took := time.Since(begin)
	if err != nil {
		return t, err
	}
	detail, err := b.rig.Control.Show(ctx, rig.Peer(rig.Address(conn.LocalAddr())))
	if err != nil {
		return t, err
	}
	toPeer, toHost := b.rig.Net.Bridge.Counts()
	octets := peer.Bytes_received
	t.retransmits, t.lost = int(detail.Retransmits), toPeer.Lost+toPeer.Overflowed
	if ask == askReceive {
		octets = peer.Bytes_acked
		t.retransmits, t.lost = int(peer.Total_retrans), toHost.Lost+toHost.Overflowed
	}
	if octets <= 1 { // the question itself
		return t, fmt.Errorf("nothing was carried in %v", took)
	}
	t.mbits = 8 * float64(octets) / 1e6 / took.Seconds()
	return t, nil
}

// abort ends a connection by a reset, and waits until that has reached the
// program.
func (b *bench) abort(ctx context.Context, c cell, conn net.Conn) error {
	calm := c.path.Harmless()
	b.rig.Net.Bridge.Set(calm, calm, 0)
	conn.(*net.TCPConn).SetLinger(0)
	if err := conn.Close(); err != nil {
		return err
	}
	return wait(ctx, 2*c.path.rtt+50*time.Millisecond)
}

// tcpInfo is the kernel's state of a connection.
func tcpInfo(c net.Conn) (i *unix.TCPInfo, err error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(fd uintptr) { i, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); e != nil {
		return nil, e
	}
	return i, err
}
