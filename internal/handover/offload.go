package handover

import (
	"bytes"
	"fmt"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// Offload starts to move connections to the device. since is when the
// admission of the first began; timeout is for the device to own each, 0 for
// the Table's limit.
func (t *Table) Offload(now, since mono.Time, ticket uint64, timeout time.Duration, cands []Candidate) {
	if timeout <= 0 {
		timeout = t.limits.Own
	}
	conns := make([]*Conn, 0, len(cands))
	for i := range cands {
		c := &Conn{Flow: cands[i].Flow, Key: cands[i].Flow.Key(), Path: cands[i].Path, control: cands[i].Control, bypass: cands[i].Bypass, ticket: ticket, since: since, allowed: timeout}
		if t.attachOwned(now, c) {
			continue
		}
		if r := t.presence(c); r != abi.None {
			t.refuse(now, c, r, r.Text())
			continue
		}
		t.flows[c.Key] = c
		conns = append(conns, c)
	}
	chunks(conns, func(some []*Conn) { t.admit(now, some) })
}

// attachOwned begins the way into bypass of a connection that is in shadow,
// where that is what c wants; false when it is not.
func (t *Table) attachOwned(now mono.Time, c *Conn) bool {
	there := t.flows[c.Key]
	if !c.bypass || there == nil || there.Phase != Owned || there.Attachment == abi.AttachBypass {
		return false
	}
	there.bypass, there.promoted, there.ticket, there.since, there.stall, there.bytes = true, true, c.ticket, c.since, 0, 0
	t.expect(Attaching, now.Add(t.limits.Answer), there)
	t.attach([]*Conn{there})
	return true
}

// presence says why a connection that is in the table already cannot be
// offloaded.
func (t *Table) presence(c *Conn) abi.Reason {
	switch there := t.flows[c.Key]; {
	case there == nil:
		return abi.None
	case there.Phase == Owned:
		return abi.AlreadyOnDevice
	}
	return abi.Moving
}

// refuse ends an offload that has changed nothing yet.
func (t *Table) refuse(now mono.Time, c *Conn, r abi.Reason, detail string) {
	c.reason, c.detail = r, detail
	if t.flows[c.Key] == c {
		t.forget(c)
	}
	t.finish(now, c, Refused)
}

// admit is the first Probe and Admit. The probe before Admit keeps the device
// from taking slots for what it may not have, and says what to offer.
func (t *Table) admit(now mono.Time, conns []*Conn) {
	if err := t.probe(conns); err != nil {
		t.refuseAll(now, conns, abi.InternalError, err)
		return
	}
	kept := make([]*Conn, 0, len(conns))
	for _, c := range conns {
		if r := Verdict(&c.State); r != abi.None {
			t.refuse(now, c, r, r.Text())
			continue
		}
		kept = append(kept, c)
	}
	if len(kept) == 0 {
		return
	}
	t.batch++
	if err := t.hands.Offer(t.batch, t.offersOf(kept)); err != nil {
		t.fail("offer not sent: %v", err)
		t.refuseAll(now, kept, abi.DeviceDown, err)
		return
	}
	t.batches[t.batch] = kept
	t.issued.offers += uint64(len(kept))
	t.expect(Admitting, now.Add(t.limits.Answer), kept...)
}

func (t *Table) refuseAll(now mono.Time, conns []*Conn, r abi.Reason, err error) {
	for _, c := range conns {
		t.refuse(now, c, r, err.Error())
	}
}

func (t *Table) offersOf(conns []*Conn) []abi.Offer {
	t.offers = t.offers[:0]
	for _, c := range conns {
		t.offers = append(t.offers, OfferOf(c.Key, c.Control(), &c.State))
	}
	return t.offers
}

// OfferOf is what a device is told of a flow in this state that is to have
// this congestion control.
func OfferOf(k flow.Key, control [16]byte, s *abi.KernelState) abi.Offer {
	return abi.Offer{Key: k, CongestionControl: control, MSS: s.MSS, Flags: uint32(s.Flags)}
}

// admitted goes on with the connections of one Admit. The answers stand in
// the order of the offers.
func (t *Table) admitted(now mono.Time, batch uint32, answers []abi.Answer) {
	conns := t.batches[batch]
	delete(t.batches, batch)
	if len(conns) != len(answers) {
		t.fail("%d offers of batch %d were answered %d times", len(conns), batch, len(answers))
		t.refuseAll(now, conns, abi.DeviceDown, t.broken)
		return
	}
	var kept, recalled []*Conn
	for i, c := range conns {
		a := &answers[i]
		switch {
		case a.Reason != abi.None:
			t.refuse(now, c, a.Reason, Detail(&c.State, a.Reason))
		case t.wrong(a.HWID) != "":
			t.fail("%v was admitted as %q, %s", c.Flow, a.HWID, t.wrong(a.HWID))
			t.refuse(now, c, abi.DeviceDown, t.broken.Error())
		default:
			t.take(c, a.HWID)
			if c.reason != abi.None {
				recalled = append(recalled, c)
				continue
			}
			kept = append(kept, c)
		}
	}
	t.undo(now, recalled)
	if len(kept) > 0 {
		t.steer(now, kept)
	}
}

// Detail says why a connection in this state is not admitted.
func Detail(s *abi.KernelState, r abi.Reason) string {
	if r == abi.CongestionControl {
		name, _, _ := bytes.Cut(s.CongestionControl[:], []byte{0})
		return fmt.Sprintf("the socket uses %s: %s", name, r.Text())
	}
	return r.Text()
}

// steer is Steer, the second Probe, Describe and Own. From Steer to Own
// nothing waits: only what the device passes in this time it must copy.
func (t *Table) steer(now mono.Time, conns []*Conn) {
	t.attach(conns)
	if err := t.hands.Steer(t.keysOf(conns), t.idsOf(conns)); err != nil {
		blame(conns, abi.InternalError, "steer: "+err.Error())
		t.undo(now, conns)
		return
	}
	t.own(now, conns)
}

// own is Describe and Own, with the kernel's state as it is now.
func (t *Table) own(now mono.Time, conns []*Conn) {
	if err := t.probe(conns); err != nil {
		t.unsteerAndUndo(now, conns, abi.InternalError, "probe: "+err.Error())
		return
	}
	owned := make([]*Conn, 0, len(conns))
	for _, c := range conns {
		if r, detail := t.describe(c); r != abi.None {
			t.unsteerAndUndo(now, []*Conn{c}, r, detail)
			continue
		}
		owned = append(owned, c)
	}
	for _, c := range owned {
		t.expect(Owning, now.Add(c.allowed), c)
	}
	if !t.command(abi.Own, owned) {
		t.unsteerAndUndo(now, owned, abi.DeviceDown, t.broken.Error())
	}
}

// describe checks again, since the program may have gone on, and writes the
// block.
func (t *Table) describe(c *Conn) (abi.Reason, string) {
	if r := Verdict(&c.State); r != abi.None {
		return r, "while it moved: " + r.Text()
	}
	if err := t.hands.Describe(c); err != nil {
		return abi.InternalError, "describe: " + err.Error()
	}
	return abi.None, ""
}

func blame(conns []*Conn, r abi.Reason, detail string) {
	for _, c := range conns {
		c.reason, c.detail = r, detail
	}
}

// undo releases connections that are admitted and not steered.
func (t *Table) undo(now mono.Time, conns []*Conn) {
	for _, c := range conns {
		c.end = Refused
	}
	t.release(now, conns)
}

// unsteerAndUndo is for connections that are steered and that the device only
// passes: no Pass is needed before they go.
func (t *Table) unsteerAndUndo(now mono.Time, conns []*Conn, r abi.Reason, detail string) {
	blame(conns, r, detail)
	for _, c := range conns {
		c.end = Refused
	}
	t.unsteer(now, conns)
}

// owned ends offloads, has them go on to bypass, or starts their undo.
func (t *Table) owned(now mono.Time, answers []abi.Answer) {
	var onward []*Conn
	for i := range answers {
		a := &answers[i]
		c := t.conns[a.HWID]
		if c == nil || c.Phase != Owning {
			continue // it came too late: the undo is under way
		}
		c.stall, c.bytes = time.Duration(a.StallNS), a.Bytes
		switch {
		case a.Reason != abi.None:
			t.pass(now, []*Conn{c}, Refused, a.Reason, a.Reason.Text())
		case c.bypass:
			onward = append(onward, c)
		default:
			t.rest(now, c, Offloaded)
		}
	}
	t.join(now, onward)
}

// late undoes offloads that the device did not come to own in time, with the
// peer's closed window as the reason where that is what kept it.
func (t *Table) late(now mono.Time, conns []*Conn) {
	if len(conns) == 0 {
		return
	}
	probed := t.probe(conns) == nil
	for _, c := range conns {
		r, waited := abi.Timeout, now.Sub(c.since).Round(time.Millisecond)
		detail := fmt.Sprintf("not owned after %v", waited)
		if s := &c.State; probed && s.Special == 0 && s.SndWnd < s.MSS {
			r, detail = abi.PeerWindowClosed, fmt.Sprintf("the peer's window is %d octets after %v", s.SndWnd, waited)
		}
		t.pass(now, []*Conn{c}, Refused, r, detail)
	}
}
