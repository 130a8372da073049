package device

import (
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// A siege is an owned connection, and a flood of frames in the peer's name.
type siege struct {
	*world
	s        tcb.Snapshot
	toPeer   int // frames that left for the peer meanwhile
	toHost   int // and for S
	notices  []abi.Reason
	memories int // the most that the pool held
}

func newSiege(t *testing.T) *siege {
	g := &siege{world: plainWorld(t, true, true)}
	g.ownNow()
	g.state(&g.s)
	return g
}

// flood forges n frames, and lets the device look at each.
func (g *siege) flood(n int, forge func(i uint32)) {
	for i := range n {
		forge(uint32(i))
		if _, err := g.device.Turn(g.now); err != nil {
			g.t.Fatal(err)
		}
		g.carry(g.kernelUplink, func([]byte) { g.toPeer++ })
		g.carry(g.kernelHost, func([]byte) { g.toHost++ })
		g.memories = max(g.memories, g.device.pool.Used())
	}
	for a, ok := g.answer(abi.Notice); ok; a, ok = g.answer(abi.Notice) {
		g.notices = append(g.notices, a.Reason)
	}
}

// check moves octets both ways, as if nothing had been.
func (g *siege) check(name string, owned bool) {
	c := g.device.slots[0].conn
	if (c.place == abi.PlaceOwned) != owned {
		g.t.Errorf("%s: place %d", name, c.place)
	}
	g.fill(100000, 100000)
	g.runFor(time.Minute)
	if len(g.peer.got) != 100000 || len(g.program.got) != 100000 {
		g.t.Errorf("%s: hung: %v", name, g.world)
	}
}

// What a blind attacker sends changes nothing of an owned connection: it stays
// where it is, and the peer hears of it ten times in five seconds (RFC 5961,
// section 7). What looks like a keepalive is asked on, of S, as often.
func TestBlindFloods(t *testing.T) {
	const step, n = 1 << 20, 4000
	for _, tt := range []struct {
		name  string
		flags uint8
		stamp uint32 // from the peer's latest
	}{
		{"RST", wire.RST, 0},
		{"RST with ACK", wire.RST | wire.ACK, 0},
		{"SYN", wire.SYN, 1},
		{"SYN with ACK", wire.SYN | wire.ACK, 1},
		{"URG", wire.URG | wire.ACK, 1},
		{"nothing", 0, 1},
		{"old timestamps", wire.ACK, 1 << 31},
	} {
		g := newSiege(t)
		g.flood(n, func(i uint32) {
			g.forged(g.s.RcvNxt.Add(1<<19+i*step), g.s.SndNxt, tt.flags, g.s.TSRecent+tt.stamp, true)
		})
		if g.toPeer > 10 || g.toHost > 10 || len(g.notices) > 0 || g.memories > 1<<20 {
			t.Errorf("%s: %d frames to the peer, %d to S, notices %v, %d octets", tt.name, g.toPeer, g.toHost, g.notices, g.memories)
		}
		g.check(tt.name, true)
	}
}

// SYNs in the window, whose senders know its place, are answered as the others
// (RFC 5961, section 4.2).
func TestSYNFloodInTheWindow(t *testing.T) {
	g := newSiege(t)
	g.flood(1000, func(i uint32) { g.forged(g.s.RcvNxt.Add(i), g.s.SndNxt, wire.SYN, g.s.TSRecent+1, true) })
	if g.toPeer > 10 || g.toHost > 0 || len(g.notices) > 0 {
		t.Errorf("%d frames to the peer, %d to S, notices %v", g.toPeer, g.toHost, g.notices)
	}
	g.check("SYN", true)
}

// Urgent data in the window sends the connection home: once, however much of it
// comes. Until it is there the device passes what comes.
func TestURGFloodInTheWindow(t *testing.T) {
	g := newSiege(t)
	g.flood(1000, func(i uint32) { g.forged(g.s.RcvNxt, g.s.SndNxt, wire.URG|wire.ACK, g.s.TSRecent+1, true) })
	if len(g.notices) != 1 || g.notices[0] != abi.UrgentData || g.toPeer > 10 {
		t.Errorf("notices %v, %d frames to the peer", g.notices, g.toPeer)
	}
	g.check("URG", false)
}

// Acknowledgments of what was never sent make the device pass, as long as they
// come, and ask at most once to send the connection home.
func TestOutOfStepFlood(t *testing.T) {
	g := newSiege(t)
	g.flood(1000, func(i uint32) { g.forged(g.s.RcvNxt, g.s.SndNxt.Add(1000+i), wire.ACK, g.s.TSRecent+1, true) })
	if len(g.notices) > 1 {
		t.Errorf("notices %v", g.notices)
	}
	g.check("out of step", false)
}

// Keepalives in the peer's name are asked on, of S, and answered, ten in five
// seconds.
func TestKeepaliveFlood(t *testing.T) {
	g := newSiege(t)
	g.flood(1000, func(uint32) { g.forged(g.s.RcvNxt-1, g.s.SndNxt, wire.ACK, g.s.TSRecent+1, true) })
	if g.toPeer > 10 || g.toHost > 10 || len(g.notices) > 0 {
		t.Errorf("%d frames to the peer, %d to S, notices %v", g.toPeer, g.toHost, g.notices)
	}
	g.check("keepalive", true)
}

// Frames of flows that the device does not have leave no trace but a count.
func TestUnknownFlows(t *testing.T) {
	g := newSiege(t)
	b := g.peer.template
	for i := range uint32(2000) {
		key := testKey.Reverse()
		key.Local[15], key.LocalPort = byte(i), [2]byte{byte(i >> 8), byte(i)}
		b.Set(&wire.Packet{Key: key, Link: append(make([]byte, 12), 0x08, 0), TTL: 64})
		var h [wire.MaxHeaders]byte
		out := wire.Out{Segment: wire.Segment{Flags: wire.SYN}}
		n := b.Build(h[:], &out)
		give(t, g.kernelUplink, append([]byte{}, h[:n]...))
		if _, err := g.device.Turn(g.now); err != nil {
			t.Fatal(err)
		}
	}
	if n := g.device.Stats().Unknown; n != 2000 || len(g.device.flows) != 1 || g.device.pool.Used() != 0 {
		t.Errorf("%d unknown, %d flows, %d octets", n, len(g.device.flows), g.device.pool.Used())
	}
	g.check("unknown", true)
}
