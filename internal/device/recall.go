package device

import (
	"bytes"
	"math"
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// What one stack knows of the path and its losses, for the next one: recall
// tells the engine in S's place what the kernel knew, or the engine before it;
// keepState keeps what the engine knows.

// recall fills in s, in which SndUna is what the peer has acknowledged by now.
func (c *conn) recall(now mono.Time, s *tcb.Snapshot) {
	k := &c.kernel
	s.SRTT, s.RTTVar, s.RTO, s.MinRTT = micros(k.SRTT), micros(k.RTTVar), micros(k.RTO), micros(k.MinRTT)
	s.Cwnd, s.Ssthresh = max(k.SndCwnd, 1), max(k.SndSsthresh, 2)
	if k.SndUna == uint32(s.SndUna) { // else the peer has answered since
		s.Backoff, s.Probes = k.Backoff, k.ProbesOut
	}
	if c.stampPeer.val == k.TSRecent {
		s.TSRecentAge = time.Duration(k.TSRecentAge)*time.Second + now.Sub(c.told)
	}
	s.ReorderingSeen, s.ReoWndMult = k.ReorderingSeen > 0, k.ReoWndSteps
	s.CC, s.CCState = c.knew, c.private
}

// learn takes the kernel-level state, as it was told at now.
func (c *conn) learn(now mono.Time, k *abi.KernelState) {
	c.kernel, c.told = *k, now
	c.knew, c.private = nameOf(k.CongestionControl), privateOf(k)
	if c.private.Check() != nil {
		c.private = tcb.CCState{} // it begins anew
	}
}

// keepState keeps what the engine has learned for the next one, and the latest
// timestamp that it may have sent.
func (d *Device) keepState(now mono.Time, c *conn) {
	c.keepECN()
	s, k := &d.rest, &c.kernel
	c.wire.Snapshot(now, s)
	m := c.metrics()
	k.SRTT, k.RTTVar, k.RTO, k.MSS = m.SRTT, m.RTTVar, uint32(s.RTO.Microseconds()), m.MSS
	k.SndCwnd, k.SndSsthresh, k.MinRTT = m.Cwnd, m.Ssthresh, uint32(s.MinRTT.Microseconds())
	k.SndUna, k.Backoff, k.ProbesOut = uint32(s.SndUna), s.Backoff, s.Probes
	k.TSRecent, k.TSRecentAge, c.told = s.TSRecent, uint32(s.TSRecentAge/time.Second), now
	k.ReorderingSeen, k.ReoWndSteps = 0, s.ReoWndMult
	if s.ReorderingSeen {
		k.ReorderingSeen = 1
	}
	c.knew, c.private = s.CC, s.CCState
	c.left = windows{m.Cwnd, m.Ssthresh, now}
	c.stampFloor, c.floored = uint32(now.Milliseconds())+k.TSOffset, k.Flags&abi.FlagTimestamps != 0
	clear(s.Unacked)
	clear(s.Unsent)
	clear(s.OutOfOrder)
}

func micros(us uint32) time.Duration { return time.Duration(us) * time.Microsecond }

func millis(ms uint32) time.Duration { return time.Duration(ms) * time.Millisecond }

// nameOf is a name that is padded with zeros.
func nameOf(padded [16]byte) string {
	name, _, _ := bytes.Cut(padded[:], []byte{0})
	return string(name)
}

// privateOf is the private state of the kernel's congestion control.
func privateOf(k *abi.KernelState) tcb.CCState {
	q, b, d := &k.Cubic, &k.BBR, &k.DCTCP
	return tcb.CCState{
		Cubic: tcb.Cubic{
			WMax: float64(q.LastMaxCwnd), InEpoch: q.InEpoch != 0, Epoch: millis(q.EpochAge),
			Origin: float64(q.Origin), K: micros(q.K), WEst: float64(q.TCPCwnd),
			DelayMin: micros(q.DelayMin), Found: q.Found != 0,
		},
		BBR: tcb.BBR{
			Mode: tcb.BBRMode(b.Mode), CycleIndex: b.CycleIndex, CycleAge: micros(b.CycleAge),
			MinRTT: micros(b.MinRTT), MinRTTAge: millis(b.MinRTTAge),
			Bandwidth: b.Bandwidth, LongTerm: b.LongTerm, FullBandwidth: b.FullBandwidth,
			FullCount: b.FullCount, Filled: b.Filled != 0,
			PacingGain: float64(b.PacingGain) / 256, CwndGain: float64(b.CwndGain) / 256,
			PriorCwnd: b.PriorCwnd, ExtraAcked: b.ExtraAcked,
		},
		DCTCP: tcb.DCTCP{Alpha: float64(d.Alpha) / 1024, LossCwnd: d.LossCwnd, CE: d.CE != 0},
	}
}

// cubicOf is privateOf the other way round.
func cubicOf(q *tcb.Cubic) abi.CubicState {
	return abi.CubicState{
		LastMaxCwnd: whole(q.WMax), Origin: whole(q.Origin), TCPCwnd: whole(q.WEst), K: inMicros(q.K), EpochAge: inMillis(q.Epoch),
		DelayMin: inMicros(q.DelayMin), InEpoch: flag(q.InEpoch), Found: flag(q.Found),
	}
}

// bbrOf is privateOf the other way round.
func bbrOf(b *tcb.BBR) abi.BBRState {
	return abi.BBRState{
		Bandwidth: b.Bandwidth, FullBandwidth: b.FullBandwidth, LongTerm: b.LongTerm,
		MinRTT: inMicros(b.MinRTT), MinRTTAge: inMillis(b.MinRTTAge), CycleAge: inMicros(b.CycleAge),
		PriorCwnd: b.PriorCwnd, ExtraAcked: b.ExtraAcked,
		PacingGain: uint16(min(whole(b.PacingGain*256), math.MaxUint16)), CwndGain: uint16(min(whole(b.CwndGain*256), math.MaxUint16)),
		Mode: uint8(b.Mode), CycleIndex: b.CycleIndex, FullCount: b.FullCount, Filled: flag(b.Filled),
	}
}

// whole is the nearest number that fits.
func whole(x float64) uint32 { return uint32(min(max(math.Round(x), 0), math.MaxUint32)) }

func inMicros(d time.Duration) uint32 { return uint32(min(max(d.Microseconds(), 0), math.MaxUint32)) }

func inMillis(d time.Duration) uint32 { return uint32(min(max(d.Milliseconds(), 0), math.MaxUint32)) }

func flag(set bool) uint8 {
	if set {
		return 1
	}
	return 0
}
