package driver

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"toehold/internal/mono"
	"toehold/internal/policy"
)

// A PolicyView is the policy in force, and what its rules have.
type PolicyView struct {
	Name           string     `json:"name"`
	Applied        time.Time  `json:"applied"`
	Default        string     `json:"default"`
	MovesPerSecond int        `json:"moves_per_second"`
	MinStay        string     `json:"min_stay"`
	RetryAfter     string     `json:"retry_after"`
	Rules          []RuleView `json:"rules"` // the last one is the default
	Source         string     `json:"source"`
}

// A RuleView is one rule, and the connections that it is the first to match.
type RuleView struct {
	Rule        string `json:"rule"`
	Line        int    `json:"line"` // 0: the default
	When        string `json:"when"`
	Action      string `json:"action"`
	For         string `json:"for"`
	Priority    int    `json:"priority"`
	Quota       int    `json:"quota"` // 0: none
	Connections int    `json:"connections"`
	OnDevice    int    `json:"on_device"`
	Offload     int    `json:"offload"` // of those in the kernel, how many it wants on a device
	Upload      int    `json:"upload"`  // of those on a device, how many it wants in the kernel
}

// A PolicyCheck is what a policy would do to the connections there are.
type PolicyCheck struct {
	Name        string       `json:"name"`
	Rules       []RuleView   `json:"rules"`
	Connections []Assessment `json:"connections"`
	// Warnings are of what is allowed and hardly meant.
	Warnings policy.Problems `json:"warnings,omitempty"`
}

// An Assessment is what a policy would do to one connection.
type Assessment struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	Place  string         `json:"place"`
	Rule   string         `json:"rule"`
	Action string         `json:"action"`
	Would  string         `json:"would"` // offload, upload, or "" for neither
}

// An Explanation is how the policy in force came to its decision about one
// connection.
type Explanation struct {
	Assessment
	Outlook string          `json:"outlook"`
	Rulings []policy.Ruling `json:"rulings"` // up to the rule that decided
}

// assess judges every connection by a policy, and counts by rule.
func assess(p *policy.Policy, seen []policy.Seen) (rules []RuleView, all []Assessment) {
	rules = ruleViews(p)
	for i := range seen {
		s := &seen[i]
		rule, wants := p.Wants(&s.Facts)
		if rule < 0 {
			rule = len(p.Rules)
		}
		v := &rules[rule]
		a := Assessment{Local: s.Flow.Local, Remote: s.Flow.Remote, Place: s.Facts.Place, Rule: v.Rule, Action: v.Action}
		v.Connections++
		if a.Place == OnDevice {
			v.OnDevice++
		}
		switch wants {
		case OnDevice:
			a.Would, v.Offload = policy.Offload.String(), v.Offload+1
		case InKernel:
			a.Would, v.Upload = policy.Upload.String(), v.Upload+1
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Assessment) int { return inOrder(a.Local, a.Remote, b.Local, b.Remote) })
	return rules, all
}

func ruleViews(p *policy.Policy) (all []RuleView) {
	for i := range p.Rules {
		r := &p.Rules[i]
		all = append(all, RuleView{Rule: r.Name, Line: r.Line, When: r.Condition.String(), Action: r.Action.String(),
			For: r.For.String(), Priority: r.Priority, Quota: r.Quota})
	}
	return append(all, RuleView{Rule: p.RuleName(-1), When: "true", Action: p.Default.String(), For: time.Duration(0).String()})
}

// Policy is the policy in force; ErrNoPolicy when there is none.
func (d *Driver) Policy(context.Context) (PolicyView, error) {
	g := d.policing
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.decider.Policy()
	if p == nil {
		return PolicyView{}, ErrNoPolicy
	}
	seen, err := g.look(mono.Now(), p)
	if err != nil {
		return PolicyView{}, err
	}
	v := PolicyView{Name: p.Name, Applied: g.applied, Default: p.Default.String(), MovesPerSecond: p.Limits.MovesPerSecond,
		MinStay: p.Limits.MinStay.String(), RetryAfter: p.Limits.RetryAfter.String(), Source: p.Source}
	v.Rules, _ = assess(p, seen)
	return v, nil
}

// CheckPolicy reads a policy and says what each of its rules would do to the
// connections there are; nothing is moved. The error may be policy.Problems.
func (d *Driver) CheckPolicy(_ context.Context, name string, source []byte) (PolicyCheck, error) {
	p, err := ParsePolicy(name, source, d.cfg.Uplinks)
	if err != nil {
		return PolicyCheck{}, err
	}
	d.policing.mu.Lock()
	defer d.policing.mu.Unlock()
	seen, err := d.policing.look(mono.Now(), p)
	if err != nil {
		return PolicyCheck{}, err
	}
	return check(p, seen), nil
}

// CheckNothing is what a policy would do where there are no connections.
func CheckNothing(p *policy.Policy) PolicyCheck { return check(p, nil) }

func check(p *policy.Policy, seen []policy.Seen) PolicyCheck {
	c := PolicyCheck{Name: p.Name, Warnings: p.Unreachable()}
	c.Rules, c.Connections = assess(p, seen)
	if c.Connections == nil {
		c.Connections = []Assessment{} // not null
	}
	return c
}

// ExplainPolicy says how the policy in force came to its decision about the
// one connection that s names.
func (d *Driver) ExplainPolicy(ctx context.Context, s Selector) (Explanation, error) {
	conns, err := d.List(ctx, s)
	if err != nil {
		return Explanation{}, err
	}
	c, err := One(s, conns)
	if err != nil {
		return Explanation{}, err
	}
	g := d.policing
	g.mu.Lock()
	defer g.mu.Unlock()
	p, now := g.decider.Policy(), mono.Now()
	if p == nil {
		return Explanation{}, ErrNoPolicy
	}
	seen, err := g.look(now, p)
	if err != nil {
		return Explanation{}, err
	}
	i := slices.IndexFunc(seen, func(s policy.Seen) bool { return s.Flow == c.Flow() })
	if i < 0 {
		return Explanation{}, noMatch(s)
	}
	_, all := assess(p, seen[i:i+1])
	e := Explanation{Assessment: all[0], Outlook: g.decider.Outlook(now, c.Flow())}
	e.Rulings, _ = p.Explain(&seen[i].Facts)
	return e, nil
}
