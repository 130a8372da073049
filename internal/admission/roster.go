// Package admission decides who gets a place on a device, who has to make room,
// and what of a connection's traffic speaks against it. It is pure: time and
// measurements come in, verdicts go out.
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

// Limits are of the connections of one device. A count of 0 is no limit.
type Limits struct {
	Connections      int // in all
	PerPrefix        int // with peers in one prefix
	PerUser          int // of one user's sockets
	Prefix4, Prefix6 int // bits of such a prefix
	MinStay          time.Duration
}

// The defaults of Limits. A site has a /24 or a /56 as a rule (RFC 6177); with
// less to stay, a device would be busy with moves.
const (
	DefaultPrefix4 = 24
	DefaultPrefix6 = 56
	DefaultMinStay = 10 * time.Second
)

// Check says what is wrong with limits.
func (l *Limits) Check() error {
	switch {
	case l.PerPrefix < 0 || l.PerUser < 0:
		return fmt.Errorf("a quota of %d connections is less than none", min(l.PerPrefix, l.PerUser))
	case l.Prefix4 < 1 || l.Prefix4 > 32:
		return fmt.Errorf("an IPv4 prefix of %d bits is not from 1 to 32", l.Prefix4)
	case l.Prefix6 < 1 || l.Prefix6 > 128:
		return fmt.Errorf("an IPv6 prefix of %d bits is not from 1 to 128", l.Prefix6)
	case l.MinStay < 0 || l.MinStay > time.Hour:
		return fmt.Errorf("a stay of %v is not from 0s to 1h", l.MinStay)
	}
	return nil
}

// A Claim is what a connection has to show for a place. What stands first
// weighs more than all that follows.
type Claim struct {
	Asked    bool   // an operator wants it there
	Priority int    // of the rule that does
	Rate     uint64 // octets a second, both ways, of late; 0: not known
}

// What a Rate must be to take a place from another one, so that it is worth a
// move and two connections do not swap for ever.
const (
	leastRate = 10_000 // octets a second
	advantage = 2      // times that of the other one
)

// outranks says that c's claim is worth the move of a connection with claim o.
func (c Claim) outranks(o Claim) bool {
	if d := c.compare(o); d != 0 {
		return d > 0
	}
	return c.Rate >= leastRate && c.Rate/advantage >= o.Rate
}

// compare is the order of claims by all but the rate.
func (c Claim) compare(o Claim) int {
	if c.Asked != o.Asked {
		if c.Asked {
			return 1
		}
		return -1
	}
	return cmp.Compare(c.Priority, o.Priority)
}

// An Applicant is a connection that is to have a place.
type Applicant struct {
	Flow flow.ID
	User uint32
	Claim
}

// A Verdict is the answer to an Applicant. It has a place when Reason is
// None; Instead, when valid, is the connection that has to make room first.
type Verdict struct {
	Reason  abi.Reason
	Detail  string
	Instead flow.ID
}

// Displaces says that a connection has to make room.
func (v *Verdict) Displaces() bool { return v.Instead != flow.ID{} }

// A Roster has the places of one device. Its tables have an entry for each
// connection with a place and mostRests others, no more.
type Roster struct {
	limits   Limits
	places   map[flow.Key]*place
	prefixes map[netip.Prefix]int
	users    map[uint32]int
	staying  int
	rests    map[flow.Key]rest
}

// A place is that of one connection.
type place struct {
	Applicant
	prefix  netip.Prefix
	since   mono.Time
	octets  uint64    // when it was last measured
	counted mono.Time // then
	leaving bool      // it makes room, and counts no more
	instead flow.Key  // of the one that made room for it; zero: none
}

// NewRoster returns a Roster in which all places are free.
func NewRoster(l Limits) *Roster {
	return &Roster{
		limits: l, places: make(map[flow.Key]*place), rests: make(map[flow.Key]rest),
		prefixes: make(map[netip.Prefix]int), users: make(map[uint32]int),
	}
}

// Len is the number of connections that have a place or are about to leave it.
func (r *Roster) Len() int { return len(r.places) }

// Has says that a connection has a place.
func (r *Roster) Has(k flow.Key) bool { return r.places[k] != nil }

// Apply answers applicants, each by itself, the strongest first. Who has a
// place already is not asked anything; that an operator wants it there counts
// from then on.
func (r *Roster) Apply(now mono.Time, all []Applicant) []Verdict {
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(all[b].compare(all[a].Claim), cmp.Compare(all[b].Rate, all[a].Rate))
	})
	verdicts := make([]Verdict, len(all))
	c := contest{roster: r, now: now}
	for _, i := range order {
		switch p := r.places[all[i].Flow.Key()]; {
		case p == nil:
			verdicts[i] = c.judge(&all[i])
		case all[i].Asked && !p.Asked:
			p.Asked, c.ranked = true, nil
		}
	}
	return verdicts
}

// take gives a the place of instead; zero: a free one.
func (r *Roster) take(now mono.Time, a *Applicant, instead flow.Key) {
	p := &place{Applicant: *a, instead: instead, prefix: r.prefixOf(a.Flow.Remote.Addr()), since: now}
	r.places[a.Flow.Key()] = p
	r.add(p, 1)
}

// add counts a place.
func (r *Roster) add(p *place, n int) {
	r.staying += n
	if r.prefixes[p.prefix] += n; r.prefixes[p.prefix] == 0 {
		delete(r.prefixes, p.prefix)
	}
	if r.users[p.User] += n; r.users[p.User] == 0 {
		delete(r.users, p.User)
	}
}

func (r *Roster) prefixOf(a netip.Addr) netip.Prefix {
	bits := r.limits.Prefix6
	if a.Is4() {
		bits = r.limits.Prefix4
	}
	p, _ := a.Prefix(bits) // zero for bits that Check refuses: one prefix for all
	return p
}

// Leave gives up a place.
func (r *Roster) Leave(k flow.Key) {
	p := r.places[k]
	if p == nil {
		return
	}
	if !p.leaving {
		r.add(p, -1)
	}
	delete(r.places, k)
}

// GiveBack is Leave for a connection that has not come to the device after all:
// who made room for it need not rest.
func (r *Roster) GiveBack(k flow.Key) {
	if p := r.places[k]; p != nil && p.instead != (flow.Key{}) {
		r.pardon(p.instead)
	}
	r.Leave(k)
}

// Stay is for a connection that did not make room after all.
func (r *Roster) Stay(k flow.Key) {
	if p := r.places[k]; p != nil && p.leaving {
		p.leaving = false
		r.add(p, 1)
	}
}

// Measure takes the octets that a connection has moved since it has its place.
// Half of the rate is of the time since the last time, so that a moment without
// traffic does not count as the end.
func (r *Roster) Measure(now mono.Time, k flow.Key, octets uint64) {
	p := r.places[k]
	if p == nil {
		return
	}
	if past := now.Sub(p.counted); p.counted != 0 && past > 0 {
		p.Rate = uint64((float64(p.Rate) + float64(octets-min(octets, p.octets))/past.Seconds()) / 2)
	}
	p.counted, p.octets = now, octets
}
