package policy

import (
	"fmt"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// Outlook says, of a connection that a Tick has seen, what is to become of it
// and what it waits for.
func (d *Decider) Outlook(now mono.Time, id flow.ID) string {
	c := d.conns[id]
	switch {
	case d.policy == nil:
		return "there is no policy"
	case c == nil || c.rule == noRule:
		return "the policy has not looked at it yet"
	case c.moving && c.pending == nil:
		return "it is being moved"
	case c.pending != nil:
		return "it is on its way to the " + c.pending.To
	case c.hand.overrules(d.policy.action(c.rule)):
		return c.hand.who() + " has put it where it is, and the policy leaves it there until one is applied anew"
	}
	target := d.policy.action(c.rule).place()
	switch {
	case target == "":
		return "it stays where it is"
	case target == c.place:
		return "it is where it is wanted"
	case c.lasting:
		return fmt.Sprintf("it is wanted on the device and is not tried again: %s", c.reason)
	case c.again > now && c.reason != abi.None:
		return fmt.Sprintf("it was refused (%s) and is tried again in %s", c.reason, seconds(c.again.Sub(now)))
	case c.again > now:
		return fmt.Sprintf("it came home by itself and is tried again in %s", seconds(c.again.Sub(now)))
	case full(d.policy, c.rule, d.used()):
		return "the quota of its rule is used up"
	case d.wait(now, c) > 0 && d.policy.action(c.rule) != Never:
		return fmt.Sprintf("it moves to the %s in %s, if nothing changes", target, seconds(d.wait(now, c)))
	}
	return fmt.Sprintf("it moves to the %s at the next turn that has room for it", target)
}

func (h Hand) who() string {
	if h.Program {
		return "its program"
	}
	return "an operator"
}

func seconds(d time.Duration) string {
	return max(time.Second/10, d.Round(time.Second/10)).String()
}

// Wants is where a policy wants a connection with these facts, "" for where it
// is.
func (p *Policy) Wants(f *Facts) (rule int, place string) {
	rule = p.Match(f)
	if place = p.action(rule).place(); place == f.Place {
		place = ""
	}
	return rule, place
}
