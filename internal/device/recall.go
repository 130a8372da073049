package device

import (
	"bytes"
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
	c.left = windows{m.Cwnd, m.Ssthresh}
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
