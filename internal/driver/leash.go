package driver

import (
	"sync/atomic"
	"time"

	"toehold/internal/bpf"
	"toehold/internal/handover"
	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// While the device has a connection, its congestion window is what counts. S's
// own stands in the way: S hears of nothing that the peer has SACKed, so it
// counts all of that as in flight and sends nothing new while the device
// repairs a loss; and its slow start ends as soon as octets wait for the device
// (HyStart). So S is given a window that is wide beside the device's; how far S
// sends is what the device grants it. It is not much wider, in case driver and
// device die together: a few losses bring it back then.
const (
	leashEvery = 100 * time.Millisecond
	leashTimes = 8    // the device's window
	leashLeast = 1024 // segments
	leashMost  = 1 << 18
)

// loosen widens the windows of those sockets that the device's have come near
// to. Nothing depends on it.
func (u *uplink) loosen(now mono.Time) {
	if u.set == nil || now.Sub(u.loosened) < leashEvery {
		return
	}
	u.loosened = now
	blocks := u.set.Blocks()
	var list []bpf.Window
	u.table.Each(func(c *handover.Conn) {
		if c.Phase != handover.Owned || int(c.HWID.Index()) >= len(blocks) {
			return
		}
		cwnd := atomic.LoadUint32(&blocks[c.HWID.Index()].Hardware.Cwnd)
		if wide := leash(cwnd); wide > 2*c.Leash {
			c.Leash = wide
			list = append(list, bpf.Window{Key: c.Key, Cwnd: wide, Ssthresh: tcb.NoThreshold})
		}
	})
	u.heirs.add(list)
}

// leash is how wide S's window is to be beside the device's, in segments.
func leash(cwnd uint32) uint32 {
	return min(max(min(cwnd, leashMost)*leashTimes, leashLeast), leashMost)
}
