package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/flow"
	"toehold/internal/mono"
	"toehold/internal/policy"
	"toehold/internal/tcp"
)

// Times of policing.
const (
	lookEvery = time.Second
	// Interfaces and cgroups that a policy names come and go: the kernel's
	// part of it is made anew.
	tableEvery = 10 * time.Second
	idleEvery  = 10 * time.Second // without a policy: ages and rates are known when one comes
	// After a look the policy rests for so many times as long as that took:
	// neither many connections, nor long policies, nor programs that ask again
	// and again have it use more than a fifth of a processor.
	restTimes = 4
)

// A policing carries out a policy: it looks at all connections once a second,
// and moves those that its decider wants moved.
type policing struct {
	driver *Driver
	kick   chan struct{} // look at once
	stop   func()        // ends the loop and waits for it

	revived atomic.Bool // a device takes connections again, since the last look

	mu       sync.Mutex // of what follows
	decider  *policy.Decider
	observer *observer
	applied  time.Time
	serial   uint64
	failed   bool      // to look, the last time
	rested   mono.Time // not to look before
}

func newPolicing(d *Driver) *policing {
	return &policing{driver: d, kick: make(chan struct{}, 1), stop: func() {}, decider: policy.NewDecider(), observer: newObserver()}
}

// ParsePolicy reads a policy for these uplinks. The error is
// policy.Problems.
func ParsePolicy(name string, source []byte, uplinks []string) (*policy.Policy, error) {
	return policy.Parse(name, source, policy.Known{Devices: uplinks, Congestion: tcp.Algorithms()})
}

// start starts the loop.
func (p *policing) start() {
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() { p.run(ctx) })
	p.stop = func() { cancel(); loop.Wait() }
}

// run is the loop. When ctx ends it does, and waits no longer for the moves
// that it has begun.
func (p *policing) run(ctx context.Context) {
	var moves sync.WaitGroup
	defer moves.Wait()
	for tabled := mono.Now(); ; {
		if now := mono.Now(); now.Sub(tabled) >= tableEvery {
			p.driver.seats.judge(p.driver.PolicyTable())
			tabled = now
		}
		if !p.lockRested(ctx) {
			return
		}
		all := p.tick()
		p.mu.Unlock()
		for _, g := range all {
			moves.Go(func() { p.carryOut(ctx, &g) })
		}
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
		case <-time.After(p.pause()):
		}
	}
}

// lockRested locks mu when the policy has rested; false, without the lock, when
// ctx ends before.
func (p *policing) lockRested(ctx context.Context) bool {
	for {
		p.mu.Lock()
		left := p.rested.Sub(mono.Now())
		if left <= 0 {
			return true
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return false
		case <-time.After(left):
		}
	}
}

func (p *policing) pause() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.decider.Policy() == nil {
		return idleEvery
	}
	return lookEvery
}

// A group is connections that the same rule moves to the same place.
type group struct {
	to   string
	name string // of the rule
	rule policy.Rule
	ids  []flow.ID
}

// turn looks at all connections and returns what is to be moved now.
func (p *policing) turn() []group {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tick()
}

// tick is turn for who holds mu.
func (p *policing) tick() []group {
	now := mono.Now()
	defer p.rest(now)
	if p.revived.Swap(false) {
		p.decider.Revived()
	}
	seen, err := p.look(now, p.decider.Policy())
	if err != nil {
		if !p.failed {
			p.driver.log.Error("the policy is not carried out", "err", err)
		}
		p.failed = true
		return nil
	}
	p.failed = false
	return p.groups(p.sift(now, p.decider.Tick(now, seen)))
}

// rest is for after a look that began at since.
func (p *policing) rest(since mono.Time) {
	now := mono.Now()
	p.rested = now.Add(restTimes * now.Sub(since))
}

// sift refuses moves to a device that the traffic of the connection speaks
// against. What an operator asks for is not asked that.
func (p *policing) sift(now mono.Time, moves []policy.Move) []policy.Move {
	kept := moves[:0]
	for _, m := range moves {
		if m.To != OnDevice || !p.objects(now, &m) {
			kept = append(kept, m)
		}
	}
	return kept
}

// objects refuses a move that traffic speaks against, and reports that it did.
func (p *policing) objects(now mono.Time, m *policy.Move) bool {
	a := p.observer.flows[m.Flow]
	if a == nil {
		return false
	}
	why, detail := p.driver.cfg.RefuseWhen.Exceeded(now, &a.recent, a.mss)
	if why == abi.None {
		return false
	}
	p.decider.Done(now, m.Flow, why)
	p.driver.refuse(m.Flow, a.inode, &ruling{reason: why, detail: detail}, cause{abi.Policy, "rule " + p.decider.Policy().RuleName(m.Rule)})
	return true
}

// look measures what a policy wants to know; for none what only time can tell.
func (p *policing) look(now mono.Time, whose *policy.Policy) ([]policy.Seen, error) {
	want := func(string) bool { return false }
	if whose != nil {
		want = whose.Needs
	}
	seen, err := p.observer.look(now, p.driver.placed(), want)
	if err == nil && want("offloads") {
		p.driver.journal.countOffloads(seen)
	}
	return seen, err
}

// groups puts together what can be moved by one request, in the order of the
// moves.
func (p *policing) groups(moves []policy.Move) (all []group) {
	at := make(map[[2]any]int)
	for _, m := range moves {
		key := [2]any{m.To, m.Rule}
		i, ok := at[key]
		if !ok {
			i, at[key] = len(all), len(all)
			g := group{to: m.To, name: p.decider.Policy().RuleName(m.Rule)}
			if m.Rule >= 0 {
				g.rule = p.decider.Policy().Rules[m.Rule]
			}
			all = append(all, g)
		}
		all[i].ids = append(all[i].ids, m.Flow)
	}
	return all
}

// carryOut moves a group, and tells the decider what became of each.
func (p *policing) carryOut(ctx context.Context, g *group) {
	var r Result
	var err error
	why := cause{abi.Policy, "rule " + g.name}
	if g.to == OnDevice {
		o := Options{Attachment: g.rule.Attachment, device: g.rule.Device, why: why, claims: &claims{p, admission.Claim{Priority: g.rule.Priority}}}
		copy(o.control[:], g.rule.Congestion)
		r, err = p.driver.OffloadFlows(ctx, g.ids, o)
	} else {
		r, err = p.driver.uploadFlows(ctx, g.ids, why)
	}
	if err != nil && ctx.Err() == nil {
		p.driver.log.Error("moves of the policy", "rule", g.name, "err", err)
	}
	p.settle(g, &r)
}

// claims are what connections have to show for a place on a device: all the
// same, and what each has moved lately.
type claims struct {
	policing *policing
	all      admission.Claim
}

func (c *claims) of(id flow.ID) admission.Claim {
	c.policing.mu.Lock()
	defer c.policing.mu.Unlock()
	claim := c.all
	claim.Rate = c.policing.observer.rate(id)
	return claim
}

// settle tells the decider. What a Result does not have ended in an error.
func (p *policing) settle(g *group, r *Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := mono.Now()
	for _, m := range r.Moved {
		p.decider.Done(now, flow.ID{Local: m.Local, Remote: m.Remote}, abi.None)
	}
	for _, f := range r.Refused {
		reason, _ := abi.ParseReason(f.Reason)
		p.decider.Done(now, flow.ID{Local: f.Local, Remote: f.Remote}, reason)
	}
	for _, id := range g.ids {
		p.decider.Done(now, id, abi.InternalError)
	}
}

// apply puts a policy in force; the connections that it matches move from now
// on, as fast as its limits allow.
func (p *policing) apply(new *policy.Policy) {
	p.mu.Lock()
	p.decider.Apply(mono.Now(), new)
	p.applied, p.serial = time.Now(), p.serial+1
	p.mu.Unlock()
	p.driver.journal.Add(Event{Kind: EventPolicyApplied, Detail: fmt.Sprintf("%s: %d rules", new.Name, len(new.Rules))})
	p.driver.seats.judge(p.driver.PolicyTable())
	p.nudge()
}

// revive is told of each device that takes connections again. It never waits:
// an uplink's loop calls it, and a look waits for those.
func (p *policing) revive() {
	p.revived.Store(true)
	p.nudge()
}

// nudge has the loop look at once.
func (p *policing) nudge() {
	select {
	case p.kick <- struct{}{}:
	default: // it is about to look anyway
	}
}

// PolicyTable is what of the policy in force the kernel can judge when a
// connection is established; empty when there is none. Interfaces and cgroups
// in it are those that exist now.
func (d *Driver) PolicyTable() *abi.PolicyTable {
	p := d.policing
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.decider.Policy() == nil {
		return new(abi.PolicyTable)
	}
	return p.decider.Policy().Table(policy.Names{Interface: interfaceIndex, Cgroup: p.observer.cgroups.ID}, p.serial)
}

func interfaceIndex(name string) (uint32, bool) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0, false
	}
	return uint32(i.Index), true
}

// byHand does what an operator or a program asked for. The policy leaves alone
// what has been moved so, from before the move on.
func (p *policing) byHand(h policy.Hand, ids []flow.ID, move func() (Result, error)) (Result, error) {
	p.put(h, ids)
	r, err := move()
	var others []flow.ID
	for _, f := range r.Refused {
		if f.Reason != abi.AlreadyOnDevice.String() && f.Reason != abi.AlreadyInKernel.String() {
			others = append(others, flow.ID{Local: f.Local, Remote: f.Remote})
		}
	}
	p.put(policy.Hand{}, others)
	return r, err
}

func (p *policing) put(h policy.Hand, ids []flow.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decider.Put(h, ids...)
}

// permit parts from flows whose programs want them on a device those that the
// policy forbids it, which are refused.
func (p *policing) permit(ctx context.Context, ids []flow.ID) (allowed []flow.ID) {
	if len(ids) == 0 {
		return nil
	}
	forbidden := p.forbidden(ctx, ids)
	for _, id := range ids {
		rule, no := forbidden[id]
		if !no {
			allowed = append(allowed, id)
			continue
		}
		r := ruling{reason: abi.Policy, detail: "rule " + rule + " forbids it"}
		p.driver.refuse(id, 0, &r, cause{reason: abi.ProgramAsked})
	}
	return allowed
}

// forbidden finds the rules that forbid flows the device.
func (p *policing) forbidden(ctx context.Context, ids []flow.ID) map[flow.ID]string {
	if !p.mayForbid() || !p.lockRested(ctx) {
		return nil
	}
	defer p.mu.Unlock()
	in, now := p.decider.Policy(), mono.Now()
	defer p.rest(now)
	seen, err := p.look(now, in)
	if err != nil {
		return nil // a turn brings home what should not have moved
	}
	asking := make(map[flow.ID]bool, len(ids))
	for _, id := range ids {
		asking[id] = true
	}
	rules := make(map[flow.ID]string)
	for i := range seen {
		if asking[seen[i].Flow] {
			if rule := in.Forbids(&seen[i].Facts); rule != "" {
				rules[seen[i].Flow] = rule
			}
		}
	}
	return rules
}

func (p *policing) mayForbid() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.decider.Policy()
	return in != nil && in.MayForbid()
}

// ErrNoPolicy is that none is in force.
var ErrNoPolicy = errors.New("no policy is in force: connections move when an operator moves them; name one with toehold policy apply FILE or daemon --policy FILE")

// ApplyPolicy reads a policy and puts it in force. When there is anything
// wrong with it the error is policy.Problems, and the old one stays.
func (d *Driver) ApplyPolicy(ctx context.Context, name string, source []byte) (PolicyView, error) {
	p, err := ParsePolicy(name, source, d.cfg.Uplinks)
	if err != nil {
		d.PolicyRejected(err)
		return PolicyView{}, err
	}
	d.policing.apply(p)
	return d.Policy(ctx)
}

// longestReason bounds what an event says of a policy, which quotes it.
const longestReason = 400 // octets

// PolicyRejected notes that a policy which somebody wanted in force is not, and
// the first reason.
func (d *Driver) PolicyRejected(err error) {
	reason, more := err.Error(), ""
	var problems policy.Problems
	if errors.As(err, &problems) && len(problems) > 0 {
		reason = problems[0].String()
		if n := len(problems) - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more)", n)
		}
	}
	if len(reason) > longestReason {
		reason = strings.ToValidUTF8(reason[:longestReason], "") + "..."
	}
	d.journal.Add(Event{Kind: EventPolicyRejected, Detail: reason + more})
}
