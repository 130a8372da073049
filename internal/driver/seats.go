package driver

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/policy"
)

// seats are what programs are told of their connections, and what they wish
// (bpf.Options). Moves work without: where the kernel has not the means, or the
// daemon not the right, programs are told what the kernel alone knows.
type seats struct {
	options *bpf.Options // nil: there are none
	log     *slog.Logger
	ended   chan struct{}  // closed when wishes are not heard any more
	moves   sync.WaitGroup // that programs asked for

	mu            sync.Mutex
	rules         *abi.PolicyTable // that new connections are judged by, nil: none
	resting, more bool             // the policy has just looked; and has been asked to again
}

// mostHeeded bounds the requests that are made for programs at a time; others
// wait, and a full queue of wishes gives EAGAIN to those who ask.
const mostHeeded = 4

func newSeats(c *Config) *seats {
	s := &seats{log: c.Log, ended: make(chan struct{})}
	options, err := bpf.LoadOptions(len(c.Uplinks), c.MaxConnections)
	if err == nil && c.ForbidOption {
		if err = options.Forbid(true); err != nil {
			err = errors.Join(err, options.Close()) // else programs could ask, and nobody would hear
		}
	}
	if err != nil {
		c.Log.Warn("programs are not told by TCP_INFO and TOEHOLD_OFFLOAD of their connections", "err", err)
		close(s.ended)
		return s
	}
	s.options = options
	return s
}

// table gives the block table of a device, before it has any connection.
func (s *seats) table(slot int, set *bpf.Set) {
	if s == nil || s.options == nil {
		return
	}
	if err := s.options.SetTable(slot, set); err != nil {
		s.log.Warn("programs are not told what the device knows", "err", err)
	}
}

// write carries out orders and returns the seats.
func (s *seats) write(list []bpf.Order) []bpf.Seat {
	if s == nil || s.options == nil || len(list) == 0 {
		return make([]bpf.Seat, len(list))
	}
	seats, err := s.options.Write(list)
	if err != nil {
		s.log.Warn("programs are not told where their connections are", "connections", len(list), "err", err)
		return make([]bpf.Seat, len(list))
	}
	return seats
}

// of reads the seats of flows.
func (s *seats) of(keys []flow.Key) []bpf.Seat {
	list := make([]bpf.Order, len(keys))
	for i, k := range keys {
		list[i].Flow = k
	}
	return s.write(list)
}

// steered tells of flows that are on their way to the device.
func (u *uplink) steered(keys []flow.Key, ids []abi.HWID) {
	list := make([]bpf.Order, len(keys))
	for i, k := range keys {
		list[i] = bpf.Order{Flow: k, Set: bpf.SetPlace, Table: u.slot, HWID: ids[i], Place: abi.SeatMoving}
	}
	u.seats.write(list)
}

// leaving tells of flows that are about to be the kernel's, with what the
// device has counted, so that no program sees that missing in between: the
// device passes them, or is fenced, and counts no more.
func (u *uplink) leaving(keys []flow.Key) {
	list := make([]bpf.Order, len(keys))
	for i, k := range keys {
		list[i] = bpf.Order{Flow: k, Set: bpf.SetPlace, Place: abi.SeatKernel}
		if c := u.table.Find(k); c != nil {
			list[i].Counts = u.hardware(c.HWID)
		}
	}
	u.seats.write(list)
}

// arrived tells what became of moves, and returns the flows that their
// programs have forbidden the device meanwhile.
func (u *uplink) arrived(outcomes []handover.Outcome) (home []flow.ID) {
	list := make([]bpf.Order, 0, len(outcomes))
	for i := range outcomes {
		o := &outcomes[i]
		order := bpf.Order{Flow: o.Flow.Key(), Set: bpf.SetReason, Reason: o.Reason}
		switch o.Kind {
		case handover.Over:
			continue
		case handover.Offloaded:
			order.Reason = u.why(o.Ticket).reason
			order.Set, order.Table, order.HWID, order.Place = order.Set|bpf.SetPlace, u.slot, o.HWID, abi.SeatDevice
		}
		list = append(list, order)
	}
	for i, seat := range u.seats.write(list) {
		if seat.Wish == abi.WishNever && list[i].Place == abi.SeatDevice {
			home = append(home, list[i].Flow.ID())
		}
	}
	return home
}

// heed moves connections whose programs wish so, until close.
func (s *seats) heed(d *Driver) {
	if s.options == nil {
		return
	}
	defer close(s.ended)
	ctx, cancel := context.WithCancel(context.Background())
	defer s.moves.Wait()
	defer cancel()
	room := make(chan struct{}, mostHeeded)
	for {
		list, err := s.options.Wakes(nil)
		if err != nil {
			return
		}
		room <- struct{}{}
		s.moves.Go(func() {
			s.grant(ctx, d, list)
			<-room
		})
	}
}

// grant does what programs wish now, which may have changed since they woke
// the driver.
func (s *seats) grant(ctx context.Context, d *Driver, list []bpf.Wake) {
	orders := make([]bpf.Order, len(list))
	for i := range list {
		orders[i] = bpf.Order{Flow: list[i].Flow, Set: bpf.SetHeard}
	}
	var now, never []flow.ID
	if slices.ContainsFunc(list, func(w bpf.Wake) bool { return abi.Verdict(w.Verdict) == abi.VerdictNow }) {
		s.nudge(d.policing)
	}
	for i, seat := range s.write(orders) {
		switch seat.Wish {
		case abi.WishNow:
			now = append(now, list[i].Flow.ID())
		case abi.WishNever:
			never = append(never, list[i].Flow.ID())
		}
	}
	if now = d.policing.permit(ctx, now); len(now) > 0 {
		_, err := d.policing.byHand(policy.Hand{To: OnDevice, Program: true}, now, func() (Result, error) {
			return d.OffloadFlows(ctx, now, Options{why: cause{reason: abi.ProgramAsked}, claims: &claims{policing: d.policing}})
		})
		s.say("offload", err)
	}
	if len(never) > 0 {
		_, err := d.uploadFlows(ctx, never, cause{reason: abi.ProgramForbids})
		s.say("upload", err)
	}
}

// restAfter is the time between two looks of the policy at all connections that
// new ones cause, however many there are.
const restAfter = 50 * time.Millisecond

// nudge has the policy look, for connections that are to move now.
func (s *seats) nudge(p *policing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resting {
		s.more = true
		return
	}
	s.resting, s.more = true, false
	p.nudge()
	time.AfterFunc(restAfter, func() { s.rested(p) })
}

func (s *seats) rested(p *policing) {
	s.mu.Lock()
	more := s.more
	s.resting = false
	s.mu.Unlock()
	if more {
		s.nudge(p)
	}
}

// judge has new connections judged by a policy where they are established.
func (s *seats) judge(t *abi.PolicyTable) {
	if s == nil || s.options == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// One of a policy that has been replaced meanwhile comes too late.
	if s.rules != nil && (t.Serial < s.rules.Serial || *s.rules == *t) {
		return
	}
	s.rules = t
	if err := s.options.SetPolicy(t); err != nil && !errors.Is(err, os.ErrClosed) {
		s.log.Warn("the policy looks at new connections with the others only", "err", err)
	}
}

func (s *seats) say(what string, err error) {
	if err != nil {
		s.log.Debug("not all that programs wished was done", "wish", what, "err", err)
	}
}

func (s *seats) close() {
	if s.options == nil {
		return
	}
	if err := s.options.Close(); err != nil {
		s.log.Debug("programs for socket options not closed", "err", err)
	}
	<-s.ended
}
