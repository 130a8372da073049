package tcb

import (
	"fmt"
	"math"
	"time"
)

// A CCState is the private state of congestion control algorithms at rest.
// That of the one which Snapshot.CC names means something; the others are
// zero. An algorithm whose state is zero starts it anew from cwnd and ssthresh.
//
// A valid CCState has no negative and no infinite number, DCTCP.Alpha is at
// most 1, BBR.Mode is one of the modes and BBR.CycleIndex one of the eight
// phases.
type CCState struct {
	Cubic Cubic
	BBR   BBR
	DCTCP DCTCP
}

// A Cubic is CUBIC (RFC 9438), windows in segments.
type Cubic struct {
	WMax     float64       // W_max of the last reduction, fast convergence included; 0: none yet
	InEpoch  bool          // congestion avoidance has begun: the next four mean something
	Epoch    time.Duration // how long ago
	Origin   float64       // where the curve is flat: W_max, or the cwnd that the epoch began with
	K        time.Duration // from the epoch's begin until the curve is at Origin
	WEst     float64       // W_est, what Reno would have
	DelayMin time.Duration // least delay that was measured; 0: none
	Found    bool          // slow start has found its exit (HyStart)
}

// A BBRMode is a state of BBR's state machine, by Linux's number.
type BBRMode uint8

// The modes.
const (
	BBRStartup BBRMode = iota
	BBRDrain
	BBRProbeBW
	BBRProbeRTT
)

// A BBR is BBR version 1 as Linux has it. Rates are octets of payload a
// second.
type BBR struct {
	Mode          BBRMode
	CycleIndex    uint8         // phase of ProbeBW
	CycleAge      time.Duration // since that phase began
	MinRTT        time.Duration // 0: not measured, and nothing else is known either
	MinRTTAge     time.Duration // since MinRTT was measured
	Bandwidth     uint64        // the maximum of the last ten rounds
	LongTerm      uint64        // rate of a policer that was detected; 0: none in use
	FullBandwidth uint64        // the last that counted as growth in Startup
	FullCount     uint8         // rounds since without growth
	Filled        bool          // the pipe is estimated to be full
	PacingGain    float64
	CwndGain      float64
	PriorCwnd     uint32 // segments, before recovery or ProbeRTT
	ExtraAcked    uint32 // segments acknowledged beyond the rate, maximum of late
}

// A DCTCP is DCTCP (RFC 8257).
type DCTCP struct {
	Alpha    float64 // DCTCP.Alpha, from 0 to 1
	LossCwnd uint32  // segments, cwnd at the last loss; 0: none
	CE       bool    // the last data segment of the peer was marked (DCTCP.CE)
}

// Check returns nil when c keeps its promises, or an error that says which part
// does not.
func (c *CCState) Check() error {
	q, b, d := &c.Cubic, &c.BBR, &c.DCTCP
	switch {
	case !finite(q.WMax, q.Origin, q.WEst) || q.Epoch < 0 || q.K < 0 || q.DelayMin < 0:
		return fmt.Errorf("cubic %+v", *q)
	case !finite(b.PacingGain, b.CwndGain) || b.CycleAge < 0 || b.MinRTT < 0 || b.MinRTTAge < 0:
		return fmt.Errorf("bbr %+v", *b)
	case b.Mode > BBRProbeRTT || b.CycleIndex > 7:
		return fmt.Errorf("bbr in mode %d, phase %d", b.Mode, b.CycleIndex)
	case !finite(d.Alpha) || d.Alpha > 1:
		return fmt.Errorf("dctcp %+v", *d)
	}
	return nil
}

// finite reports whether all numbers are numbers, not negative nor infinite.
func finite(numbers ...float64) bool {
	for _, n := range numbers {
		if !(n >= 0 && n <= math.MaxFloat64) {
			return false
		}
	}
	return true
}
