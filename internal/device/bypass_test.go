package device

import (
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/frame"
	"toehold/internal/tcb"
)

// A crosser carries out the steps of bypass as the driver does, at random times.
type crosser struct {
	w                               *world
	id                              abi.HWID
	phase                           string
	wait                            int
	diverts, resumes, undos, deaths int
	rebuilt, stalls, spills         int
}

func (m *crosser) step() {
	w := m.w
	if w.died {
		m.die()
		return
	}
	if w.r.IntN(300) == 0 {
		e := []*endpoint{w.program, w.peer}[w.r.IntN(2)]
		e.stalled = true
		m.stalls++
		w.after(time.Duration(w.r.Int64N(int64(50*time.Millisecond))), func() { e.stalled = false; e.run() })
	}
	if w.program.closed && w.tie != nil && w.tie.block != nil {
		w.tie.block.Channel.Flags |= abi.ChannelClosed
	}
	if m.phase != "" && w.r.IntN(2000) == 0 {
		if w.tie != nil && w.r.IntN(2) == 0 {
			w.tie.kill = true
		} else {
			m.die()
			return
		}
	}
	if m.wait--; m.wait > 0 {
		return
	}
	m.wait = w.r.IntN(8)
	m.move()
}

// die is the end of the device: the driver rebuilds what was diverted.
func (m *crosser) die() {
	w := m.w
	w.steered, w.died = false, false
	m.deaths++
	if t := w.tie; t != nil && t.block != nil {
		m.spills += int(t.block.Channel.Passed)
		if t.block.Channel.Open != 0 {
			m.rebuilt++
			w.rebuild(m.id)
		} else {
			w.tie = nil
		}
	}
	w.newDevice(64 << 20)
	w.answers = nil
	m.phase = ""
}

// took takes an answer of a kind and says whether there was one, and a good one.
func (m *crosser) took(kind abi.Type) (came, good bool) {
	a, ok := m.w.answer(kind)
	return ok, ok && a.Reason == abi.None
}

func (m *crosser) move() {
	w := m.w
	switch m.phase {
	case "":
		if !w.program.closed && (w.tie == nil || len(w.tie.toS) == 0) && w.r.IntN(2) == 0 {
			m.id, m.phase = w.admit(), "admitted"
		}
	case "admitted":
		w.steered, m.phase = true, "steered"
	case "steered":
		w.ownIt(m.id)
		m.phase = "owning"
	case "owning":
		if came, good := m.took(abi.Owned); good {
			m.phase = "owned"
		} else if came {
			m.home()
		}
	case "owned":
		switch n := w.r.IntN(6); {
		case n == 0:
			m.home()
		case n > 2 && w.program.conn.State() == tcb.Established && (w.tie == nil || len(w.tie.toS) == 0):
			w.join(m.id)
			m.phase = "joining"
		}
	default:
		m.bypass()
	}
}

func (m *crosser) home() {
	m.w.command(abi.Pass, m.id)
	m.phase = "passing"
}

func (m *crosser) bypass() {
	w := m.w
	switch m.phase {
	case "joining":
		came, good := m.took(abi.Joined)
		switch {
		case good && w.r.IntN(5) > 0:
			m.phase = "draining"
		case good, !came && w.r.IntN(60) == 0:
			w.command(abi.Resume, m.id)
			m.phase = "unjoining"
		case came:
			w.tie, m.phase = nil, "owned"
		}
	case "draining": // until the program has read what S's TCP has
		var s [1]frame.Span
		if w.program.conn.Waiting(s[:]) == 0 {
			w.tie.block.Channel.Open = 1
			m.phase = "open"
		}
	case "unjoining":
		if came, good := m.took(abi.Resumed); came && !good {
			w.t.Fatalf("seed %d: not resumed", w.seed)
		} else if good {
			w.answer(abi.Joined)
			w.tie, m.phase = nil, "owned"
		}
	case "open":
		w.command(abi.Divert, m.id)
		m.phase = "diverting"
	case "diverting":
		if came, good := m.took(abi.Diverted); good {
			m.diverts++
			m.phase = "diverted"
		} else if came {
			w.t.Fatalf("seed %d: not diverted", w.seed)
		}
	case "diverted":
		if w.r.IntN(40) == 0 {
			w.command(abi.Part, m.id)
			m.phase = "parting"
		}
	default:
		m.leave()
	}
}

func (m *crosser) leave() {
	w := m.w
	switch m.phase {
	case "parting":
		if came, good := m.took(abi.Parted); good {
			m.phase = "parted"
		} else if came {
			w.t.Fatalf("seed %d: not parted", w.seed)
		}
	case "parted":
		m.parted()
	case "resuming":
		if came, good := m.took(abi.Resumed); good {
			m.resumes++
			m.phase = "owned"
		} else if came {
			w.t.Fatalf("seed %d: not resumed", w.seed)
		}
	case "passing":
		if came, _ := m.took(abi.Passing); came {
			w.steered, m.phase = false, "unsteered"
		}
	case "unsteered":
		w.command(abi.Release, m.id)
		m.phase = "releasing"
	case "releasing":
		if came, _ := m.took(abi.Released); came {
			m.phase = ""
		}
	}
}

// parted undoes the way home, or rebuilds S for the device or without it.
func (m *crosser) parted() {
	w := m.w
	switch w.r.IntN(4) {
	case 0:
		m.undos++
		w.command(abi.Divert, m.id)
		m.phase = "diverting"
	case 1:
		m.spills += int(w.tie.block.Channel.Passed)
		m.rebuilt++
		w.rebuild(m.id)
		w.steered, m.phase = false, "unsteered"
		w.program.run()
	default:
		m.spills += int(w.tie.block.Channel.Passed)
		m.rebuilt++
		w.rebuild(m.id)
		w.resume(m.id)
		m.phase = "resuming"
	}
}

// TestNothingIsLostByBypass is law 1 in simulation: random joins, diverts, parts,
// rebuilds and deaths of the device, over a wire with every fault, octets compared.
func TestNothingIsLostByBypass(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 60
	}
	total := crosser{}
	for seed := range seeds {
		f := faults{delay: time.Duration(1+seed%20) * 100 * time.Microsecond}
		switch seed % 4 {
		case 1:
			f.lose = 0.02
		case 2:
			f.lose, f.double, f.reorder = 0.01, 0.02, 0.1
		case 3:
			f.lose, f.corrupt, f.reorder, f.double = 0.03, 0.02, 0.05, 0.01
		}
		w := newTiedWorld(t, seed, f)
		w.fill(w.r.IntN(6<<20), w.r.IntN(6<<20))
		w.program.closing, w.peer.closing = w.r.IntN(4) > 0, w.r.IntN(4) > 0
		m := &crosser{w: w}
		m.run(400000)
		total.add(m)
	}
	t.Logf("%d conversations: %+v", seeds, total)
	if n := int(seeds); total.diverts < n || total.resumes < n/4 || total.undos < n/8 || total.deaths < n/20 || total.rebuilt < n/2 || total.spills < n {
		t.Error("too few moves to have tested anything")
	}
}

func (m *crosser) add(n *crosser) {
	m.diverts += n.diverts
	m.resumes += n.resumes
	m.undos += n.undos
	m.deaths += n.deaths
	m.rebuilt += n.rebuilt
	m.spills += n.spills
	m.stalls += n.stalls
}

// run plays a conversation to its end, or fails with its seed. Who did not want to
// close does so when all octets are there.
func (m *crosser) run(limit int) {
	w := m.w
	for n := 0; !w.done(); n++ {
		if n > limit {
			w.t.Fatalf("no end in sight %v, phase %q", w, m.phase)
		}
		if len(w.program.got) == len(w.program.want) && len(w.peer.got) == len(w.peer.want) {
			w.program.closing, w.peer.closing = true, true
		}
		m.step()
		w.step()
	}
}
