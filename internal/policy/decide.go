package policy

import (
	"cmp"
	"slices"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// A Seen is a connection as it is at one moment.
type Seen struct {
	Flow   flow.ID
	Socket uint64 // another number is another socket with the same flow; 0: not known
	Moving bool   // somebody moves it
	Facts  Facts
}

// A Move is what a Decider wants.
type Move struct {
	Flow flow.ID
	To   string // OnDevice or InKernel
	Rule int    // number in the policy, -1: the default
}

// noRule is neither a rule nor the default.
const noRule = -2

// A standing is what a Decider remembers of a connection.
type standing struct {
	socket   uint64
	place    string    // when it was last seen
	rule     int       // the first that matches
	since    mono.Time // when it became that
	cause    int       // the rule that has it where it is, noRule: none
	held     mono.Time // when that was last the first to match
	moved    mono.Time // by us; 0: never
	again    mono.Time // not before, since it was refused or came home
	failures int
	reason   abi.Reason // of the last of them
	lasting  bool       // and it will not pass
	hand     Hand       // that has put it where it is
	moving   bool       // somebody else moves it
	pending  *Move      // not answered yet
	asOf     uint64     // revivals when that was made
	turn     uint64     // of the last Tick that saw it
}

// A Decider turns what is seen of connections into moves. It is a state
// machine without a clock: Apply, Tick, Done, Put and Revived are its inputs, in
// the order of time.
type Decider struct {
	policy *Policy
	conns  map[flow.ID]*standing
	tokens float64 // moves that may be made now
	filled mono.Time
	turn   uint64

	revivals uint64
}

// NewDecider returns a Decider that wants nothing: it has no policy yet.
func NewDecider() *Decider { return &Decider{conns: make(map[flow.ID]*standing)} }

// Policy is the one in force, nil for none.
func (d *Decider) Policy() *Policy { return d.policy }

// Apply puts a policy in force. Moves by hand and refusals of before are
// forgotten; what a rule has moved stays that rule's, if there is one of its
// name.
func (d *Decider) Apply(now mono.Time, p *Policy) {
	for _, c := range d.conns {
		c.cause = renumber(d.policy, p, c.cause)
		c.rule, c.hand, c.again, c.failures, c.lasting, c.reason = noRule, Hand{}, 0, 0, false, abi.None
		if c.pending != nil {
			c.pending.Rule = renumber(d.policy, p, c.pending.Rule)
		}
	}
	d.policy, d.filled = p, now
	d.tokens = float64(p.Limits.MovesPerSecond)
}

func renumber(from, to *Policy, rule int) int {
	if rule < 0 || from == nil {
		return noRule
	}
	i := slices.IndexFunc(to.Rules, func(r Rule) bool { return r.Name == from.Rules[rule].Name })
	if i < 0 {
		return noRule
	}
	return i
}

// A Hand is who moves a connection otherwise than by the policy, and where to;
// the zero Hand is nobody.
type Hand struct {
	To      string // OnDevice or InKernel
	Program bool   // its own program; else an operator
}

// overrules says that what was put somewhere by hand stays there, whatever a
// rule with this action wants.
func (h Hand) overrules(a Action) bool { return h.To != "" && !(h.Program && a == Never) }

// Put notes that connections are moved by hand: they stay there until they
// leave by themselves or a policy is applied anew. The zero Hand takes that
// back.
func (d *Decider) Put(h Hand, ids ...flow.ID) {
	if d.policy == nil {
		return
	}
	for _, id := range ids {
		d.of(id).hand = h
	}
}

func (d *Decider) of(id flow.ID) *standing {
	c := d.conns[id]
	if c == nil {
		c = &standing{rule: noRule, cause: noRule, turn: d.turn}
		d.conns[id] = c
	}
	return c
}

// Done is the outcome of a Move: reason is None when it was carried out.
func (d *Decider) Done(now mono.Time, id flow.ID, reason abi.Reason) {
	c := d.conns[id]
	if c == nil || c.pending == nil {
		return
	}
	m := c.pending
	c.pending = nil
	switch reason {
	case abi.None:
		c.moved, c.place, c.cause, c.held = now, m.To, m.Rule, now
		if c.hand.Program && c.hand.To != m.To {
			c.hand = Hand{}
		}
	case abi.AlreadyOnDevice, abi.AlreadyInKernel, abi.Moving:
		// The next Tick sees what is the case.
	default:
		if !noDevice(reason) || c.asOf == d.revivals { // else that has passed
			d.failed(now, c, reason)
		}
	}
}

// mostDoublings bounds the time after which something is tried again.
const mostDoublings = 5

func (d *Decider) failed(now mono.Time, c *standing, reason abi.Reason) {
	c.again = now.Add(d.backOff(c.failures))
	c.failures++
	c.reason, c.lasting = reason, reason.Lasting()
}

func (d *Decider) backOff(failures int) time.Duration {
	return d.policy.Limits.RetryAfter << min(failures, mostDoublings)
}

// Revived notes that a device takes connections again: those that were refused
// because none did need not wait any longer.
func (d *Decider) Revived() {
	d.revivals++
	for _, c := range d.conns {
		if noDevice(c.reason) {
			c.again, c.failures, c.reason = 0, 0, abi.None
		}
	}
}

// noDevice says that a refusal was none of the connection.
func noDevice(r abi.Reason) bool {
	switch r {
	case abi.DeviceDown, abi.DevicePaused, abi.DeviceStopped, abi.UplinkGone:
		return true
	}
	return false
}

// Tick looks at all connections there are and returns what is to be moved
// now, in order. Each Move is answered by Done.
func (d *Decider) Tick(now mono.Time, seen []Seen) []Move {
	if d.policy == nil {
		return nil
	}
	d.turn++
	var wanted []*candidate
	for i := range seen {
		if w := d.look(now, &seen[i]); w != nil {
			wanted = append(wanted, w)
		}
	}
	for id, c := range d.conns {
		if c.turn != d.turn {
			delete(d.conns, id)
		}
	}
	return d.choose(now, wanted)
}

// A candidate is a connection that may be moved now.
type candidate struct {
	move     Move
	standing *standing
	urgency  int // what goes home makes room, so it goes first
	priority int
}

// look brings what is remembered of a connection up to date, and returns it
// if it may move.
func (d *Decider) look(now mono.Time, s *Seen) *candidate {
	c := d.of(s.Flow)
	if s.Socket != 0 && c.socket != 0 && c.socket != s.Socket {
		*c = standing{rule: noRule, cause: noRule}
	}
	c.socket, c.turn = cmp.Or(s.Socket, c.socket), d.turn
	d.relocate(now, c, s)
	if rule := d.policy.Match(&s.Facts); rule != c.rule {
		c.rule, c.since = rule, now
	}
	target := d.policy.action(c.rule).place()
	if c.rule == c.cause || target == OnDevice && c.place == OnDevice {
		c.cause, c.held = c.rule, now
	}
	if target == "" || target == c.place || s.Moving || c.pending != nil || c.hand.overrules(d.policy.action(c.rule)) || !d.due(now, c) {
		return nil
	}
	w := &candidate{move: Move{Flow: s.Flow, To: target, Rule: c.rule}, standing: c}
	switch d.policy.action(c.rule) {
	case Never:
		w.urgency = 2
	case Upload:
		w.urgency = 1
	default:
		w.priority = d.policy.Rules[c.rule].Priority
	}
	return w
}

// relocate notes where a connection is. That it has come home without our
// asking has a reason, which may pass; what was refused before it got to the
// device by hand is no reason any more.
func (d *Decider) relocate(now mono.Time, c *standing, s *Seen) {
	place := s.Facts.Place
	if c.moving = s.Moving; s.Moving || c.pending != nil {
		return
	}
	if c.place == OnDevice && place == InKernel {
		d.failed(now, c, abi.None)
		c.cause = noRule
	}
	if c.place == InKernel && place == OnDevice {
		c.again, c.lasting = 0, false
	}
	if c.place == c.hand.To && place != c.hand.To {
		c.hand = Hand{}
	}
	if place == OnDevice && now.Sub(c.moved) >= 2*d.backOff(c.failures) {
		c.failures = 0
	}
	c.place = place
}

// due says that nothing but the limits of all speaks against a move.
func (d *Decider) due(now mono.Time, c *standing) bool {
	if d.policy.action(c.rule) == Never {
		return now >= c.again
	}
	return d.wait(now, c) <= 0 && !c.lasting
}

// wait is how long a connection has to go on as it does before it may move.
func (d *Decider) wait(now mono.Time, c *standing) time.Duration {
	left := max(d.policy.hold(c.rule)-now.Sub(c.since), c.again.Sub(now))
	if c.cause >= 0 && c.cause != c.rule {
		left = max(left, d.policy.hold(c.cause)-now.Sub(c.held))
	}
	if c.moved != 0 {
		left = max(left, d.policy.Limits.MinStay-now.Sub(c.moved))
	}
	return left
}

// choose keeps to the quotas and to the moves per second.
func (d *Decider) choose(now mono.Time, wanted []*candidate) (moves []Move) {
	rate := float64(d.policy.Limits.MovesPerSecond)
	d.tokens = min(rate, d.tokens+rate*now.Sub(d.filled).Seconds())
	d.filled = now
	slices.SortFunc(wanted, func(a, b *candidate) int {
		return cmp.Or(b.urgency-a.urgency, b.priority-a.priority, cmp.Compare(a.standing.since, b.standing.since),
			a.move.Flow.Local.Compare(b.move.Flow.Local), a.move.Flow.Remote.Compare(b.move.Flow.Remote))
	})
	used := d.used()
	for _, w := range wanted {
		rule := w.move.Rule
		if full(d.policy, rule, used) {
			continue
		}
		if d.tokens < 1 {
			break
		}
		d.tokens--
		if w.move.To == OnDevice {
			used[rule]++
		}
		pending := w.move
		w.standing.pending, w.standing.asOf = &pending, d.revivals
		moves = append(moves, w.move)
	}
	return moves
}

// used counts the connections that each rule has on the device, or on the way
// there.
func (d *Decider) used() map[int]int {
	used := make(map[int]int)
	for _, c := range d.conns {
		switch {
		case c.pending != nil && c.pending.To == OnDevice:
			used[c.pending.Rule]++
		case c.place == OnDevice && c.cause >= 0:
			used[c.cause]++
		}
	}
	return used
}

func full(p *Policy, rule int, used map[int]int) bool {
	return rule >= 0 && p.Rules[rule].Quota > 0 && used[rule] >= p.Rules[rule].Quota
}
