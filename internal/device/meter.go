package device

import (
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/port"
	"toehold/internal/shm"
)

// A meter measures how much of its time the loop does not sleep. What the loop
// waits for a processor counts as busy.
type meter struct {
	began, asleep mono.Time // asleep is 0 while awake
	idle          time.Duration
	turns         uint64

	told     mono.Time // when the load was last published
	toldIdle time.Duration
	share    float64
}

// Times of a meter.
const (
	loadEvery  = 20 * heartbeat
	shareOver  = time.Second // that the share is smoothed over
	millionths = 1e6
)

func (m *meter) begin(now mono.Time) { m.began, m.told = now, now }

// sleep notes that the loop is about to wait.
func (m *meter) sleep(now mono.Time) { m.asleep = now }

// turn notes that a turn begins, and reports whether the load is to be
// published.
func (m *meter) turn(now mono.Time) bool {
	m.turns++
	if m.asleep != 0 {
		m.idle += now.Sub(m.asleep)
		m.asleep = 0
	}
	if m.turns > 1 && now.Sub(m.told) < loadEvery {
		return false
	}
	m.smooth(now)
	return true
}

// smooth takes what was since the last time into the share, with a weight by
// its length.
func (m *meter) smooth(now mono.Time) {
	since := now.Sub(m.told)
	if since > 0 {
		busy := 1 - float64(m.idle-m.toldIdle)/float64(since)
		m.share += (busy - m.share) * float64(since) / float64(since+shareOver)
	}
	m.told, m.toldIdle = now, m.idle
}

// load fills in what the meter knows.
func (m *meter) load(now mono.Time, l *abi.Load) {
	elapsed := now.Sub(m.began)
	l.Elapsed, l.Busy = uint64(elapsed), uint64(elapsed-m.idle)
	l.Share, l.Turns = uint64(m.share*millionths), m.turns
}

// load fills in what the device knows.
func (d *Device) load(l *abi.Load) {
	s := &d.stats
	l.Frames, l.Unknown, l.BadFrames, l.Untaken = s.Frames, s.Unknown, s.BadFrames, s.DroppedTransmit
	l.PoolUsed, l.Wire = uint64(d.pool.Used()), d.traffic
}

// portLoad is what went through a port.
func portLoad(s port.Stats, pending int) abi.PortLoad {
	return abi.PortLoad{
		RxFrames: s.RxFrames, RxBytes: s.RxBytes, RxDropped: s.RxDropped, RxNoBuffer: s.RxNoBuffer, RxTooLarge: s.RxTooLarge,
		TxFrames: s.TxFrames, TxBytes: s.TxBytes, TxErrors: s.TxErrors, TxBlocked: s.TxBlocked, TxPending: uint64(pending),
	}
}

// publishLoad writes the load for the driver. What the host port's interface
// has dropped the driver finds out by itself.
func (l *loop) publishLoad() {
	load := &l.pulse.Load
	shm.Begin(&load.Sequence)
	l.meter.load(l.now, load)
	l.device.load(load)
	load.Uplink = portLoad(l.ports[0].Stats(), l.ports[0].Pending())
	load.Host = portLoad(l.tap.Counts(), l.tap.Pending())
	shm.End(&load.Sequence)
}
