// Package policy decides which connections are to be on the device: by rules
// that an operator writes, and by the facts of each connection. It is pure:
// facts and the time come in, decisions go out.
package policy

import (
	_ "embed"
	"fmt"
	"slices"
	"time"
)

// A Policy is what a file says, once all of it is right.
type Policy struct {
	Name    string // of the file
	Source  string
	Rules   []Rule
	Default Action // of connections that no rule matches: Leave or Upload
	Limits  Limits
}

// A Rule says what is to become of the connections that it is the first to
// match.
type Rule struct {
	Name       string
	Condition  *Condition // nil: every connection
	Action     Action
	For        time.Duration // how long it must have matched before anything is moved, and have failed before what it moved is
	Attachment string        // "", Shadow or Bypass
	Priority   int           // of several that want to move, the highest goes first
	Device     string        // uplink whose device is meant, "": that of the connection's route
	Congestion string        // control on the device, "": the connection's own
	Quota      int           // connections on the device by this rule at most, 0: any number
	Line       int           // where it stands in the file
}

// An Action is what a rule does.
type Action uint8

// The actions.
const (
	Leave   Action = iota // where it is
	Offload               // to the device
	Upload                // home, with the hysteresis of For
	Never                 // home at once, and nobody but the operator may offload it
)

var actionNames = [...]string{"leave", "offload", "upload", "never"}

// String is the action's name in a file.
func (a Action) String() string { return actionNames[a] }

// place is where an action wants a connection, "" for where it is.
func (a Action) place() string { return [...]string{"", OnDevice, InKernel, InKernel}[a] }

// The places of a connection, and the attachment, as the driver names them.
const (
	InKernel = "kernel"
	OnDevice = "device"
	Shadow   = "shadow"
	Bypass   = "bypass"
)

// Limits bound how fast connections move.
type Limits struct {
	MovesPerSecond int           // of all connections
	MinStay        time.Duration // between two moves of one connection
	RetryAfter     time.Duration // after a refusal; it doubles with each, up to 32 times
}

// defaultLimits hold where a file says nothing.
var defaultLimits = Limits{MovesPerSecond: 100, MinStay: 10 * time.Second, RetryAfter: 10 * time.Second}

//go:embed default.yaml
var defaultSource string

// DefaultName is what stands for the policy that comes with the program.
const DefaultName = "default"

// DefaultSource is its text.
func DefaultSource() string { return defaultSource }

// Match returns the first rule whose condition the facts meet, -1 for none.
func (p *Policy) Match(f *Facts) int {
	for i := range p.Rules {
		if p.Rules[i].Condition.Holds(f) {
			return i
		}
	}
	return -1
}

// action is what a rule does, by its number, -1 standing for the default.
func (p *Policy) action(rule int) Action {
	if rule < 0 {
		return p.Default
	}
	return p.Rules[rule].Action
}

// Forbids is the rule that keeps a connection with these facts off the device
// whatever its program asks for, "" for none.
func (p *Policy) Forbids(f *Facts) (rule string) {
	if i := p.Match(f); p.action(i) == Never {
		return p.Rules[i].Name
	}
	return ""
}

// Unreachable warns of the rules behind one that matches every connection: no
// connection ever comes to them.
func (p *Policy) Unreachable() (all Problems) {
	i := slices.IndexFunc(p.Rules, func(r Rule) bool { return r.Condition.String() == "true" })
	if i < 0 {
		return nil
	}
	first := &p.Rules[i]
	for _, r := range p.Rules[i+1:] {
		all = append(all, Problem{p.Name, r.Line, 1, fmt.Sprintf("rule %q is never reached: %q on line %d matches every connection", r.Name, first.Name, first.Line)})
	}
	return all
}

// MayForbid reports whether any rule does.
func (p *Policy) MayForbid() bool {
	return slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Action == Never })
}

// hold is how long a rule must have matched, or failed.
func (p *Policy) hold(rule int) time.Duration {
	if rule < 0 {
		return 0
	}
	return p.Rules[rule].For
}

// Needs reports whether any rule reads a fact.
func (p *Policy) Needs(fact string) bool {
	for i := range p.Rules {
		if c := p.Rules[i].Condition; c != nil && c.reads[fact] {
			return true
		}
	}
	return false
}

// RuleName is the name of a rule by its number, "default" for -1.
func (p *Policy) RuleName(rule int) string {
	if rule < 0 {
		return "default"
	}
	return p.Rules[rule].Name
}
