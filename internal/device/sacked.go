package device

import (
	"slices"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// maxSacked bounds a scoreboard; ranges that find no room are not noted, and
// what is in them may be sent again.
const maxSacked = 64

// A scoreboard is what a receiver has selectively acknowledged (RFC 2018):
// ranges in order that neither overlap nor touch.
type scoreboard []seqnum.Range

// add notes a range.
func (b *scoreboard) add(r seqnum.Range) {
	list := *b
	i := 0
	for i < len(list) && list[i].Hi.Less(r.Lo) {
		i++
	}
	j := i
	for ; j < len(list) && list[j].Lo.LessEq(r.Hi); j++ {
		r.Lo, r.Hi = seqnum.Min(r.Lo, list[j].Lo), seqnum.Max(r.Hi, list[j].Hi)
	}
	if i < j || len(list) < maxSacked {
		*b = slices.Replace(list, i, j, r)
	}
}

// after forgets what is not wholly after una: the receiver acknowledged it,
// or, where a range begins at una, has given it up (RFC 2018, section 8).
func (b *scoreboard) after(una seqnum.Value) {
	n := 0
	for n < len(*b) && (*b)[n].Lo.LessEq(una) {
		n++
	}
	*b = slices.Delete(*b, 0, n)
}

// selected notes the SACK blocks of an acknowledgement that was taken in.
// Those that are not about octets in flight, D-SACKs among them (RFC 2883),
// are passed over.
func (t *track) selected(blocks []seqnum.Range) {
	if !t.seen {
		return // what is in flight is not known
	}
	for _, r := range blocks {
		if !r.Empty() && t.una.Less(r.Lo) && r.Hi.LessEq(t.nxt) {
			t.sacked.add(r)
		}
	}
	t.sacked.after(t.una)
}

// tellSacked tells S what the peer has selectively acknowledged to the engine
// in S's place, so that S does not send it again, and keeps it for the next
// engine.
func (d *Device) tellSacked(now mono.Time, c *conn) scoreboard {
	var all scoreboard
	c.wire.Sacked(func(r seqnum.Range) { all.add(r) })
	all.after(c.wire.SndUna())
	for rest := all; len(rest) > 0; {
		n := c.host.OutputSACK(now, &d.out, rest)
		if n == 0 {
			break
		}
		d.transmit(&d.out, &c.toHost, d.host)
		rest = rest[n:]
	}
	return all
}
