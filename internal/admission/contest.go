package admission

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// A contest is one call of Apply.
type contest struct {
	roster *Roster
	now    mono.Time
	ranked []*place // those with a place, the weakest first; nil until needed
}

// A shortage is the limits that an applicant meets.
type shortage struct {
	prefix         netip.Prefix // valid: its quota is used up
	user           uint32
	ofUser, device bool
}

// eases says that the shortage would not be with p gone.
func (s *shortage) eases(p *place) bool {
	return (!s.prefix.IsValid() || p.prefix == s.prefix) && (!s.ofUser || p.User == s.user)
}

func (s *shortage) none() bool { return !s.prefix.IsValid() && !s.ofUser && !s.device }

func (r *Roster) shortage(a *Applicant) (s shortage) {
	l, prefix := &r.limits, r.prefixOf(a.Flow.Remote.Addr())
	if l.PerPrefix > 0 && r.prefixes[prefix] >= l.PerPrefix {
		s.prefix = prefix
	}
	s.user, s.ofUser = a.User, l.PerUser > 0 && r.users[a.User] >= l.PerUser
	s.device = l.Connections > 0 && r.staying >= l.Connections
	return s
}

// refusal is the verdict when nobody makes room.
func (s *shortage) refusal(l *Limits, why string) Verdict {
	switch {
	case s.prefix.IsValid():
		return Verdict{Reason: abi.PrefixQuota, Detail: fmt.Sprintf("%d connections with %s are on the device, the most allowed%s", l.PerPrefix, s.prefix, why)}
	case s.ofUser:
		return Verdict{Reason: abi.UserQuota, Detail: fmt.Sprintf("%d connections of user %d are on the device, the most allowed%s", l.PerUser, s.user, why)}
	}
	return Verdict{Reason: abi.DeviceFull, Detail: fmt.Sprintf("%d connections are on the device, the most allowed%s", l.Connections, why)}
}

// judge answers one applicant, and gives it its place.
func (c *contest) judge(a *Applicant) Verdict {
	r := c.roster
	s := r.shortage(a)
	if s.none() {
		r.take(c.now, a, flow.Key{})
		return Verdict{}
	}
	if left := r.resting(c.now, a); left > 0 {
		return s.refusal(&r.limits, fmt.Sprintf("; it made room for another one and rests for %v", left.Round(time.Second/10)))
	}
	p := c.weakest(a, &s)
	if p == nil {
		return s.refusal(&r.limits, ", and none of them is so much less useful that it would make room")
	}
	p.leaving = true
	r.add(p, -1)
	r.rest(c.now, p.Flow.Key())
	r.take(c.now, a, p.Flow.Key())
	return Verdict{Instead: p.Flow}
}

// weakest is the least useful connection that would make room for a, nil when
// there is none.
func (c *contest) weakest(a *Applicant, s *shortage) *place {
	if len(c.roster.rests) >= mostRests && !c.roster.wake(c.now) {
		return nil
	}
	c.rank()
	for _, p := range c.ranked {
		if !a.outranks(p.Claim) {
			return nil // nor those that follow
		}
		stayed := c.now.Sub(p.since) >= c.roster.limits.MinStay || a.Asked && !p.Asked
		if !p.leaving && s.eases(p) && stayed {
			return p
		}
	}
	return nil
}

// rank sorts the places there were when the first applicant needed one. Those
// that got theirs since outrank the applicants that follow.
func (c *contest) rank() {
	if c.ranked != nil {
		return
	}
	c.ranked = make([]*place, 0, len(c.roster.places))
	for _, p := range c.roster.places {
		c.ranked = append(c.ranked, p)
	}
	slices.SortFunc(c.ranked, func(a, b *place) int {
		return cmp.Or(a.compare(b.Claim), cmp.Compare(a.Rate, b.Rate), cmp.Compare(a.since, b.since),
			a.Flow.Local.Compare(b.Flow.Local), a.Flow.Remote.Compare(b.Flow.Remote))
	})
}

// A rest is that of a connection that made room: it does not ask another one
// to, until later and later each time. So two connections whose rates depend
// on where they are do not swap for ever.
type rest struct {
	until mono.Time
	long  time.Duration
}

// Bounds of rests.
const (
	firstRest = 30 * time.Second
	longRest  = 16 * time.Minute
	mostRests = 4096
)

func (r *Roster) rest(now mono.Time, k flow.Key) {
	long := max(firstRest, min(2*r.rests[k].long, longRest))
	r.rests[k] = rest{until: now.Add(long), long: long}
}

// pardon takes the last rest of k back.
func (r *Roster) pardon(k flow.Key) {
	v := r.rests[k]
	v.until, v.long = v.until.Add(-v.long), v.long/2
	if v.long < firstRest {
		delete(r.rests, k)
		return
	}
	r.rests[k] = v
}

// resting is how long a still has to rest. What an operator wants is not kept.
func (r *Roster) resting(now mono.Time, a *Applicant) time.Duration {
	if a.Asked {
		return 0
	}
	return r.rests[a.Flow.Key()].until.Sub(now)
}

// wake forgets those that have rested, and once more as long since. It reports
// whether there is room for another one.
func (r *Roster) wake(now mono.Time) bool {
	for k, v := range r.rests {
		if now >= v.until.Add(v.long) {
			delete(r.rests, k)
		}
	}
	return len(r.rests) < mostRests
}
