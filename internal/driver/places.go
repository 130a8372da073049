package driver

import (
	"fmt"
	"time"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/mono"
	"toehold/internal/tcp"
)

// A candidate is a connection whose route has been checked, with what it has
// to show for a place on the device.
type candidate struct {
	handover.Candidate
	state *abi.KernelState // as just probed
	claim admission.Claim
}

// A latecomer has a place in the roster, and waits until another connection
// has left the device.
type latecomer struct {
	handover.Candidate
	ticket  uint64
	since   mono.Time
	timeout time.Duration
	instead flow.ID
	by      mono.Time // not to wait longer
}

// roomWithin is how long a connection may take to make room: as long as the
// device has for Pass and for Release.
const roomWithin = 2 * answerWithin

// enrol gives candidates their places and returns those that can move now. The
// others are refused, or wait for the connection that makes room for them:
// there are never more of them than places. Nobody is asked to make room for
// one that is known to be refused.
func (u *uplink) enrol(now, since mono.Time, ticket uint64, timeout time.Duration, cands []candidate) []handover.Candidate {
	cands = u.sift(ticket, cands)
	enrolled := make([]handover.Candidate, 0, len(cands))
	applicants := make([]admission.Applicant, len(cands))
	for i := range cands {
		c := &cands[i]
		applicants[i] = admission.Applicant{Flow: c.Flow, User: c.state.UID, Claim: c.claim}
	}
	var leaving []flow.ID
	for i, v := range u.roster.Apply(now, applicants) {
		c := cands[i].Candidate
		switch {
		case u.latecomers[c.Flow.Key()] != nil:
			u.refuseOne(ticket, c.Flow, abi.Moving, abi.Moving.Text())
		case v.Reason != abi.None:
			u.refuseOne(ticket, c.Flow, v.Reason, v.Detail)
		case !v.Displaces():
			enrolled = append(enrolled, c)
		default:
			if why := u.keeps(v.Instead.Key()); why != abi.None {
				u.roster.Stay(v.Instead.Key())
				u.roster.GiveBack(c.Flow.Key())
				u.refuseOne(ticket, c.Flow, why, why.Text())
				continue
			}
			u.latecomers[c.Flow.Key()] = &latecomer{c, ticket, since, timeout, v.Instead, now.Add(roomWithin)}
			u.makeRoom[v.Instead.Key()] = c.Flow
			leaving = append(leaving, v.Instead)
		}
	}
	u.displace(now, leaving)
	return enrolled
}

// sift refuses candidates that would be refused whoever made room for them, and
// returns the others.
func (u *uplink) sift(ticket uint64, cands []candidate) []candidate {
	kept := make([]candidate, 0, len(cands))
	for i := range cands {
		c := &cands[i]
		if why := u.foresee(c); why != abi.None {
			u.refuseOne(ticket, c.Flow, why, handover.Detail(c.state, why))
			continue
		}
		kept = append(kept, *c)
	}
	return kept
}

// foresee says what is known to keep a connection from the device before that
// is asked: the connection's state, and what the device has been told to leave
// to the kernel. The device decides for itself all the same.
func (u *uplink) foresee(c *candidate) abi.Reason {
	k := c.Flow.Key()
	if u.table.Find(k) != nil || u.latecomers[k] != nil {
		return abi.None // that is the answer
	}
	if why := handover.Verdict(c.state); why != abi.None {
		return why
	}
	control := c.Control
	if control == [16]byte{} {
		control = c.state.CongestionControl
	}
	control = u.cfg.Controls.of(control)
	offer := handover.OfferOf(k, control, c.state)
	switch {
	case u.cfg.Capability.Lacks(&offer):
		return abi.ProtocolFeature
	case control != [16]byte{} && !tcp.Supports(text(control)):
		return abi.CongestionControl
	}
	return abi.None
}

// keeps says why a connection on the device need not make room: it has not come
// yet, or the device takes nobody new. None is for one that is on its way home,
// or can be sent there.
func (u *uplink) keeps(k flow.Key) abi.Reason {
	if c := u.table.Find(k); c == nil || c.Phase < handover.Owned {
		return abi.DeviceFull
	}
	return u.overloaded()
}

// overloaded says what the device lacks for another connection, as far as the
// load that it last published tells.
func (u *uplink) overloaded() abi.Reason {
	if u.set == nil {
		return abi.None
	}
	l, busy := u.load(), u.cfg.Capability.Busy
	switch {
	case l == nil:
		return abi.None
	case l.PoolUsed > u.proc.greeting.Memory/8*7:
		return abi.DeviceMemory
	case busy > 0 && 100*l.BusyShare >= float64(busy):
		return abi.DeviceCPU
	}
	return abi.None
}

func (u *uplink) displace(now mono.Time, ids []flow.ID) {
	var owned []flow.ID
	for _, id := range ids {
		if c := u.table.Find(id.Key()); c != nil && c.Phase == handover.Owned {
			owned = append(owned, id)
		}
	}
	if len(owned) > 0 {
		u.table.Upload(now, 0, owned, abi.Displaced)
	}
}

// fill moves latecomers whose time has come, and refuses those that have
// waited for too long or that there is no device for any more. It reports
// whether there were any.
func (u *uplink) fill(now mono.Time) (any bool) {
	for k, l := range u.latecomers {
		why, detail, due := u.turn(now, l)
		if !due {
			continue
		}
		any = true
		delete(u.latecomers, k)
		delete(u.makeRoom, l.instead.Key())
		if why != abi.None {
			u.refuseOne(l.ticket, l.Flow, why, detail)
			continue
		}
		u.move(now, l.since, l.ticket, l.timeout, []handover.Candidate{l.Candidate})
	}
	return any
}

// turn says whether it is l's turn, and if it is refused then, why.
func (u *uplink) turn(now mono.Time, l *latecomer) (why abi.Reason, detail string, due bool) {
	if why, detail = u.unready(); why != abi.None {
		return why, detail, true
	}
	if u.table.Find(l.instead.Key()) == nil && u.table.Len() < u.cfg.MaxConnections {
		return abi.None, "", true
	}
	return abi.DeviceFull, fmt.Sprintf("%s did not make room within %v", l.instead, roomWithin), now >= l.by
}

// vacate gives up the place of a connection that neither has one on the device
// any more nor waits for one. Who made room for one that did not come has done
// so in vain.
func (u *uplink) vacate(k flow.Key, what handover.Kind) {
	switch {
	case u.table.Find(k) != nil || u.latecomers[k] != nil:
	case what == handover.Refused:
		u.roster.GiveBack(k)
	default:
		u.roster.Leave(k)
	}
}

// measure takes what a connection on the device has moved lately.
func (u *uplink) measure(now mono.Time, c *handover.Conn) {
	if h := u.hardware(c.HWID); h != nil {
		u.roster.Measure(now, c.Key, h.BytesSent+h.BytesReceived)
	}
}

// madeRoomFor is the detail of a displaced connection's upload.
func (u *uplink) madeRoomFor(id flow.ID) string {
	if other, ok := u.makeRoom[id.Key()]; ok {
		return "it made room for " + other.String()
	}
	return abi.Displaced.Text()
}
