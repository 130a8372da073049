package handover

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// Upload starts to move connections home. Those of which the Table knows
// nothing are refused as being in the kernel.
func (t *Table) Upload(now mono.Time, ticket uint64, ids []flow.ID, why abi.Reason) {
	conns := make([]*Conn, 0, len(ids))
	for _, id := range ids {
		c := t.flows[id.Key()]
		if c != nil && c.Phase == Owned {
			c.ticket, c.since = ticket, now
			c.stall, c.bytes = 0, 0
			conns = append(conns, c)
			continue
		}
		r := abi.AlreadyInKernel
		if c != nil {
			r = abi.Moving
		}
		t.done = append(t.done, Outcome{Kind: Refused, Ticket: ticket, Flow: id, Reason: r, Detail: r.Text()})
	}
	t.leave(now, conns, Uploaded, why, "")
}

// UploadAll sends every connection home, also those that are on their way to
// the device.
func (t *Table) UploadAll(now mono.Time, why abi.Reason) {
	var owned, owning []*Conn
	for _, c := range t.flows {
		switch c.Phase {
		case Owned:
			c.since, c.stall, c.bytes = now, 0, 0
			owned = append(owned, c)
		case Owning:
			owning = append(owning, c)
		case Admitting:
			c.reason, c.detail = why, why.Text() // undone as soon as it is admitted
		case Passing, Releasing:
		default:
			c.recalled, c.stays = why, false
		}
	}
	slices.SortFunc(owned, byID)
	slices.SortFunc(owning, byID)
	t.leave(now, owned, Uploaded, why, "")
	t.pass(now, owning, Refused, why, why.Text())
}

// pass is Pass, the first step home and the undo of Own.
func (t *Table) pass(now mono.Time, conns []*Conn, end Kind, r abi.Reason, detail string) {
	if len(conns) == 0 {
		return
	}
	for _, c := range conns {
		c.end, c.reason, c.detail = end, r, detail
	}
	t.expect(Passing, now.Add(t.limits.Answer), conns...)
	if !t.command(abi.Pass, conns) {
		t.unsteer(now, conns)
	}
}

// passing goes on with connections that the device passes again. An answer
// with a reason is no hindrance: un-steering is safe all the same.
func (t *Table) passing(now mono.Time, answers []abi.Answer) {
	conns := make([]*Conn, 0, len(answers))
	for i := range answers {
		a := &answers[i]
		if c := t.conns[a.HWID]; c != nil && c.Phase == Passing {
			c.stall += time.Duration(a.StallNS)
			c.bytes = max(c.bytes, a.Bytes)
			conns = append(conns, c)
		}
	}
	t.unsteer(now, conns)
}

// unsteer is Unsteer, Inherit and Release. No way back from here, and none is needed.
func (t *Table) unsteer(now mono.Time, conns []*Conn) {
	if len(conns) == 0 {
		return
	}
	if err := t.hands.Unsteer(t.keysOf(conns)); err != nil {
		// Steered to a device that passes, they still work; Lost un-steers
		// them with the device fenced.
		t.fail("flows not un-steered: %v", err)
		t.expect(Passing, now.Add(t.limits.Answer), conns...)
		return
	}
	for _, c := range conns {
		c.arrived = now // what is left is the device's tidying up
	}
	t.hands.Inherit(conns)
	t.release(now, conns)
}

// release is Release, the last step home and the undo of Admit.
func (t *Table) release(now mono.Time, conns []*Conn) {
	t.expect(Releasing, now.Add(t.limits.Answer), conns...)
	if !t.command(abi.Release, conns) {
		for _, c := range conns {
			t.home(now, c)
		}
	}
}

// home ends the way home of a connection.
func (t *Table) home(now mono.Time, c *Conn) {
	t.forget(c)
	t.finish(now, c, c.end)
}

// notice handles what the device says by itself.
func (t *Table) notice(now mono.Time, c *Conn, a *abi.Answer) {
	over := a.Reason == abi.Closed || a.Reason == abi.ResetByPeer || a.Reason == abi.ResetByProgram || a.Reason == abi.NoConnection
	if over && (c.bypassMoving() || c.Phase == Owned && c.Attachment == abi.AttachBypass) {
		if c.Phase == Owned {
			c.since = now
		}
		t.overInBypass(now, c, a.Reason)
		return
	}
	switch c.Phase {
	case Owning:
		c.end = Refused
	case Owned:
		c.since, c.end = now, Uploaded
		if over {
			c.end = Over
		}
	case Passing, Releasing:
		return // it is on its way home
	default: // between shadow and bypass
		c.recalled = a.Reason
		return
	}
	if over {
		c.reason, c.detail = a.Reason, a.Reason.Text()
		t.unsteer(now, []*Conn{c})
		return
	}
	t.leave(now, []*Conn{c}, c.end, a.Reason, a.Reason.Text())
}

// Gone ends connections that the kernel has no socket for any more.
func (t *Table) Gone(now mono.Time, ids []flow.ID) error {
	for _, id := range ids {
		if c := t.flows[id.Key()]; c != nil && c.HWID != 0 {
			t.notice(now, c, &abi.Answer{HWID: c.HWID, Reason: abi.Closed})
		}
	}
	return t.broken
}

// Answer takes a message of the device's. It returns ErrBroken for what no
// device in order would say.
func (t *Table) Answer(now mono.Time, h abi.Header, answers []abi.Answer) error {
	t.vainly(h, answers)
	switch h.Type {
	case abi.Admitted:
		if t.batches[h.Batch] == nil {
			t.fail("batch %d was admitted and never offered", h.Batch)
		}
		t.admitted(now, h.Batch, answers)
	case abi.Passing:
		t.passing(now, answers)
	case abi.Owned:
		t.owned(now, answers)
	case abi.Joined:
		t.joined(now, answers)
	case abi.Parted:
		t.parted(now, answers)
	case abi.Resumed:
		t.resumed(now, answers)
	case abi.Released, abi.Notice, abi.Diverted:
		t.each(now, h.Type, answers)
	default:
		t.fail("message of type %d is not the device's to send", h.Type)
	}
	return t.broken
}

// each applies the answers that stand for themselves. Ids that name no
// connection are stale: their release was not awaited any longer.
func (t *Table) each(now mono.Time, m abi.Type, answers []abi.Answer) {
	for i := range answers {
		a := &answers[i]
		c := t.conns[a.HWID]
		switch {
		case c == nil:
		case m == abi.Notice:
			t.notice(now, c, a)
		case m == abi.Diverted:
			t.diverted(now, c, a)
		case c.Phase == Releasing:
			t.home(now, c)
		}
	}
}

// Advance undoes or ends what has waited for its time.
func (t *Table) Advance(now mono.Time) error {
	var expired [phases][]*Conn
	for c := range t.moving {
		if now >= c.deadline {
			expired[c.Phase] = append(expired[c.Phase], c)
		}
	}
	for _, conns := range expired {
		slices.SortFunc(conns, byID)
	}
	if stuck := expired[Admitting]; len(stuck) > 0 {
		t.fail("%v was not admitted or refused within %v", stuck[0].Flow, t.limits.Answer)
	}
	t.late(now, expired[Owning])
	for _, c := range expired[Passing] {
		c.detail = fmt.Sprintf("the device did not flush within %v", t.limits.Answer)
	}
	t.unsteer(now, expired[Passing])
	for _, c := range expired[Releasing] {
		t.home(now, c)
	}
	for p := Attaching; p < phases; p++ {
		t.lateBypass(now, p, expired[p])
	}
	return t.broken
}

func byID(a, b *Conn) int { return cmp.Compare(a.HWID, b.HWID) }

// Lost takes every connection home without the device's help. The caller has
// fenced the device first. On an error the flows are still in the steering
// map, which is harmless while the fence stands; call again.
func (t *Table) Lost(now mono.Time, why abi.Reason) error {
	t.dead = true
	all := make([]*Conn, 0, len(t.flows))
	for _, c := range t.flows {
		if !c.orphan {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, byID)
	all = t.loseBypass(now, all, why)
	if len(all) > 0 {
		if err := t.hands.Unsteer(t.keysOf(all)); err != nil {
			return err
		}
		t.hands.Inherit(all)
	}
	for _, c := range all {
		t.lose(now, c, why)
	}
	clear(t.batches)
	t.broken = nil
	return nil
}

func (t *Table) lose(now mono.Time, c *Conn, why abi.Reason) {
	switch c.Phase {
	case Owned:
		c.since, c.end = now, Uploaded
	case Admitting, Owning:
		c.end = Refused
	case Attaching, Joining, Draining, Resuming:
		c.end = Uploaded
	}
	if c.Phase <= Owned || c.bypassMoving() {
		c.reason, c.detail = why, why.Text()
	}
	t.home(now, c)
}

// Serve says that there is a device, after Lost. No connection of the one before
// is left.
func (t *Table) Serve() { t.dead = false }
