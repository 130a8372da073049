package driver

import (
	"context"
	"strings"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/kernel"
	"toehold/internal/shm"
	"toehold/internal/tcb"
)

// Show returns the one connection that s names, with what is known of it in
// all places. While the device has it, the kernel-level and the socket-level
// state are the copies that the device reads, brought up to date.
func (d *Driver) Show(_ context.Context, s Selector) (Detail, error) {
	all, err := d.find(s, true)
	if err != nil {
		return Detail{}, err
	}
	if _, err := One(s, connections(all)); err != nil {
		return Detail{}, err
	}
	f := &all[0]
	b := d.copies(f.placed, f.conn.Flow())
	if b == nil {
		b = new(abi.Block)
		b.Kernel.State, b.Socket = f.socket.State, socketLevel(&f.socket.State)
	}
	detail := Detail{
		Connection: f.conn, Kernel: kernelPart(&b.Kernel.State), Socket: socketPart(&f.socket.Owner, b),
		History: d.journal.moves(f.conn.Flow(), f.socket.State.Inode),
	}
	if f.placed != nil {
		detail.Kernel.PathMTU = f.placed.mtu
		detail.Hardware = hardwarePart(f.placed.hardware)
	}
	return detail, nil
}

// copies reads the block of a connection on a device; nil when it is in the
// kernel, or has not been described yet.
func (d *Driver) copies(p *placed, id flow.ID) (b *abi.Block) {
	for _, u := range d.uplinks {
		if p != nil && u.name == p.device {
			u.call(func() { b = u.copies(id) })
		}
	}
	return b
}

func (u *uplink) copies(id flow.ID) *abi.Block {
	c := u.table.Find(id.Key())
	if c == nil || c.HWID == 0 || u.set == nil || int(c.HWID.Index()) >= len(u.set.Blocks()) {
		return nil
	}
	var now [1]abi.KernelState
	// While it moves, the state is what the steps of the handover have read.
	if c.Phase == handover.Owned && u.Probe([]flow.Key{c.Key}, now[:]) == nil && !u.refresh(c, &now[0]) {
		return nil
	}
	shared, b := &u.set.Blocks()[c.HWID.Index()], new(abi.Block)
	if !shm.Read(&shared.Kernel.Sequence, &shared.Kernel, &b.Kernel) || b.Kernel.HWID != c.HWID ||
		!shm.Read(&shared.Socket.Sequence, &shared.Socket, &b.Socket) || b.Socket.HWID != c.HWID {
		return nil
	}
	return b
}

// socketLevel is what a block tells of a socket.
func socketLevel(k *abi.KernelState) abi.SocketPart {
	return abi.SocketPart{Queued: k.WriteSeq - k.SndUna, Unread: k.RcvNxt - k.CopiedSeq, State: k.Socket}
}

// socketPart is the socket level as people see it.
func socketPart(o *kernel.Owner, b *abi.Block) SocketPart {
	k, s := &b.Kernel.State, &b.Socket.State
	v := SocketPart{
		PID: o.PID, Comm: o.Comm, FD: o.FD, UID: k.UID, Cookie: k.Cookie,
		Queued: b.Socket.Queued, Unread: b.Socket.Unread, SndBuf: s.SndBuf, RcvBuf: s.RcvBuf, SendMemory: s.SendMemory,
		RcvLowat: max(s.RcvLowat, 1), NotSentLowat: int64(int32(s.NotSentLowat)), Shutdown: shutdownName(s.Shutdown),
		NoDelay: s.Flags&abi.SocketNoDelay != 0, Cork: s.Flags&abi.SocketCork != 0, Keepalive: s.Flags&abi.SocketKeepalive != 0,
		KeepTime: k.KeepTime, KeepInterval: k.KeepInterval, KeepProbes: k.KeepProbes, UserTimeout: k.UserTimeout,
		Linger: -1, TTL: s.TTL, TOS: s.TOS, Priority: s.Priority, Mark: s.Mark,
	}
	if s.Flags&abi.SocketLinger != 0 {
		v.Linger = int64(s.Linger)
	}
	return v
}

func kernelPart(k *abi.KernelState) KernelPart {
	return KernelPart{
		State: stateName(k.State), CongestionControl: text(k.CongestionControl),
		SndUna: k.SndUna, SndNxt: k.SndNxt, SndWnd: k.SndWnd, RcvNxt: k.RcvNxt, RcvWnd: k.RcvWnd,
		SndWscale: k.SndWscale, RcvWscale: k.RcvWscale, MSS: k.MSS, RTT: k.SRTT, RTTVar: k.RTTVar, RTO: k.RTO,
		Cwnd: k.SndCwnd, Ssthresh: k.SndSsthresh, Retransmits: k.Retransmits,
		BytesSent: k.BytesSent, BytesReceived: k.BytesReceived,
		Timestamps: k.Flags&abi.FlagTimestamps != 0, SACK: k.Flags&abi.FlagSACK != 0, ECN: k.Flags&abi.FlagECN != 0,
		Model: modelOf(&k.Cubic, &k.BBR),
	}
}

func modelOf(q *abi.CubicState, b *abi.BBRState) Model {
	return Model{WMax: q.LastMaxCwnd, Bandwidth: b.Bandwidth, MinRTT: b.MinRTT}
}

func hardwarePart(h *abi.HardwarePart) *HardwarePart {
	if h == nil {
		return nil
	}
	model := Model{}
	if h.PrivateAt != 0 {
		model = modelOf(&h.Cubic, &h.BBR)
	}
	return &HardwarePart{
		Model: model,
		Place: placeName(h.Place), State: tcb.State(h.State).String(), Recovery: recoveryName(h.Recovery),
		SndUna: h.SndUna, SndNxt: h.SndNxt, SndWnd: h.SndWnd, RcvNxt: h.RcvNxt, RcvAcked: h.RcvAcked, RcvWnd: h.RcvWnd,
		CongestionControl: printable(text(h.CongestionControl)),
		RTT:               h.SRTT, RTTVar: h.RTTVar, RTO: h.RTO, Cwnd: h.Cwnd, Ssthresh: h.Ssthresh,
		HeldOut: h.HeldOut, HeldIn: h.HeldIn, BytesSent: h.BytesSent, BytesReceived: h.BytesReceived,
		SegsSent: h.SegsSent, SegsReceived: h.SegsReceived, Retransmits: h.Retransmits, OutOfOrder: h.OutOfOrder,
		Reason: abi.Reason(h.Reason).String(),
	}
}

// printable is a name of the device's; it may have written what does something to a terminal.
func printable(name string) string {
	if strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return "unknown"
	}
	return name
}

// name is one of names, or "unknown" for what a device should not say.
func name(names []string, n uint8) string {
	if int(n) >= len(names) {
		return "unknown"
	}
	return names[n]
}

func placeName(n uint8) string    { return name([]string{"free", "passing", "owned", "leaving"}, n) }
func recoveryName(n uint8) string { return name([]string{"open", "recovery", "loss"}, n) }
func shutdownName(n uint8) string { return name([]string{"none", "read", "write", "both"}, n) }
