package driver

import (
	"sync/atomic"
	"time"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/handover"
	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// While the device has a connection, its congestion window is what counts. S's
// own stands in the way: S hears of nothing that the peer has SACKed, so it
// counts all of that as in flight and sends nothing new while the device
// repairs a loss; and its slow start ends as soon as octets wait for the device
// (HyStart, and BBR's startup). So S is given a window that is wide beside the device's; how far S
// sends is what the device grants it. It is not much wider, in case driver and
// device die together: a few losses bring it back then.
const (
	leashEvery = 100 * time.Millisecond
	leashTimes = 8    // the device's window
	leashLeast = 1024 // segments
	leashMost  = 1 << 18
)

// BBR computes its window and its rate, so it is given a model of a wide path:
// a policer's rate, which it takes instead of what it measures. It does so for 48
// rounds (bbr_lt_bw_max_rtts), and every 10 s it would look for the least round
// trip with four segments in flight (BBR_PROBE_RTT), so it is told again before.
// Rounds pass with what is acknowledged: one that sends nothing keeps its model, and
// is left in peace.
const (
	looseRounds = 24
	looseLeast  = 250 * time.Millisecond
	looseMost   = 5 * time.Second
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
		if c.Phase != handover.Owned || c.Attachment == abi.AttachBypass || int(c.HWID.Index()) >= len(blocks) {
			return
		}
		h := &blocks[c.HWID.Index()].Hardware
		if w, ok := looser(now, c, atomic.LoadUint32(&h.Cwnd), atomic.LoadUint32(&h.SRTT), atomic.LoadUint32(&h.SndUna)); ok {
			list = append(list, w)
		}
	})
	u.heirs.add(list)
}

// looser is what to give S beside a device's window in segments, round trip in
// microseconds and snd.una; false: nothing for now.
func looser(now mono.Time, c *handover.Conn, cwnd, srtt, una uint32) (w bpf.Window, ok bool) {
	wide, model := leash(cwnd), text(c.State.CongestionControl) == "bbr"
	if wide <= 2*c.Leash && !(model && una != c.LooseUna && now.Sub(c.Loose) > looseFor(srtt)) {
		return w, false
	}
	c.Leash, c.Loose, c.LooseUna = max(wide, c.Leash), now, una
	w = bpf.Window{Key: c.Key, Cwnd: c.Leash, Ssthresh: tcb.NoThreshold}
	if model {
		w.Inode, w.Private = c.State.Inode, widePath(c, srtt)
	}
	return w, true
}

// leash is how wide S's window is to be beside the device's, in segments.
func leash(cwnd uint32) uint32 {
	return min(max(min(cwnd, leashMost)*leashTimes, leashLeast), leashMost)
}

// looseFor is how long BBR keeps a model that it was given, over a round trip in
// microseconds.
func looseFor(srtt uint32) time.Duration {
	return min(max(looseRounds*time.Duration(srtt)*time.Microsecond, looseLeast), looseMost)
}

// widePath is the model of a path that carries as much as the leash, over a
// round trip in microseconds.
func widePath(c *handover.Conn, srtt uint32) *bpf.Private {
	srtt = max(srtt, 1)
	rate := uint64(c.Leash) * uint64(max(c.State.MSS, 1)) * 1_000_000 / uint64(srtt)
	return &bpf.Private{Control: c.State.CongestionControl, BBR: abi.BBRState{
		Bandwidth: rate, FullBandwidth: rate, LongTerm: rate, Filled: 1, MinRTT: srtt,
		Mode: uint8(tcb.BBRProbeBW), CycleIndex: 2, PacingGain: 256, CwndGain: 512,
	}}
}
