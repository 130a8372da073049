package handover

import (
	"fmt"

	"toehold/internal/abi"
)

// issued is what hardware ids a device may give: those of its Generations, each index to
// one connection at a time, and a generation of an index once. So a stale id never names a
// new connection, and no connection another one's block or ring, whatever a device says.
type issued struct {
	generations abi.Generations
	capacity    uint32 // 0: not known
	offers      uint64 // made to this device
	latest      map[uint32]uint32
}

// Issue says which ids the device that serves now may give.
func (t *Table) Issue(g abi.Generations, capacity int) {
	t.issued = issued{generations: g, capacity: uint32(capacity), latest: make(map[uint32]uint32)}
}

// wrong says what is wrong with an id that a device gives, "" for nothing.
func (t *Table) wrong(id abi.HWID) string {
	i, index, generation := &t.issued, id.Index(), uint64(id.Generation())
	last, used := i.latest[index]
	switch {
	case generation == 0:
		return "which is none"
	case used && t.conns[abi.MakeHWID(index, last)] != nil:
		return "which is taken"
	case used && generation <= uint64(last):
		return "which was another's"
	case i.capacity == 0:
		return ""
	case index >= i.capacity:
		return fmt.Sprintf("of %d places", i.capacity)
	}
	// The device has used no slot more often than it was offered something.
	first, step := uint64(i.generations.First), uint64(max(i.generations.Step, 1))
	if generation < first || generation >= first+i.offers*step || (generation-first)%step != 0 {
		return fmt.Sprintf("and its generations begin with %d, %d apart, after %d offers", first, step, i.offers)
	}
	return ""
}

// take notes that a connection has the id.
func (t *Table) take(c *Conn, id abi.HWID) {
	if t.issued.latest == nil {
		t.issued.latest = make(map[uint32]uint32)
	}
	t.issued.latest[id.Index()] = id.Generation()
	c.HWID = id
	t.conns[id] = c
}

// awaited reports whether a connection's phase awaits an answer of this type.
func awaited(m abi.Type, c *Conn) bool {
	switch m {
	case abi.Owned:
		return c.Phase == Owning
	case abi.Passing:
		return c.Phase == Passing
	case abi.Released:
		return c.Phase == Releasing
	case abi.Joined:
		return c.Phase == Joining
	case abi.Diverted:
		return c.Phase == Diverting
	case abi.Parted:
		return c.Phase == Parting
	case abi.Resumed:
		return c.Phase == Resuming
	case abi.Notice:
		return c.Phase != Passing && c.Phase != Releasing && c.recalled == abi.None
	}
	return false
}

// vainly counts a message and what in it nobody waits for. A device in order sends little
// of that: answers that come too late.
func (t *Table) vainly(h abi.Header, answers []abi.Answer) {
	if h.Type == abi.Admitted {
		return
	}
	if len(answers) == 0 {
		t.vain++
	}
	for i := range answers {
		if c := t.conns[answers[i].HWID]; c == nil || !awaited(h.Type, c) {
			t.vain++
		}
	}
}

// Vain returns how many answers came since the last call that nobody had waited for.
func (t *Table) Vain() int {
	n := t.vain
	t.vain = 0
	return n
}
