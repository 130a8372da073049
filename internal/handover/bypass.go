package handover

import (
	"errors"
	"fmt"
	"slices"

	"toehold/internal/abi"
	"toehold/internal/mono"
)

// Into bypass, from shadow:
//
//	attach    make a channel                     undo: Detach
//	Join      the device sends S nothing more    undo: Resume, Detach
//	Drain     S's program has read everything    undo: the same
//	Open      what it sends goes to the channel  undo: Part and what follows
//	Divert    what it receives comes from there
//
// On the way from the kernel, attach begins while the device is yet to own the
// connection, which takes as long.
//
// and back to shadow:
//
//	Part      the device leaves the channel      undo: Divert
//	Rebuild   S is in step with the wire         before S is changed: thaw, Divert; after: no way back, and none is needed
//	Resume    the device speaks with S again
//	Thaw      the program goes on
//
// Without a device, Rebuild is followed by Unsteer and Thaw.

// A Step is how a step of the hands for one connection ended. With a Reason, it
// was not done.
type Step struct {
	HWID   abi.HWID
	Reason abi.Reason
	Detail string
}

// attach has channels made.
func (t *Table) attach(conns []*Conn) {
	var wanted []*Conn
	for _, c := range conns {
		if c.bypass {
			c.attaching, c.attached = true, nil
			wanted = append(wanted, c)
		}
	}
	if len(wanted) > 0 {
		t.hands.Attach(wanted)
	}
}

// detach is the undo of attach, whether it has ended or not.
func (t *Table) detach(c *Conn) {
	c.attaching, c.attached = false, nil
	t.hands.Detach(c)
}

// Attached goes on with connections that have a channel, or that stay in shadow
// for a reason.
func (t *Table) Attached(now mono.Time, ends []Step) error {
	var owned []*Conn
	for _, e := range ends {
		c := t.conns[e.HWID]
		if c == nil || !c.attaching {
			continue
		}
		c.attaching, c.attached = false, &e
		if c.Phase == Attaching {
			owned = append(owned, c)
		}
	}
	t.join(now, owned)
	return t.broken
}

// join is Join, of connections that are owned. For those that attach has not
// ended for it comes when that has.
func (t *Table) join(now mono.Time, conns []*Conn) {
	var ready []*Conn
	for _, c := range conns {
		end := c.attached
		switch c.attached = nil; {
		case end == nil:
			t.expect(Attaching, now.Add(t.limits.Answer), c)
		case end.Reason != abi.None:
			t.stay(now, c, end.Reason, end.Detail)
		default:
			ready = append(ready, c)
		}
	}
	if len(ready) == 0 {
		return
	}
	t.expect(Joining, now.Add(t.limits.Answer), ready...)
	if err := t.hands.Join(ready); err != nil {
		t.fail("join of %d connections not sent: %v", len(ready), err)
	}
}

// stay ends a way into bypass in shadow.
func (t *Table) stay(now mono.Time, c *Conn, r abi.Reason, detail string) {
	c.short, c.detail = r, detail
	t.rest(now, c, Offloaded)
}

// rest ends the present move of a connection that the device has.
func (t *Table) rest(now mono.Time, c *Conn, k Kind) {
	t.expect(Owned, 0, c)
	switch {
	case k == Offloaded && c.promoted && c.short != abi.None:
		k, c.reason = Refused, c.short
	case k == Offloaded && c.promoted:
		k, c.reason = Bypassed, abi.None
	case k == Offloaded:
		c.reason = abi.None
	}
	t.finish(now, c, k)
	c.bypass, c.promoted, c.stays, c.undoing, c.strays, c.short, c.detail = false, false, false, false, 0, abi.None, ""
	if c.recalled != abi.None {
		why := c.recalled
		c.recalled = abi.None
		t.recall(now, []*Conn{c}, why)
	}
}

// recall sends connections home that are owned.
func (t *Table) recall(now mono.Time, conns []*Conn, why abi.Reason) {
	for _, c := range conns {
		c.since, c.stall, c.bytes = now, 0, 0
	}
	t.leave(now, conns, Uploaded, why, "")
}

// leave is the first step home, whatever the attachment.
func (t *Table) leave(now mono.Time, conns []*Conn, end Kind, r abi.Reason, detail string) {
	var bypassed, shadowed []*Conn
	for _, c := range conns {
		if c.Attachment == abi.AttachBypass {
			bypassed = append(bypassed, c)
		} else {
			shadowed = append(shadowed, c)
		}
	}
	t.pass(now, shadowed, end, r, detail)
	t.part(now, bypassed, end, r, detail)
}

// joined goes on with those whose S has acknowledged what the device sent it.
func (t *Table) joined(now mono.Time, answers []abi.Answer) {
	var quiet []*Conn
	for i := range answers {
		a := &answers[i]
		c := t.conns[a.HWID]
		switch {
		case c == nil || c.Phase != Joining:
		case a.Reason != abi.None:
			t.unjoin(now, c, a.Reason, a.Reason.Text())
		default:
			c.Given = uint32(a.Bytes)
			quiet = append(quiet, c)
		}
	}
	if len(quiet) > 0 {
		t.expect(Draining, now.Add(t.limits.Answer), quiet...)
		t.hands.Drain(quiet)
	}
}

// Drained goes on with those whose programs have read what S had received, or
// have not in time.
func (t *Table) Drained(now mono.Time, ends []Step) error {
	var opened []*Conn
	for _, e := range ends {
		c := t.conns[e.HWID]
		if c == nil || c.Phase != Draining {
			continue
		}
		if e.Reason == abi.None && c.recalled == abi.None {
			if err := t.hands.Open(c); err != nil {
				e.Reason, e.Detail = abi.ChannelFailed, err.Error()
				if errors.Is(err, ErrStrayed) {
					e.Reason = abi.OutOfStep
				}
			}
		}
		if e.Reason != abi.None || c.recalled != abi.None {
			t.unjoin(now, c, e.Reason, e.Detail)
			continue
		}
		c.Attachment = abi.AttachBypass
		opened = append(opened, c)
	}
	t.expect(Diverting, now.Add(t.limits.Answer), opened...)
	t.command(abi.Divert, opened)
	return t.broken
}

// unjoin is the undo of Join.
func (t *Table) unjoin(now mono.Time, c *Conn, r abi.Reason, detail string) {
	c.short, c.detail = r, detail
	t.expect(Resuming, now.Add(t.limits.Answer), c)
	t.command(abi.Resume, []*Conn{c})
}

// diverted ends the way into bypass, or the undo of the way out of it.
func (t *Table) diverted(now mono.Time, c *Conn, a *abi.Answer) {
	switch {
	case c.Phase != Diverting:
	case a.Reason != abi.None: // the channel is open, so S is behind already
		c.bypass = false
		t.part(now, []*Conn{c}, Shadowed, a.Reason, a.Reason.Text())
	case c.undoing:
		t.rest(now, c, Refused)
	default:
		t.rest(now, c, Offloaded)
	}
}

// Shadow takes bypassed connections back to shadow.
func (t *Table) Shadow(now mono.Time, ids []abi.HWID, why abi.Reason, detail string) error {
	var conns []*Conn
	for _, id := range ids {
		if c := t.conns[id]; c != nil && c.Phase == Owned && c.Attachment == abi.AttachBypass {
			c.since, c.stall, c.bytes = now, 0, 0
			conns = append(conns, c)
		}
	}
	t.part(now, conns, Shadowed, why, detail)
	return t.broken
}

// part is Part, the first step out of bypass.
func (t *Table) part(now mono.Time, conns []*Conn, end Kind, r abi.Reason, detail string) {
	if len(conns) == 0 {
		return
	}
	for _, c := range conns {
		c.end, c.reason, c.detail, c.stays = end, r, detail, end == Shadowed
	}
	t.expect(Parting, now.Add(t.limits.Answer), conns...)
	t.command(abi.Part, conns)
}

// parted goes on with connections whose channels are the host's alone.
func (t *Table) parted(now mono.Time, answers []abi.Answer) {
	conns := make([]*Conn, 0, len(answers))
	for i := range answers {
		if c := t.conns[answers[i].HWID]; c != nil && c.Phase == Parting {
			c.bytes = max(c.bytes, answers[i].Bytes)
			conns = append(conns, c)
		}
	}
	t.rebuild(now, conns)
}

// rebuild is Rebuild, which ends by itself.
func (t *Table) rebuild(now mono.Time, conns []*Conn) {
	if len(conns) == 0 {
		return
	}
	slices.SortFunc(conns, byID)
	t.expect(Rebuilding, never, conns...)
	t.hands.Rebuild(conns)
}

// A Rebuilt is how the Rebuild of a connection ended. With a Reason, S is as it
// was, or Over: there is nothing to go on with.
type Rebuilt struct {
	HWID   abi.HWID
	Reason abi.Reason
	Detail string
	Over   bool
}

// Rebuilt goes on with connections whose sockets are in step with the wire
// again, or could not be brought there.
func (t *Table) Rebuilt(now mono.Time, ends []Rebuilt) error {
	var done, home, again []*Conn
	for i := range ends {
		e := &ends[i]
		c := t.conns[e.HWID]
		switch {
		case c == nil || c.Phase != Rebuilding:
		case e.Over:
			c.Attachment, c.end, c.reason, c.detail = abi.AttachShadow, Over, e.Reason, e.Detail
			home = append(home, c)
		case e.Reason == abi.None && c.orphan:
			c.Attachment = abi.AttachShadow
			home = append(home, c)
		case e.Reason == abi.None:
			c.Attachment = abi.AttachShadow
			done = append(done, c)
		case c.orphan:
			again = append(again, c)
		default:
			t.divertAgain(now, c, e.Reason, e.Detail)
		}
	}
	t.goHome(now, append(home, t.resume(now, done)...))
	if len(again) > 0 {
		t.hands.Rebuild(again)
	}
	return t.broken
}

// resume is Resume, with S described as it is now. It returns the connections
// that cannot be described, which the kernel can go on with.
func (t *Table) resume(now mono.Time, conns []*Conn) (home []*Conn) {
	if len(conns) == 0 || t.probe(conns) != nil {
		return conns
	}
	var ready []*Conn
	for _, c := range conns {
		if t.hands.Describe(c) != nil {
			home = append(home, c)
		} else {
			ready = append(ready, c)
		}
	}
	if len(ready) > 0 {
		t.expect(Resuming, now.Add(t.limits.Answer), ready...)
		t.command(abi.Resume, ready)
	}
	return home
}

// divertAgain is the undo of Part.
func (t *Table) divertAgain(now mono.Time, c *Conn, r abi.Reason, detail string) {
	c.undoing, c.reason, c.detail = true, r, detail
	t.expect(Diverting, now.Add(t.limits.Answer), c)
	t.command(abi.Divert, []*Conn{c})
}

// goHome un-steers connections whose sockets are in step, or over, and lets
// their programs go on.
func (t *Table) goHome(now mono.Time, conns []*Conn) {
	var orphans, others []*Conn
	for _, c := range conns {
		if c.orphan && c.end != Over || t.dead {
			orphans = append(orphans, c)
		} else {
			others = append(others, c)
		}
	}
	if len(others) > 0 {
		t.unsteer(now, others)
		t.hands.Thaw(others, false)
	}
	if len(orphans) == 0 {
		return
	}
	if err := t.hands.Unsteer(t.keysOf(orphans)); err != nil {
		t.fail("flows not un-steered: %v", err)
	}
	t.hands.Inherit(orphans)
	t.hands.Thaw(orphans, false)
	for _, c := range orphans {
		t.home(now, c)
	}
}

// resumed ends the way back to shadow, or the undo of a Join, and goes on home. What
// the device does not go on with is S's: it is in step.
func (t *Table) resumed(now mono.Time, answers []abi.Answer) {
	var thaw, undone, refused []*Conn
	for i := range answers {
		c := t.conns[answers[i].HWID]
		switch why := answers[i].Reason; {
		case c == nil || c.Phase != Resuming:
		case c.bypass: // it never was in it
			undone = append(undone, c)
		case why != abi.None:
			c.recalled = abi.None
			c.end, c.reason, c.detail = Uploaded, why, why.Text()
			refused = append(refused, c)
		default:
			thaw = append(thaw, c)
		}
	}
	t.goHome(now, refused)
	if len(thaw) > 0 {
		t.hands.Thaw(thaw, true)
	}
	for _, c := range undone {
		if c.strayed() && c.strays < mostStrays {
			t.ownAgain(now, c)
			continue
		}
		t.detach(c)
		t.rest(now, c, Offloaded)
	}
	var home []*Conn
	for _, c := range thaw {
		if c.stays && c.recalled == abi.None {
			t.rest(now, c, Shadowed)
		} else {
			if c.recalled != abi.None {
				c.end, c.reason, c.recalled = Uploaded, c.recalled, abi.None
			}
			home = append(home, c)
		}
	}
	for _, c := range home {
		t.pass(now, []*Conn{c}, c.end, c.reason, c.detail)
	}
}

// ErrStrayed says that S has received what the device never saw.
var ErrStrayed = errors.New("the socket has received octets that the device has not given it")

// mostStrays bounds how often one way into bypass is begun anew.
const mostStrays = 3

// strayed reports that the device was found out of step on the way into bypass,
// or to be passing on that account.
func (c *Conn) strayed() bool {
	return c.recalled == abi.OutOfStep || c.recalled == abi.None && (c.short == abi.OutOfStep || c.short == abi.Moving)
}

// ownAgain begins the way into bypass anew, with the channel that there is: S has
// got something from the wire that the device never saw, as what was in the backlog
// of its lock when the flow was steered. The device passes until it is in step.
func (t *Table) ownAgain(now mono.Time, c *Conn) {
	c.strays++
	c.recalled, c.short, c.detail = abi.None, abi.None, ""
	c.attached = &Step{HWID: c.HWID}
	t.own(now, []*Conn{c})
}

// bypassMoving reports that a connection is between shadow and bypass.
func (c *Conn) bypassMoving() bool { return c.Phase >= Attaching }

// lateBypass is Advance for the phases between shadow and bypass.
func (t *Table) lateBypass(now mono.Time, p Phase, conns []*Conn) {
	for _, c := range conns {
		switch p {
		case Attaching:
			t.detach(c)
			t.stay(now, c, abi.ChannelFailed, fmt.Sprintf("no channel after %v", t.limits.Answer))
		case Joining, Draining:
			t.unjoin(now, c, abi.NotDrained, fmt.Sprintf("S was not quiet after %v", now.Sub(c.since)))
		default: // Diverting, Parting, Resuming: the device does not answer
			t.fail("%v: %s was not answered within %v", c.Flow, p, t.limits.Answer)
			return
		}
	}
}

// overInBypass ends a connection of which the device says, while it is between
// shadow and bypass or in bypass, that it is over.
func (t *Table) overInBypass(now mono.Time, c *Conn, why abi.Reason) {
	switch c.Phase {
	case Rebuilding: // the hands work on it
		c.orphan, c.end, c.reason, c.detail = true, Over, why, why.Text()
		return
	case Resuming:
		if !c.bypass {
			t.hands.Thaw([]*Conn{c}, false)
		}
	}
	t.detach(c)
	c.end, c.reason, c.detail, c.Attachment = Over, why, why.Text(), abi.AttachShadow
	t.unsteer(now, []*Conn{c})
}

// loseBypass has the connections brought home that S alone cannot go on with,
// and returns the others.
func (t *Table) loseBypass(now mono.Time, all []*Conn, why abi.Reason) []*Conn {
	var others, rebuild []*Conn
	for _, c := range all {
		switch {
		case c.Phase == Resuming && !c.bypass:
			t.hands.Thaw([]*Conn{c}, false)
			others = append(others, c)
		case c.Attachment != abi.AttachBypass:
			if c.bypassMoving() {
				t.detach(c)
			}
			others = append(others, c)
		default:
			if c.Phase != Rebuilding {
				rebuild = append(rebuild, c)
			}
			if c.Phase == Owned || c.Phase == Diverting {
				c.since, c.stall, c.bytes = now, 0, 0
				c.end = Uploaded
			}
			if c.end != Over {
				c.end = Uploaded
			}
			c.orphan, c.reason, c.detail = true, why, why.Text()
		}
	}
	t.rebuild(now, rebuild)
	return others
}
