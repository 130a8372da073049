package driver

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/vishvananda/netlink"

	"toehold/internal/abi"
	"toehold/internal/confine"
	"toehold/internal/mono"
	"toehold/internal/shm"
)

// Devices returns the state of every device.
func (d *Driver) Devices(context.Context) ([]Device, error) {
	all := make([]Device, 0, len(d.uplinks))
	for _, u := range d.uplinks {
		v := Device{Device: u.name, State: "down", Detail: "stopped", Refused: map[string]int{}}
		u.call(func() { v = u.status(mono.Now()) })
		if v.Load != nil {
			v.Load.Host.RxDropped = droppedTowards(v.HostPort)
		}
		v.RunsAs = runsAs(v.PID)
		all = append(all, v)
	}
	return all, nil
}

func (u *uplink) status(now mono.Time) Device {
	v := Device{
		Device: u.name, State: "down", Detail: u.down, Connections: u.table.Len(), Moving: u.table.Moving(),
		Capacity: u.cfg.MaxConnections, Memory: u.cfg.Memory, Restarts: u.counters.restarts,
		Paused: u.paused, Waiting: len(u.latecomers), Requests: len(u.requests), Offloads: u.counters.offloads, Uploads: u.counters.uploads, Refused: make(map[string]int),
	}
	for reason, n := range u.counters.refused {
		v.Refused[reason] = n
	}
	if u.set != nil {
		c := u.set.Control()
		v.ToDevice, v.Injected = atomic.LoadUint64(&c.ToDevice), atomic.LoadUint64(&c.Injected)
		v.Kept, v.Bypassed = atomic.LoadUint64(&c.Dropped), atomic.LoadUint64(&c.Bypassed)
		v.Fences = atomic.LoadUint64(&c.Fences)
	}
	if p := u.proc; p != nil {
		v.Messages = len(p.messages)
		v.PID, v.HostPort, v.Uptime = p.pid, p.tap, now.Sub(p.started).Microseconds()
		v.State = u.deviceState()
		if u.set != nil && p.greeted() && !p.doomed {
			v.Load = u.load()
		}
		if v.State == "running" {
			v.HeartbeatAge = u.heartbeatAge(now).Microseconds()
			v.Capacity, v.Memory = int(p.greeting.Capacity), int64(p.greeting.Memory)
		}
	}
	return v
}

func (u *uplink) deviceState() string {
	switch p := u.proc; {
	case p.doomed:
		return "down"
	case !p.greeted():
		return "starting"
	case u.draining != nil:
		return "draining"
	}
	return "running"
}

// PauseDevices has a device, all for "", take nobody new, or take connections
// again. Those that it has stay.
func (d *Driver) PauseDevices(ctx context.Context, name string, paused bool) ([]Device, error) {
	found := false
	for _, u := range d.uplinks {
		if name == "" || name == u.name {
			found = true
			u.call(func() { u.pause(paused) })
		}
	}
	if !found {
		return nil, fmt.Errorf("%w: %q is no uplink of this daemon", ErrSelector, name)
	}
	return d.Devices(ctx)
}

func (u *uplink) pause(paused bool) {
	if u.paused == paused {
		return
	}
	u.paused = paused
	kind := EventDeviceResumed
	if paused {
		kind = EventDevicePaused
	}
	u.journal.Add(Event{Kind: kind, Device: u.name, Reason: abi.Asked.String()})
	if !paused {
		u.revived()
	}
}

// load reads what the device says of its work; nil when it died as it wrote.
func (u *uplink) load() *Load {
	p, l := u.set.Pulse(), new(abi.Load)
	if !shm.Read(&p.Load.Sequence, &p.Load, l) {
		return nil
	}
	return &Load{
		BusyShare: min(float64(l.Share)/1e6, 1), Busy: int64(l.Busy / 1000), PoolUsed: l.PoolUsed,
		Frames: l.Frames, Unknown: l.Unknown, Bad: l.BadFrames, Untaken: l.Untaken,
		BytesSent: l.Wire.BytesSent, BytesReceived: l.Wire.BytesReceived,
		SegsSent: l.Wire.SegsSent, SegsReceived: l.Wire.SegsReceived,
		Retransmits: l.Wire.Retransmits, OutOfOrder: l.Wire.OutOfOrder,
		Uplink: PortLoad(l.Uplink), Host: PortLoad(l.Host),
	}
}

// droppedTowards is how many frames found the ring of a host port full. The
// kernel counts them as not transmitted by its interface.
func droppedTowards(hostPort string) uint64 {
	l, err := netlink.LinkByName(hostPort)
	if err != nil || l.Attrs().Statistics == nil {
		return 0
	}
	return l.Attrs().Statistics.TxDropped
}

// runsAs says what a device process may do, "" when it is gone.
func runsAs(pid int) string {
	if pid == 0 {
		return ""
	}
	s, err := confine.Of(pid)
	if err != nil {
		return ""
	}
	return s.String()
}
