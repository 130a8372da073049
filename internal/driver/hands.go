package driver

import (
	"errors"
	"fmt"
	"math"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/mono"
	"toehold/internal/shm"
	"toehold/internal/tcb"
)

// An uplink is the handover.Hands of its table.
var _ handover.Hands = (*uplink)(nil)

var errNoInterface = errors.New("the uplink is gone")

// Probe reads the kernel's state of each flow.
func (u *uplink) Probe(keys []flow.Key, out []abi.KernelState) error {
	if u.set == nil {
		return errNoInterface
	}
	return u.set.Probe(keys, out)
}

// Steer turns flows to the device.
func (u *uplink) Steer(keys []flow.Key, ids []abi.HWID) error {
	if u.set == nil {
		return errNoInterface
	}
	if err := u.set.Steer(keys, ids); err != nil {
		return err
	}
	u.steered(keys, ids)
	return nil
}

// Unsteer gives flows back to the kernel. Without an interface there is no
// steering map any more.
func (u *uplink) Unsteer(keys []flow.Key) error {
	u.leaving(keys)
	if u.set == nil {
		return nil
	}
	return u.set.Unsteer(keys)
}

// startCwnd is the congestion window, in segments, of a path of which nothing is
// known (RFC 6928).
const startCwnd = 10

// Inherit hands over what the device last published of congestion windows and
// the private state of congestion controls, of connections that it owned. A
// device that died while it wrote has left none to read: a window that was made
// wide (leash.go) starts anew then.
func (u *uplink) Inherit(conns []*handover.Conn) {
	now, list := mono.Now(), make([]bpf.Window, 0, len(conns))
	for _, c := range conns {
		w := bpf.Window{Key: c.Key, Cwnd: startCwnd, Ssthresh: tcb.NoThreshold, Inode: c.State.Inode}
		if h := u.hardware(c.HWID); h != nil && h.Cwnd != 0 {
			w.Cwnd, w.Ssthresh = h.Cwnd, h.Ssthresh
			w.Private = private(now, h)
		} else if c.Leash == 0 {
			continue
		}
		if own := c.State.CongestionControl; c.Leash != 0 && text(own) == "bbr" && (w.Private == nil || w.Private.Control != own) {
			w.Private = &bpf.Private{Control: own} // no more of the wide path
		}
		list = append(list, w)
	}
	u.heirs.add(list)
}

// private is what the device's congestion control knew, as it is now; nil when
// that is nothing. Whether the socket has the same one is looked at when it is
// given: a probe may have seen the one that a socket is lent (leash.go).
func private(now mono.Time, h *abi.HardwarePart) *bpf.Private {
	if h.PrivateAt == 0 {
		return nil
	}
	p := &bpf.Private{Control: h.CongestionControl}
	age := max(now.Sub(mono.Time(h.PrivateAt)), 0)
	switch text(h.CongestionControl) {
	case "cubic":
		p.Cubic = h.Cubic
		p.Cubic.EpochAge = later(p.Cubic.EpochAge, age.Milliseconds())
	case "bbr":
		p.BBR = h.BBR
		p.BBR.MinRTTAge = later(p.BBR.MinRTTAge, age.Milliseconds())
		p.BBR.CycleAge = later(p.BBR.CycleAge, age.Microseconds())
		if p.BBR.Bandwidth == 0 || p.BBR.MinRTT == 0 {
			return nil
		}
	default:
		return nil
	}
	return p
}

func later(age uint32, by int64) uint32 { return uint32(min(int64(age)+by, math.MaxUint32)) }

// Describe writes the parts of the block whose writer is the driver.
func (u *uplink) Describe(c *handover.Conn) error {
	if u.set == nil {
		return errNoInterface
	}
	blocks := u.set.Blocks()
	if int(c.HWID.Index()) >= len(blocks) {
		return fmt.Errorf("hardware id %s is beyond %d connections", c.HWID, len(blocks))
	}
	u.latest = max(u.latest, c.HWID.Generation())
	b := &blocks[c.HWID.Index()]
	k, s := &b.Kernel, &b.Socket
	shm.Publish(&k.Sequence, func() {
		k.HWID, k.Key, k.State = c.HWID, c.Key, c.State
		k.State.Socket = abi.SocketState{} // it has a part of its own
		k.NextHop, k.Source, k.PathMTU = c.Path.NextHop, c.Path.Source, c.Path.MTU
		k.Control = u.cfg.Controls.of(c.Control())
	})
	shm.Publish(&s.Sequence, func() {
		now := socketLevel(&c.State)
		s.HWID, s.Queued, s.Unread, s.State = c.HWID, now.Queued, now.Unread, now.State
	})
	return nil
}

// Offer sends an Admit, with the congestion controls that the operator wants.
func (u *uplink) Offer(batch uint32, offers []abi.Offer) error {
	var mapped [abi.MaxEntries]abi.Offer
	n := copy(mapped[:], offers)
	for i := range mapped[:n] {
		mapped[i].CongestionControl = u.cfg.Controls.of(mapped[i].CongestionControl)
	}
	return send(u, abi.Admit, batch, mapped[:n])
}

// Command sends an Own, Pass or Release.
func (u *uplink) Command(t abi.Type, ids []abi.HWID) error {
	var commands [abi.MaxEntries]abi.Command
	for i, id := range ids {
		commands[i].HWID = id
	}
	return send(u, t, 0, commands[:len(ids)])
}

var errNoDevice = errors.New("no device is running")

func send[E abi.Entries](u *uplink, t abi.Type, batch uint32, entries []E) error {
	if u.proc == nil || u.proc.doomed {
		return errNoDevice
	}
	u.message = abi.Append(u.message[:0], t, batch, entries)
	return u.proc.send(u.message)
}

// hardware reads the device's part of a connection's block; nil when it is
// not this connection's.
func (u *uplink) hardware(id abi.HWID) *abi.HardwarePart {
	if u.set == nil {
		return nil
	}
	return shm.ReadHardware(u.set.Blocks(), id)
}
