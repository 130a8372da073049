package driver

import (
	"bytes"
	"net"
	"slices"
	"sync/atomic"

	"toehold/internal/abi"
	"toehold/internal/kernel"
)

// nextHops are the link addresses that the connections of an uplink are sent
// to: those that still answer, and those that do not. A router may be known by
// several addresses.
type nextHops struct{ silent, known map[[6]byte]bool }

// note takes in that packets to the link address last used now have this route,
// and whether its next hop does not answer.
func (h *nextHops) note(last [6]byte, route *kernel.Route, silent bool) {
	if h.silent == nil {
		h.silent, h.known = map[[6]byte]bool{}, map[[6]byte]bool{}
	}
	switch {
	case silent && last != [6]byte{}:
		h.silent[last] = true
	case len(route.NextHop) == 6:
		h.known[[6]byte(route.NextHop)] = true
	}
}

// dead are those by which nobody can be reached any more, in order, as many as
// the device can be told of.
func (h *nextHops) dead() (all [][6]byte) {
	for hop := range h.silent {
		if !h.known[hop] {
			all = append(all, hop)
		}
	}
	slices.SortFunc(all, func(a, b [6]byte) int { return bytes.Compare(a[:], b[:]) })
	return all[:min(len(all), abi.MaxDeadHops)]
}

// stopHops tells the device which next hops not to send to, one word for each,
// however many connections go there.
func (u *uplink) stopHops(dead [][6]byte) {
	if u.set == nil || slices.Equal(dead, u.dead) {
		return
	}
	u.dead = dead
	words := &u.set.Control().DeadHops
	for i := range words {
		word := uint64(0)
		if i < len(dead) {
			word = abi.DeadHop(dead[i])
		}
		atomic.StoreUint64(&words[i], word)
	}
	text := "all answer"
	if len(dead) > 0 {
		text = "no answer from"
		for _, hop := range dead {
			text += " " + net.HardwareAddr(hop[:]).String()
		}
	}
	u.journal.Add(Event{Kind: EventNextHops, Device: u.name, Detail: text})
}
