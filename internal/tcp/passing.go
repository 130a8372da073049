package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/wire"
)

// OutputSACK makes out an acknowledgment that selectively acknowledges what the
// caller knows to be received: as many of the ranges, all after what is
// acknowledged, as one segment holds. It returns how many those are, 0 without
// SACK.
func (c *Conn) OutputSACK(now mono.Time, out *wire.Out, ranges []seqnum.Range) int {
	if !c.live || !c.rcv.sack || len(ranges) == 0 {
		return 0
	}
	c.header(now, out, c.snd.acceptable(), wire.ACK)
	out.NSACK = copy(out.SACK[:blocks(c.ts.on)], ranges)
	return out.NSACK
}
