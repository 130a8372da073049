package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"time"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// requestSizes are those of answers, in octets, and of the echo's requests.
var requestSizes = []int{64, 1 << 10, 16 << 10}

// requestConns are how many connections the requests come over.
var requestConns = []int{1, 64}

// share is how much of what the slowest place can do all are asked for.
const share = 0.6

// A requestCell is what one row of the table is about.
type requestCell struct {
	*subject
	octets, conns int
}

func (c requestCell) String() string {
	return fmt.Sprintf("%s, %d octets, connections: %d", c.name, c.octets, c.conns)
}

// requestCells are those of a program that match.
func requestCells(s *subject, match *regexp.Regexp) (all []requestCell) {
	for _, octets := range requestSizes {
		for _, conns := range requestConns {
			if c := (requestCell{s, octets, conns}); match.MatchString(c.String()) {
				all = append(all, c)
			}
		}
	}
	return all
}

// A hostBench measures what requests cost the host's processor.
type hostBench struct {
	*bench
	cores
	match  *regexp.Regexp
	spare  *spare
	folder string
}

// hostCPU measures requests in a network of their own, in which the program has
// a processor to itself with the soft interrupts of its namespace; driver,
// device and the peer share the other.
func (b *bench) hostCPU(ctx context.Context) (err error) {
	h := &hostBench{bench: &bench{Options: b.Options}}
	b.report.CPU = &CPU{}
	h.report.CPU = b.report.CPU
	h.match = regexp.MustCompile(b.CPUMatch) // checked with the options
	if !slices.ContainsFunc(subjects, func(s subject) bool { return len(requestCells(&s, h.match)) > 0 }) {
		return fmt.Errorf("no requests match %q", b.CPUMatch)
	}
	if h.cores, err = twoCores(); err != nil {
		return err
	}
	if h.folder, err = os.MkdirTemp("", "toehold-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(h.folder)) }()
	undo, err := pinProcess(h.other)
	if err != nil {
		return fmt.Errorf("pin to processor %d: %w", h.other, err)
	}
	err = h.all(ctx)
	if err != nil && ctx.Err() == nil && h.rig != nil {
		err = fmt.Errorf("%w\nthe daemon logged: %s", err, h.rig.Log())
	}
	return errors.Join(err, h.clean(), undo())
}

func (h *hostBench) clean() error {
	if h.spare == nil {
		return h.bench.clean()
	}
	return errors.Join(h.spare.stop(), h.bench.clean())
}

func (h *hostBench) all(ctx context.Context) (err error) {
	h.rig, err = rig.Start(ctx, rig.Options{Name: "cpu", Program: h.Program, Daemon: []string{"--stale-after", staleAfter}})
	if err != nil {
		return err
	}
	if h.spare, err = startSpare(ctx, h.rig.Net.Host, h.host); err != nil {
		return err
	}
	if err := h.steer(ctx); err != nil {
		return err
	}
	stolen, begin := stolenTime(h.host), time.Now()
	for i := range subjects {
		if err := h.subject(ctx, &subjects[i]); err != nil {
			return fmt.Errorf("%s: %w", subjects[i].name, err)
		}
	}
	h.report.CPU.Stolen = (stolenTime(h.host) - stolen) / time.Since(begin).Seconds()
	return nil
}

// steer has the peer's soft interrupts on the other processor, and those of
// what the device hands to the host on the host's. The uplink's own change
// with the place.
func (h *hostBench) steer(ctx context.Context) error {
	d, err := h.rig.Device(ctx)
	if err != nil {
		return err
	}
	return errors.Join(steer(h.rig.Net.Peer, h.rig.Net.PeerIf, h.other), steer(h.rig.Net.Host, d.HostPort, h.host))
}

// steerUplink has the host's processor take what comes from the wire, while it
// is the kernel's. What comes for the device is the device's to take: it stays
// on the processor that the wire is on.
func (h *hostBench) steerUplink(place string) error {
	cpu := -1
	if place == driver.InKernel {
		cpu = h.host
	}
	return steer(h.rig.Net.Host, h.rig.Net.HostIf, cpu)
}

// subject measures the cells of one program, which runs only meanwhile.
func (h *hostBench) subject(ctx context.Context, s *subject) error {
	cells := requestCells(s, h.match)
	if len(cells) == 0 {
		return nil
	}
	if _, err := s.path(); err != nil {
		h.report.CPU.Missing = append(h.report.CPU.Missing, err.Error())
		return nil
	}
	address := netip.AddrPortFrom(h.rig.Net.HostIP4, s.port).String()
	p, err := s.start(ctx, h.rig, h.folder, address, h.host)
	if p != nil {
		defer p.Stop()
	}
	for _, c := range cells {
		if err != nil {
			return err
		}
		h.progress("host CPU of requests: %v", c)
		err = h.cell(ctx, c, address)
	}
	return err
}

func (h *hostBench) cell(ctx context.Context, c requestCell, address string) error {
	x, err := h.prepare(c, address)
	if err != nil {
		return fmt.Errorf("%v: %w", c, err)
	}
	l, err := newLoad(h.rig.Net.Peer, address, c.conns, x)
	if err != nil {
		return err
	}
	defer l.close()
	m := &costs{hostBench: h, load: l, each: map[string][]cost{}, refused: map[string]string{}}
	if err := m.measure(ctx); err != nil {
		return fmt.Errorf("%v: %w", c, err)
	}
	h.report.CPU.Requests = append(h.report.CPU.Requests, newCPURequests(c, m))
	return nil
}

func (h *hostBench) prepare(c requestCell, address string) (exchange, error) {
	conn, err := h.rig.Net.Peer.Dial("tcp", address)
	if err != nil {
		return exchange{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(answerTimeout))
	return c.exchange(conn, c.octets)
}

// costs are what the requests of one cell cost in each place.
type costs struct {
	*hostBench
	load       *load
	rate       float64 // of requests a second that all places are asked for
	background float64 // share of the processor that is busy without requests
	each       map[string][]cost
	refused    map[string]string
}

// A cost is that of a round, by request.
type cost struct {
	busy, device float64 // µs, of the host's processor and of the device's process
	perSecond    float64
	p50, p99     float64 // µs until the answer
}

func (m *costs) measure(ctx context.Context) error {
	if err := m.chooseRate(ctx); err != nil {
		return err
	}
	var err error
	if m.background, err = m.idleFor(ctx); err != nil {
		return err
	}
	for round := range m.Rounds {
		for i := range places {
			place := places[(round+i)%len(places)] // each begins a round in its turn
			if err := m.in(ctx, place, func() error { return m.round(ctx, place) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// in is the bench's, with the uplink as the place needs it. A place that was
// refused once is not tried again.
func (m *costs) in(ctx context.Context, place string, measure func() error) error {
	if m.refused[place] != "" {
		return nil
	}
	why, err := m.bench.in(ctx, len(m.load.callers), place, func() error {
		return errors.Join(m.steerUplink(place), measure())
	})
	if why != nil {
		m.refused[place] = why.Error()
	}
	return err
}

// chooseRate sees what each place can do.
func (m *costs) chooseRate(ctx context.Context) error {
	for _, place := range places {
		err := m.in(ctx, place, func() error {
			t, err := m.load.run(ctx, 0, m.Window/2)
			if rate := share * t.perSecond(); m.rate == 0 || rate < m.rate {
				m.rate = rate
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *costs) idleFor(ctx context.Context) (float64, error) {
	before, begin := m.spare.count(), time.Now()
	err := wait(ctx, m.Window/2)
	return 1 - float64(m.spare.count()-before)/float64(time.Since(begin)), err
}

// round makes requests at the rate of all and looks what was left of the
// processor from the first of them to the last answer.
func (m *costs) round(ctx context.Context, place string) error {
	if err := wait(ctx, min(settle, m.Window)); err != nil {
		return err
	}
	d, err := m.rig.Device(ctx)
	if err != nil {
		return err
	}
	device, err := processCPU(d.PID)
	if err != nil {
		return err
	}
	spare, begin := m.spare.count(), time.Now()
	t, err := m.load.run(ctx, m.rate, m.Window)
	if err != nil {
		return err
	}
	busy := time.Since(begin) - (m.spare.count() - spare)
	after, err := processCPU(d.PID)
	m.each[place] = append(m.each[place], cost{
		busy: busy.Seconds() * 1e6 / float64(t.answers), device: (after - device) * 1e6 / float64(t.answers),
		perSecond: t.perSecond(), p50: t.quantile(0.5), p99: t.quantile(0.99),
	})
	return err
}
