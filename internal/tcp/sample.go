package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// A sample is what one acknowledgment says of the path (Linux struct
// rate_sample; draft-cheng-iccrg-delivery-rate-estimation, section 3). It is passed by value, as a pointer would escape
// through the algorithm's interface.
type sample struct {
	now       mono.Time
	una, nxt  seqnum.Value  // after the acknowledgment
	acked     uint32        // octets that snd.una advanced by
	delivered uint32        // octets newly acknowledged or SACKed
	lost      uint32        // octets newly held for lost
	ece       bool          // the segment carried ECE
	rtt       time.Duration // of the octets sent last among those delivered and sent once; 0: none
	srtt      time.Duration // smoothed; 0: not measured

	before   uint32 // octets in flight before it
	inFlight uint32 // and after it

	interval   time.Duration // over which rated octets were delivered; 0: no rate
	rated      uint64        // octets delivered in interval
	prior      uint64        // total when the newest octets delivered were sent
	total      uint64        // octets delivered in all, now
	appLimited bool          // the rate was limited by what there was to send
	resent     bool          // the newest octets delivered had been sent again

	recovering bool // in fast recovery, loss recovery, or a reduction for ECN
}
