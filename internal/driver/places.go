package driver

import (
	"fmt"
	"time"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/mono"
)

// A candidate is a connection whose route has been checked, with what it has
// to show for a place on the device.
type candidate struct {
	handover.Candidate
	user  uint32
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
// there are never more of them than places.
func (u *uplink) enrol(now, since mono.Time, ticket uint64, timeout time.Duration, cands []candidate) []handover.Candidate {
	enrolled := make([]handover.Candidate, 0, len(cands))
	applicants := make([]admission.Applicant, len(cands))
	for i := range cands {
		c := &cands[i]
		applicants[i] = admission.Applicant{Flow: c.Flow, User: c.user, Claim: c.claim}
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
		case !u.leaves(v.Instead.Key()):
			u.roster.Stay(v.Instead.Key())
			u.roster.Leave(c.Flow.Key())
			u.refuseOne(ticket, c.Flow, abi.DeviceFull, abi.DeviceFull.Text())
		default:
			u.latecomers[c.Flow.Key()] = &latecomer{c, ticket, since, timeout, v.Instead, now.Add(roomWithin)}
			u.makeRoom[v.Instead.Key()] = c.Flow
			leaving = append(leaving, v.Instead)
		}
	}
	u.displace(now, leaving)
	return enrolled
}

// leaves says that a connection is on its way home, or can be sent there: not
// one that has not come yet.
func (u *uplink) leaves(k flow.Key) bool {
	c := u.table.Find(k)
	return c != nil && c.Phase >= handover.Owned
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
// any more nor waits for one.
func (u *uplink) vacate(k flow.Key) {
	if u.table.Find(k) == nil && u.latecomers[k] == nil {
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
