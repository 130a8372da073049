package device

import (
	"testing"
	"time"

	"toehold/internal/abi"
)

// a mover carries out handovers as the driver does, at random times.
type mover struct {
	w      *world
	id     abi.HWID
	phase  string
	wait   int
	owned  int
	homes  int
	deaths int
	stalls int
	quiet  bool // no more moves
}

func (m *mover) step() {
	w := m.w
	if w.r.IntN(300) == 0 { // an application does not read for a while
		e := []*endpoint{w.program, w.peer}[w.r.IntN(2)]
		e.stalled = true
		m.stalls++
		w.after(time.Duration(w.r.Int64N(int64(50*time.Millisecond))), func() { e.stalled = false; e.run() })
	}
	if m.wait--; m.wait > 0 {
		return
	}
	m.wait = w.r.IntN(6)
	switch m.phase {
	case "": // in the kernel
		if m.quiet || w.program.closed || w.r.IntN(2) != 0 {
			return
		}
		m.id, m.phase = w.admit(), "admitted"
	case "admitted":
		w.probed = nil
		if w.r.IntN(3) == 0 { // a segment that is on its way out meanwhile is missed
			k := w.program.kernelState()
			w.probed = &k
			w.step()
		}
		w.steered, m.phase = true, "steered"
	case "steered":
		w.ownIt(m.id)
		m.phase = "owning"
	case "owning":
		m.owning()
	case "passing":
		if _, ok := w.answer(abi.Passing); ok {
			w.steered, m.phase = false, "unsteered"
		}
	case "unsteered":
		w.command(abi.Release, m.id)
		m.phase = "releasing"
	case "releasing":
		if _, ok := w.answer(abi.Released); ok {
			m.phase = ""
			m.homes++
		}
	}
}

func (m *mover) owning() {
	w := m.w
	if a, ok := w.answer(abi.Owned); ok {
		switch {
		case a.Reason == abi.None:
			m.owned++
		case a.Reason != abi.NotEstablished: // a side closes meanwhile
			w.t.Fatalf("not owned: %v", a.Reason)
		}
	}
	switch n := w.r.IntN(60); {
	case n < 4 || m.quiet:
		w.command(abi.Pass, m.id)
		m.phase = "passing"
	case n == 4: // the device dies; the flow falls back by itself
		w.steered = false
		w.newDevice(64 << 20)
		w.answers = nil
		m.phase = ""
		m.deaths++
	}
}

// run plays a conversation to its end, or fails with its seed.
func (m *mover) run(seed uint64, limit int) {
	w := m.w
	for n := 0; !w.done(); n++ {
		if n > limit {
			w.t.Fatalf("seed %d: no end in sight %v, phase %q", seed, w, m.phase)
		}
		m.step()
		w.step()
	}
}

// TestNothingIsLostWhateverMoves is law 1 in simulation: random moves and
// deaths of the device, over a wire with every fault, octets compared.
func TestNothingIsLostWhateverMoves(t *testing.T) {
	seeds := uint64(600)
	if testing.Short() {
		seeds = 60
	}
	total := mover{}
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
		w := newWorld(t, seed, f)
		w.fill(w.r.IntN(6<<20), w.r.IntN(6<<20))
		w.program.closing, w.peer.closing = true, true
		m := &mover{w: w}
		start := w.now
		m.run(seed, 400000)
		// Without faults only a death costs a retransmission timeout, and a
		// program that does not read one of the persist timer.
		if took := w.now.Sub(start); seed%4 == 0 && took > time.Duration(2+2*m.deaths+m.stalls)*time.Second {
			t.Errorf("seed %d: took %v with %d deaths, %d stalls", seed, took, m.deaths, m.stalls)
		}
		total.owned, total.homes, total.deaths = total.owned+m.owned, total.homes+m.homes, total.deaths+m.deaths
	}
	t.Logf("%d conversations: owned %d times, home %d times, %d deaths of the device", seeds, total.owned, total.homes, total.deaths)
	if total.owned < int(seeds)/2 || total.homes < int(seeds)/4 || total.deaths == 0 {
		t.Error("too few moves to have tested anything")
	}
}

// An idle connection is owned at once, and goes home, with nothing on the wire.
func TestIdleConnection(t *testing.T) {
	w := newWorld(t, 1, faults{delay: time.Millisecond})
	m := &mover{w: w}
	m.id = w.admit()
	w.steered = true
	w.ownIt(m.id)
	w.turnDevice()
	if a, ok := w.answer(abi.Owned); !ok || a.Reason != abi.None {
		t.Fatalf("idle connection not owned at once: %v %v", ok, a.Reason)
	}
	if len(w.events) != 0 {
		t.Errorf("%d frames went out on the wire", len(w.events))
	}
	w.fill(100000, 100000)
	for n := 0; len(w.peer.got) < 100000 || len(w.program.got) < 100000; n++ {
		if n > 10000 {
			t.Fatal(w)
		}
		w.step()
	}
	w.command(abi.Pass, m.id)
	w.turnDevice()
	if _, ok := w.answer(abi.Passing); !ok {
		t.Fatal("not passing")
	}
	w.steered = false
	w.command(abi.Release, m.id)
	for range 3 {
		w.turnDevice()
	}
	if _, ok := w.answer(abi.Released); !ok {
		t.Fatal("not released")
	}
	if s := w.device.Stats(); s.Owned+s.Passing != 0 || w.device.pool.Used() != 0 {
		t.Errorf("after the release: %+v, %d octets of buffers in use", s, w.device.pool.Used())
	}
	// What the connection was counted for outlives it.
	var l abi.Load
	w.device.load(&l)
	if l.Wire.BytesSent != 100000 || l.Wire.BytesReceived != 100000 || l.Wire.SegsSent == 0 || l.Frames == 0 || l.PoolUsed != 0 {
		t.Errorf("the device counted %+v", l)
	}
}

func TestAdmission(t *testing.T) {
	w := newWorld(t, 1, faults{})
	id := w.admit()
	ask := func(o abi.Offer) abi.Reason {
		w.device.Handle(w.now, abi.Append(nil, abi.Admit, 1, []abi.Offer{o}))
		w.turnDevice()
		a, ok := w.answer(abi.Admitted)
		if !ok {
			t.Fatal("no answer")
		}
		return a.Reason
	}
	other := testKey
	other.LocalPort[1]++
	for _, tt := range []struct {
		name string
		edit func(*abi.Offer)
		want abi.Reason
	}{
		{"the same flow again", func(o *abi.Offer) { o.Key = testKey }, abi.AlreadyOnDevice},
		{"no MSS", func(o *abi.Offer) { o.MSS = 0 }, abi.InternalError},
		{"no family", func(o *abi.Offer) { o.Key.Family = 0 }, abi.InternalError},
	} {
		o := abi.Offer{Key: other, MSS: mss}
		tt.edit(&o)
		if got := ask(o); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	for i := range len(w.blocks) {
		o := abi.Offer{Key: other, MSS: mss}
		o.Key.LocalPort[0] = byte(i)
		want := abi.None
		if i == len(w.blocks)-1 {
			want = abi.DeviceFull
		}
		if got := ask(o); got != want {
			t.Errorf("connection %d: %v, want %v", i+1, got, want)
		}
	}
	w.command(abi.Own, abi.MakeHWID(id.Index(), id.Generation()+1))
	w.turnDevice()
	if a, _ := w.answer(abi.Owned); a.Reason != abi.NoConnection {
		t.Errorf("a stale id: %v", a.Reason)
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(abi.Append(nil, abi.Admit, 1, []abi.Offer{{Key: testKey, MSS: mss}}))
	f.Add(abi.Append(nil, abi.Own, 1, []abi.Command{{HWID: 1 << 32}}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		w := newWorld(t, 1, faults{})
		w.device.Handle(w.now, msg)
		w.turnDevice()
	})
}
