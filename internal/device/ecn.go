package device

import (
	"toehold/internal/abi"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// Explicit congestion notification (RFC 3168) on an owned connection. The wire
// engine does it with the peer: it says ECE for what came marked, and reduces
// its window when the peer says ECE. S is told, on the payload that goes on to
// it, that a segment came marked and that the peer has reduced its window, so
// that it says ECE too and would go on doing so if the device vanished. What S
// says of that to the host engine is heard by nobody. S hears nothing of the
// peer's ECE, as it goes on until somebody says CWR.

// setECN tells each engine what was negotiated, and the one in S's place what
// S still has to say.
func (c *conn) setECN(towardsPeer, towardsHost *tcb.Snapshot) {
	f := c.kernel.Flags
	on := f&abi.FlagECN != 0
	towardsPeer.ECN, towardsHost.ECN = on, on
	towardsPeer.EchoCE = on && f&abi.FlagEchoCE != 0
	towardsPeer.CWRDue = on && f&abi.FlagCWRDue != 0
}

// noteECN takes from a frame of S that is passed what S has to say from now on.
func (c *conn) noteECN(s *wire.Segment) {
	k := &c.kernel
	k.Flags &^= abi.FlagEchoCE
	if s.Flags&wire.ECE != 0 {
		k.Flags |= abi.FlagEchoCE
	}
	if s.Flags&wire.CWR != 0 {
		k.Flags &^= abi.FlagCWRDue
	}
}

// keepECN keeps what the engine in S's place has to say for the next one.
func (c *conn) keepECN() {
	echo, due := c.wire.ECN()
	k := &c.kernel
	k.Flags &^= abi.FlagEchoCE | abi.FlagCWRDue
	if echo {
		k.Flags |= abi.FlagEchoCE
	}
	if due {
		k.Flags |= abi.FlagCWRDue
	}
}
