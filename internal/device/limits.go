package device

import (
	"time"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// gates say whether the device has time for more connections.
type gates struct {
	busy, segments admission.Gate
	counted        uint64    // segments, when last looked
	at             mono.Time // then
	rate           float64   // segments a second, smoothed as the share is
}

// gauge takes the share of its time that the loop was busy of late, and looks
// how many segments there were.
func (d *Device) gauge(now mono.Time, share float64) {
	g, all := &d.gates, d.traffic.SegsSent+d.traffic.SegsReceived
	if past := now.Sub(g.at); g.at != 0 && past > 0 {
		g.rate += (float64(all-g.counted)/past.Seconds() - g.rate) * float64(past) / float64(past+shareOver)
	}
	g.counted, g.at = all, now
	g.busy.Measure(100 * share)
	g.segments.Measure(g.rate)
}

// hasTime says why the device's loop can take no more, None when it can.
func (d *Device) hasTime() abi.Reason {
	switch {
	case d.gates.busy.Shut():
		return abi.DeviceCPU
	case d.gates.segments.Shut():
		return abi.DeviceSegments
	}
	return abi.None
}

// recoveryWithin is for how long a peer may leave retransmissions unanswered
// while the device has the connection: the least that R2 may be (RFC 1122,
// section 4.2.3.5). The kernel then goes on trying, and gives up by its own
// sysctls and the program's TCP_USER_TIMEOUT.
const recoveryWithin = 100 * time.Second

// A deadlock is since when nothing that was sent was acknowledged, as of the
// retransmission timeouts.
type deadlock struct {
	una   seqnum.Value
	since mono.Time // 0: no timeout yet
}

// lasts notes a retransmission timeout, and reports that the peer has been
// silent for too long.
func (l *deadlock) lasts(now mono.Time, una seqnum.Value) bool {
	if l.since == 0 || l.una != una {
		*l = deadlock{una, now}
	}
	return now.Sub(l.since) >= recoveryWithin
}
