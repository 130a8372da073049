package driver

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/mono"
)

// A cause is why connections are moved.
type cause struct {
	reason abi.Reason
	detail string
}

// asked is the cause of what an operator wants.
var asked = cause{reason: abi.Asked}

// with adds what caused a move to what became of it.
func (c cause) with(detail string) string {
	switch {
	case detail == "":
		return c.detail
	case c.detail == "":
		return detail
	}
	return detail + "; " + c.detail
}

// newRequest registers a request for n connections; its outcomes come when
// all have one.
func (u *uplink) newRequest(n int, why cause) (uint64, <-chan []handover.Outcome) {
	u.ticket++
	r := &request{left: n, why: why, done: make(chan []handover.Outcome, 1)}
	u.requests[u.ticket] = r
	return u.ticket, r.done
}

// offload starts to move connections whose route has been checked.
func (u *uplink) offload(since mono.Time, o Options, cands []candidate) <-chan []handover.Outcome {
	now := mono.Now()
	ticket, done := u.newRequest(len(cands), o.why)
	if why, detail := u.unready(); why != abi.None {
		for i := range cands {
			u.refuseOne(ticket, cands[i].Flow, why, detail)
		}
		return done
	}
	u.move(now, since, ticket, o.Timeout, u.enrol(now, since, ticket, o.Timeout, cands))
	return done
}

// move starts to move connections that have their places.
func (u *uplink) move(now, since mono.Time, ticket uint64, timeout time.Duration, cands []handover.Candidate) {
	u.table.Offload(now, since, ticket, timeout, cands)
	if err := u.table.Err(); err != nil {
		u.lose(now, abi.DeviceDied, err.Error())
	}
}

// unready says why nothing can be offloaded now.
func (u *uplink) unready() (abi.Reason, string) {
	switch {
	case !u.up:
		return abi.UplinkGone, u.name + ": " + abi.UplinkGone.Text()
	case u.stopping || u.draining != nil:
		return abi.DeviceStopped, "the device of " + u.name + " is being stopped or replaced"
	case u.proc == nil || u.proc.doomed || !u.proc.greeted():
		return abi.DeviceDown, "the device of " + u.name + " is not running: " + u.down
	case u.paused:
		return abi.DevicePaused, "the device of " + u.name + " is paused; toehold device-resume has it take connections again"
	}
	return abi.None, ""
}

func (u *uplink) refuseOne(ticket uint64, id flow.ID, why abi.Reason, detail string) {
	u.arrive(handover.Outcome{Kind: handover.Refused, Ticket: ticket, Flow: id, Reason: why, Detail: detail})
}

// upload starts to move connections home.
func (u *uplink) upload(ids []flow.ID, why cause) <-chan []handover.Outcome {
	now := mono.Now()
	ticket, done := u.newRequest(len(ids), why)
	u.table.Upload(now, ticket, ids, why.reason)
	if err := u.table.Err(); err != nil {
		u.lose(now, abi.DeviceDied, err.Error())
	}
	return done
}

// settle notes what has ended: in the journal, and for those who asked. What
// has left makes room.
func (u *uplink) settle() {
	for u.note() || u.fill(mono.Now()) {
	}
}

// note is settle for the outcomes that there are; false for none.
func (u *uplink) note() bool {
	outcomes := u.table.Outcomes()
	if len(outcomes) == 0 {
		return false
	}
	home := u.arrived(outcomes)
	for i := range outcomes {
		u.arrive(outcomes[i])
	}
	if len(home) > 0 {
		u.upload(home, cause{reason: abi.ProgramForbids})
	}
	return true
}

// eventKinds are the events of outcomes.
var eventKinds = [...]string{
	handover.Offloaded: EventOffloaded,
	handover.Refused:   EventRefused,
	handover.Uploaded:  EventUploaded,
	handover.Over:      EventEnded,
	handover.Shadowed:  EventShadowed,
	handover.Bypassed:  EventBypassed,
}

// why is the cause of a request.
func (u *uplink) why(ticket uint64) cause {
	if r := u.requests[ticket]; r != nil {
		return r.why
	}
	return asked
}

func (u *uplink) arrive(o handover.Outcome) {
	r, why := u.requests[o.Ticket], u.why(o.Ticket)
	if r != nil && o.Kind != handover.Over {
		o.Detail = why.with(o.Detail)
	}
	switch o.Kind {
	case handover.Offloaded:
		o.Reason = why.reason
		u.counters.offloads++
		if o.Short != abi.None {
			o.Detail = "it stays in shadow, " + o.Short.String() + ": " + o.Detail
		}
	case handover.Bypassed:
		o.Reason = why.reason
	case handover.Shadowed:
	case handover.Refused:
		u.counters.refused[o.Reason.String()]++
	case handover.Over:
		o.Stall, o.Bytes = 0, 0 // they are of the offload
		u.counters.uploads++
	default:
		u.counters.uploads++
	}
	if o.Reason == abi.Displaced {
		o.Detail = u.madeRoomFor(o.Flow)
	}
	u.vacate(o.Flow.Key(), o.Kind)
	u.journal.AddMove(o.Flow, o.Inode, Event{
		Kind: eventKinds[o.Kind], ID: o.HWID.String(), Device: u.name, Reason: o.Reason.String(), Detail: o.Detail,
		Elapsed: o.Took.Microseconds(), Stall: o.Stall.Microseconds(), Bytes: o.Bytes, Attachment: attachmentName(&o),
	})
	if h := u.hardware(o.HWID); h != nil && o.Kind == handover.Uploaded {
		u.journal.carry(o.Flow, h.Retransmits)
	}
	if r == nil {
		u.unasked(&o)
		return
	}
	r.outcomes = append(r.outcomes, o)
	if r.left--; r.left == 0 {
		delete(u.requests, o.Ticket)
		r.done <- r.outcomes
	}
}

// unasked logs what a device gave back by itself. That all went home at once
// is logged where it is decided.
func (u *uplink) unasked(o *handover.Outcome) {
	switch o.Reason {
	case abi.DeviceDied, abi.DeviceHung, abi.DeviceStopped, abi.UplinkGone:
		return
	}
	level := slog.LevelInfo
	if o.Kind == handover.Over {
		level = slog.LevelDebug
	}
	u.log.Log(context.Background(), level, o.Kind.String(), "flow", o.Flow, "id", o.HWID, "reason", o.Reason, "detail", o.Detail)
}

// A share is the part of a request that one uplink works on.
type share struct {
	uplink *uplink
	done   <-chan []handover.Outcome
}

// collect waits for the uplinks' shares of a request and makes its Result.
// refused are those that no uplink was asked for.
func collect(ctx context.Context, since mono.Time, refused []Refusal, shares []share) (Result, error) {
	r := Result{Moved: []Moved{}, Refused: append([]Refusal{}, refused...)}
	for _, s := range shares {
		select {
		case outcomes := <-s.done:
			r.add(outcomes)
		case <-s.uplink.ended:
			return r, fmt.Errorf("uplink %s has been stopped", s.uplink.name)
		case <-ctx.Done():
			return r, fmt.Errorf("not waited for the end of the moves: %w", ctx.Err())
		}
	}
	r.sort()
	r.Wall = mono.Now().Sub(since).Microseconds()
	return r, nil
}

// attachmentName is that of a connection that the device has now, else "".
func attachmentName(o *handover.Outcome) string {
	switch {
	case o.Kind != handover.Offloaded && o.Kind != handover.Shadowed && o.Kind != handover.Bypassed:
		return ""
	case o.Attachment == abi.AttachBypass:
		return Bypass
	}
	return Shadow
}

// sort puts the connections in the order of their flows, as a list has them.
func (r *Result) sort() {
	slices.SortFunc(r.Moved, func(a, b Moved) int { return inOrder(a.Local, a.Remote, b.Local, b.Remote) })
	slices.SortFunc(r.Refused, func(a, b Refusal) int { return inOrder(a.Local, a.Remote, b.Local, b.Remote) })
}

// inOrder compares two flows, first by their local ends.
func inOrder(local, remote, otherLocal, otherRemote netip.AddrPort) int {
	return cmp.Or(local.Compare(otherLocal), remote.Compare(otherRemote))
}

// add appends the outcomes of one uplink. The moves of several connections
// overlap, so the time of all is shared out.
func (r *Result) add(outcomes []handover.Outcome) {
	first, all := len(r.Moved), time.Duration(0)
	for i := range outcomes {
		o := &outcomes[i]
		if o.Kind == handover.Refused || o.Kind == handover.Over {
			r.Refused = append(r.Refused, Refusal{Local: o.Flow.Local, Remote: o.Flow.Remote, Reason: o.Reason.String(), Detail: o.Detail})
			continue
		}
		all = max(all, o.Took)
		r.Moved = append(r.Moved, Moved{
			Local: o.Flow.Local, Remote: o.Flow.Remote, ID: o.HWID.String(), Stall: o.Stall.Microseconds(), Bytes: o.Bytes,
			Attachment: attachmentName(o), Reason: o.Short.String(),
		})
		if o.Short != abi.None {
			r.Moved[len(r.Moved)-1].Detail = o.Detail
		}
	}
	for i := range r.Moved[first:] {
		r.Moved[first+i].Took = (all / time.Duration(len(r.Moved)-first)).Microseconds()
	}
}
