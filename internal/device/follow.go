package device

import (
	"slices"
	"sync/atomic"

	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/shm"
	"toehold/internal/tcp"
)

// A hop is the link addresses of a path, as the driver has described them.
type hop struct{ next, source [6]byte }

// follow takes over what the driver has written anew of the kernel-level state,
// which S's frames do not show or would show later: another congestion control
// of S, a smaller segment size, since the ICMP message that says so is for S, and
// another next hop.
func (d *Device) follow(now mono.Time, c *conn) {
	written := atomic.LoadUint64(&d.blocks[c.id.Index()].Kernel.Sequence)
	if written == c.followed {
		return
	}
	part, ok := d.kernelPart(c)
	if !ok || !d.followControl(now, c, &part) {
		return // again later
	}
	c.followed = written
	if part.State.MSS < c.metrics().MSS {
		c.wire.SetMSS(part.State.MSS)
	}
	d.followHop(c, &part)
}

// followHop sends to another next hop. It looks at what changes in the block
// alone: S's frames, where there are any, know best.
func (d *Device) followHop(c *conn, part *abi.KernelPart) {
	h := hop{part.NextHop, part.Source}
	if h == c.hop || d.linkHeader != etherLen || h.next == [6]byte{} {
		return
	}
	c.hop = h
	c.toPeer.template.SetLink(slices.Concat(h.next[:], h.source[:], etherHeader(c.key.Family)[12:]))
	c.toPeer.known = false // the next frame of S knows best
}

// followControl changes the congestion control, or has the connection go home
// when it is one that the device has not. It reports false when it has to wait.
func (d *Device) followControl(now mono.Time, c *conn, part *abi.KernelPart) bool {
	name := nameOf(part.Control)
	switch {
	case name == "" || name == c.control:
	case !tcp.Supports(name):
		d.giveBack(now, c, abi.CongestionControl)
		return true
	case !c.wire.SetCongestion(now, name):
		return false
	default:
		c.control = name
	}
	return true
}

// kernelPart reads what the driver has written of c; false when it is not
// whole, not of c, or not sound.
func (d *Device) kernelPart(c *conn) (part abi.KernelPart, ok bool) {
	b := &d.blocks[c.id.Index()]
	ok = shm.Read(&b.Kernel.Sequence, &b.Kernel, &part) && part.HWID == c.id && valid(&part.State)
	return part, ok
}

// socketPart reads the socket-level state of c; zero when it cannot be had.
func (d *Device) socketPart(c *conn) (part abi.SocketPart) {
	b := &d.blocks[c.id.Index()]
	if !shm.Read(&b.Socket.Sequence, &b.Socket, &part) || part.HWID != c.id {
		return abi.SocketPart{}
	}
	return part
}

// sndBuf is the memory that S may have for what it sends, 0 when that is not
// known.
func (d *Device) sndBuf(c *conn) uint32 { return d.socketPart(c).State.SndBufMost }
