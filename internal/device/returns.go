package device

import (
	"sync/atomic"
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
)

// How connections are judged: by what went on in a period, again and again, and
// only by what is true of several in a row. One that was too quiet to be judged
// counts neither way.
const (
	judgeEvery  = 5 * time.Second // each connection, at the latest
	judgedOften = 3               // periods in a row
	judgedLeast = 200             // segments of a period
)

// A record is what a connection is judged by.
type record struct {
	traffic   abi.Traffic // when it was last judged,
	fragments uint64      // and what the block had
	active    mono.Time   // when it was last seen to carry anything
	why       abi.Reason  // what spoke against it in the last period,
	often     int         // and in how many before
}

// review judges those connections whose turn it is: each has one in a period.
func (d *Device) review(now mono.Time) {
	if d.returns == (abi.Returns{}) {
		return
	}
	if d.period == 0 {
		d.period = now
	}
	every := judgeEvery
	if idle := d.returns.Idle; idle > 0 {
		every = min(every, idle) // a short time is to be noticed
	}
	since := min(now.Sub(d.period), every)
	for due := int(int64(len(d.slots)) * int64(since) / int64(every)); d.reviewed < due; d.reviewed++ {
		if c := d.slots[d.reviewed].conn; c != nil && c.place == abi.PlaceOwned {
			d.judge(now, c)
		}
	}
	if since == every {
		d.period, d.reviewed = now, 0
	}
}

// judge looks at what c has done since the last time, and gives it back when
// the same has spoken against it often enough.
func (d *Device) judge(now mono.Time, c *conn) {
	t, n := c.traffic(), d.fragments(c)
	if c.record == nil {
		c.record = &record{traffic: t, fragments: n, active: now}
		return
	}
	r := c.record
	since, fragments := t.Minus(r.traffic), n-r.fragments
	r.traffic, r.fragments = t, n
	segments := since.SegsSent + since.SegsReceived + fragments
	if segments > 0 {
		r.active = now
	}
	if d.returns.Idle > 0 && now.Sub(r.active) >= d.returns.Idle {
		d.giveAway(now, c, abi.Idle)
		return
	}
	if segments < judgedLeast {
		return
	}
	why := against(&d.returns, &since, fragments)
	if why != r.why {
		r.why, r.often = why, 0
	}
	if r.often++; why != abi.None && r.often >= judgedOften {
		d.giveAway(now, c, why)
	}
}

func (d *Device) giveAway(now mono.Time, c *conn, why abi.Reason) {
	c.record = nil
	d.giveBack(now, c, why)
	d.touch(c)
}

// fragments is how many of the peer's segments have come as fragments, in all
// the time of c's slot.
func (d *Device) fragments(c *conn) uint64 {
	return atomic.LoadUint64(&d.blocks[c.id.Index()].Fragments)
}

// against says what in a period speaks against keeping a connection. Its
// traffic is what the device has seen, so it is without the fragments.
func against(r *abi.Returns, t *abi.Traffic, fragments uint64) abi.Reason {
	payload := float64(t.BytesSent + t.BytesReceived)
	switch {
	case r.Loss > 0 && float64(t.Retransmits) > r.Loss*float64(t.SegsSent):
		return abi.Loss
	case r.Reordering > 0 && float64(t.OutOfOrder) > r.Reordering*float64(t.SegsReceived):
		return abi.Reordering
	case r.Fragments > 0 && float64(fragments) > r.Fragments*float64(t.SegsReceived+fragments):
		return abi.Fragments
	case r.SmallIO > 0 && payload < r.SmallIO*float64(t.SegsSent+t.SegsReceived):
		return abi.SmallIO
	}
	return abi.None
}
