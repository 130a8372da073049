// Package driver decides about connections and moves them: it alone touches
// kernel sockets and BPF, supervises the device processes, and serves the
// API. Each uplink has a loop of its own that owns its tables; requests are
// sent to it.
package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/kernel"
	"toehold/internal/mono"
	"toehold/internal/policy"
)

// A Config is how a Driver works.
type Config struct {
	Uplinks        []string
	MaxConnections int                  // of each device
	Memory         int64                // octets of buffers of each device
	Capability     admission.Capability // of each device
	RefuseWhen     admission.Thresholds // for what connections of the policy are refused
	Limits         admission.Limits     // other ones of each device's connections
	StaleAfter     time.Duration        // age of a heartbeat at which a device counts as hung
	Executable     string               // that has the command "device"; "": this one
	Controls       Controls             // congestion controls other than the sockets' own
	Returns        abi.Returns          // when devices give connections back by themselves
	Policy         *policy.Policy       // nil: connections move when an operator moves them
	ForbidOption   bool                 // programs may not set TOEHOLD_OFFLOAD
	DeviceUser     User                 // of the device processes
	LogLevel       slog.Level           // of the device processes
	Log            *slog.Logger
}

// A Driver serves the network namespace that it was started in: it must be
// that of every thread of the process.
type Driver struct {
	cfg      Config
	log      *slog.Logger
	journal  *Journal
	uplinks  []*uplink
	heirs    *heirs
	surgeon  *surgeon
	seats    *seats
	ledger   ledger
	policing *policing

	mu     sync.Mutex // of what follows; held for look-ups only
	routes routes

	stop    context.CancelFunc
	strayed chan struct{} // a socket's mark or interface has changed, so perhaps its route
	watched chan struct{} // closed when the watching has ended
}

// Privileged says whether this process may start a Driver at all.
func Privileged() error {
	if os.Geteuid() != 0 {
		return errors.New("the daemon needs root: it loads BPF programs and opens packet sockets")
	}
	return nil
}

// Start claims the uplinks, starts their devices and returns when all serve.
// An error that wraps a *bpf.MissingFeature names what the kernel lacks.
func Start(ctx context.Context, c Config) (*Driver, error) {
	if err := Privileged(); err != nil {
		return nil, err
	}
	if c.Executable == "" {
		c.Executable = "/proc/self/exe"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	d := &Driver{cfg: c, log: c.Log, journal: NewJournal(time.Now), heirs: newHeirs(), strayed: make(chan struct{}, 1), watched: make(chan struct{})}
	d.policing = newPolicing(d)
	d.seats = newSeats(&d.cfg)
	go d.seats.heed(d)
	watching, stop := context.WithCancel(context.Background())
	d.stop = stop
	go d.heirs.run(c.Log)
	d.surgeon = newSurgeon(c.Log)
	changes, err := kernel.Watch(watching)
	if err != nil {
		stop()
		d.seats.close()
		d.heirs.end()
		d.surgeon.end()
		return nil, fmt.Errorf("watch the network: %w", err)
	}
	for _, name := range c.Uplinks {
		if err := d.add(ctx, name); err != nil {
			go d.watch(watching, changes)
			d.Close(ended)
			return nil, err
		}
	}
	go d.watch(watching, changes)
	if c.Policy != nil {
		d.policing.apply(c.Policy)
	}
	d.policing.start()
	return d, nil
}

// ended is a context that leaves no time.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// add starts one uplink and waits until its device serves.
func (d *Driver) add(ctx context.Context, name string) error {
	u := newUplink(name, &d.cfg, d.journal, d.heirs)
	u.strayed, u.revived = d.strayed, d.policing.revive
	u.seats, u.slot, u.surgeon = d.seats, len(d.uplinks), d.surgeon
	u.generations = abi.Generations{First: uint32(len(d.uplinks)) + 1, Step: uint32(len(d.cfg.Uplinks))}
	if err := u.open(); err != nil {
		return err
	}
	d.uplinks = append(d.uplinks, u)
	served := make(chan error, 1)
	u.waiting = append(u.waiting, served)
	go u.run()
	u.call(func() { u.startDevice(mono.Now()) })
	select {
	case err := <-served:
		if err != nil {
			return fmt.Errorf("device of uplink %s: %w", name, err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close sends every connection home, ends the devices and lets go of
// everything. When ctx ends it does so at once, which loses nothing either:
// the kernel's sockets have it all.
func (d *Driver) Close(ctx context.Context) error {
	d.policing.stop()
	var all sync.WaitGroup
	for _, u := range d.uplinks {
		all.Go(func() { u.stop(ctx) })
	}
	all.Wait()
	d.seats.close()
	d.surgeon.end()
	d.heirs.end()
	d.stop()
	<-d.watched
	return nil
}

// byIndex finds the uplink whose interface has this index.
func (d *Driver) byIndex(ifindex int) *uplink {
	for _, u := range d.uplinks {
		if int(u.index.Load()) == ifindex {
			return u
		}
	}
	return nil
}

func (d *Driver) routeTo(id flow.ID, w way) (kernel.Route, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.routes.to(id, w)
}

// probe reads the kernel's state of flows with the programs of any uplink
// that has its own: they are the same.
func (d *Driver) probe(keys []flow.Key) ([]abi.KernelState, error) {
	out := make([]abi.KernelState, len(keys))
	err := errNoInterface
	for _, u := range d.uplinks {
		if u.call(func() { err = u.Probe(keys, out) }) && err == nil {
			return out, nil
		}
	}
	return nil, err
}

// OffloadFlows moves connections to their devices. It returns when each is owned
// or has been refused and, in that case, is the kernel's as before.
//
// The order is for speed: one probe of all, which says what exists and where
// it is bound; routes by remote address, out of a cache that lasts until
// something changes; then each device gets its share in messages of 256. The
// owners, which only a walk over all open files finds, are not needed.
func (d *Driver) OffloadFlows(ctx context.Context, ids []flow.ID, o Options) (Result, error) {
	if o.why == (cause{}) {
		o.why = asked
	}
	since := mono.Now()
	keys := make([]flow.Key, len(ids))
	for i, id := range ids {
		keys[i] = id.Key()
	}
	states, err := d.probe(keys)
	if errors.Is(err, errNoInterface) {
		return collect(ctx, since, d.refuseAll(ids, no(abi.UplinkGone, ""), o.why), nil)
	}
	if err != nil {
		return Result{}, fmt.Errorf("probe: %w", err)
	}
	var refused []Refusal
	cands := make(map[*uplink][]candidate, len(d.uplinks))
	seats := d.seats.of(keys)
	for i, id := range ids {
		r := d.rule(id, &states[i])
		if seats[i].Wish == abi.WishNever {
			r = no(abi.ProgramForbids, "")
		}
		if r.uplink != nil && o.device != "" && r.uplink.name != o.device {
			r = no(abi.NoUplink, "its route leaves by %s, and %s is wanted", r.uplink.name, o.device)
		}
		if r.uplink == nil {
			refused = append(refused, d.refuse(id, states[i].Inode, &r, o.why))
			continue
		}
		cands[r.uplink] = append(cands[r.uplink], candidate{
			Candidate: handover.Candidate{Flow: id, Path: r.path, Control: o.control, Bypass: o.Attachment == Bypass}, state: &states[i], claim: o.claimOf(id),
		})
	}
	var shares []share
	for u, some := range cands {
		s := share{uplink: u}
		u.call(func() { s.done = u.offload(since, o, some) })
		shares = append(shares, s)
	}
	return collect(ctx, since, refused, shares)
}

func (d *Driver) refuse(id flow.ID, inode uint64, r *ruling, why cause) Refusal {
	detail := why.with(r.detail)
	d.seats.write([]bpf.Order{{Flow: id.Key(), Set: bpf.SetReason, Reason: r.reason}})
	d.journal.AddMove(id, inode, Event{Kind: EventRefused, Reason: r.reason.String(), Detail: detail})
	return Refusal{Local: id.Local, Remote: id.Remote, Reason: r.reason.String(), Detail: detail}
}

// refuseAll refuses connections that nobody has looked at.
func (d *Driver) refuseAll(ids []flow.ID, r ruling, why cause) (all []Refusal) {
	for _, id := range ids {
		all = append(all, d.refuse(id, 0, &r, why))
	}
	return all
}

// UploadFlows moves connections home to the kernel, and returns when it has
// them and their congestion windows.
func (d *Driver) UploadFlows(ctx context.Context, ids []flow.ID) (Result, error) {
	return d.uploadFlows(ctx, ids, asked)
}

func (d *Driver) uploadFlows(ctx context.Context, ids []flow.ID, why cause) (Result, error) {
	since := mono.Now()
	var shares []share
	rest := ids
	for i, u := range d.uplinks {
		s := share{uplink: u}
		last := i == len(d.uplinks)-1
		u.call(func() {
			mine, others := rest, []flow.ID(nil)
			if !last { // what no uplink has, the last one refuses
				mine, others = u.split(rest)
			}
			if rest = others; len(mine) > 0 {
				s.done = u.upload(mine, why)
			}
		})
		if s.done != nil {
			shares = append(shares, s)
		}
	}
	r, err := collect(ctx, since, nil, shares)
	d.heirs.settle(ctx)
	return r, err
}

// split parts the flows that the uplink's table has from the others.
func (u *uplink) split(ids []flow.ID) (mine, others []flow.ID) {
	for _, id := range ids {
		if u.table.Find(id.Key()) != nil {
			mine = append(mine, id)
		} else {
			others = append(others, id)
		}
	}
	return mine, others
}

// RestartDevices replaces every device under live traffic: all connections go
// home, and stay there. It returns when the new ones serve.
func (d *Driver) RestartDevices(ctx context.Context) ([]Device, error) {
	for _, u := range d.uplinks {
		served := make(chan error, 1)
		u.call(func() { u.replace(served) })
		select {
		case err := <-served:
			if err != nil {
				return nil, err
			}
		case <-u.ended:
			return nil, fmt.Errorf("uplink %s has been stopped", u.name)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return d.Devices(ctx)
}

// Events calls emit for the events kept, and those to come while it follows.
func (d *Driver) Events(ctx context.Context, follow bool, emit func(Event) error) error {
	past, f := d.journal.Follow()
	defer f.Close()
	for _, e := range past {
		if err := emit(e); err != nil {
			return err
		}
	}
	for follow {
		select {
		case e, ok := <-f.C:
			if !ok {
				return nil
			}
			if err := emit(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}
