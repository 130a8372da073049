package device

import (
	"sync/atomic"

	"toehold/internal/abi"
)

// A next hop that does not answer is no place to send to. The driver names it in
// shared memory, one word for all connections that go there; what they would
// send waits. S's kernel goes on asking for the next hop, and decides what
// becomes of a connection meanwhile. A frame of S shows that it got an answer,
// before the driver has heard of it.

// deadHops are those that the driver last named.
type deadHops struct {
	hops  [abi.MaxDeadHops]uint64
	some  bool
	epoch uint32 // counts the changes
}

// lookAtHops reads what the driver names dead. When that changes, every
// connection is looked after once: what waited may go now.
func (d *Device) lookAtHops() {
	var now [abi.MaxDeadHops]uint64
	some := false
	for i := range now {
		now[i] = atomic.LoadUint64(&d.control.DeadHops[i])
		some = some || now[i] != 0
	}
	if now == d.dead.hops {
		return
	}
	d.dead = deadHops{hops: now, some: some, epoch: d.dead.epoch + 1}
	for _, c := range d.flows {
		d.touch(c)
	}
}

// stopped reports that what c has for the peer has to wait.
func (d *Device) stopped(c *conn) bool {
	if !d.dead.some || c.heardIn == d.dead.epoch {
		return false
	}
	link := c.toPeer.template.Link()
	if len(link) < 6 {
		return false
	}
	hop := abi.DeadHop([6]byte(link))
	for _, dead := range d.dead.hops {
		if dead == hop && dead != 0 {
			return true
		}
	}
	return false
}
