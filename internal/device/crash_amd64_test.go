package device

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/frame"
)

// A scenario is a short life of a connection on a device, from which it dies at every
// point.
type scenario struct {
	name string
	play func(w *world)
}

var scenarios = []scenario{
	{"by the channel", func(w *world) {
		w.toBypass()
		for range 3 {
			w.speak(4000, 4000)
			w.heard()
		}
		w.runFor(100 * time.Millisecond)
	}},
	{"by the channel and spilled", func(w *world) {
		w.toBypass()
		w.tie.block.Channel.Limit = 1000
		for range 10 {
			w.speak(700, 300)
			w.step()
		}
		w.heard()
		w.runFor(100 * time.Millisecond)
	}},
	{"parted and resumed", func(w *world) {
		id := w.toBypass()
		w.speak(9000, 9000)
		w.step()
		w.command(abi.Part, id)
		w.good(abi.Parted)
		w.speak(3000, 3000)
		w.rebuild(id)
		w.resume(id)
		w.good(abi.Resumed)
		w.speak(3000, 3000)
		w.heard()
		w.fromShadow(id)
	}},
	{"parted and diverted again", func(w *world) {
		id := w.toBypass()
		w.speak(9000, 9000)
		w.command(abi.Part, id)
		w.good(abi.Parted)
		w.speak(3000, 3000)
		w.command(abi.Divert, id)
		w.good(abi.Diverted)
		w.heard()
	}},
	{"parted and let go", func(w *world) {
		id := w.toBypass()
		w.speak(9000, 9000)
		w.step()
		w.command(abi.Part, id)
		w.good(abi.Parted)
		w.rebuild(id)
		w.steered = false
		w.command(abi.Release, id)
		w.good(abi.Released)
		w.heard()
	}},
	{"bypassed again", func(w *world) {
		id := w.toBypass()
		w.speak(9000, 9000)
		w.heard()
		w.command(abi.Part, id)
		w.good(abi.Parted)
		w.rebuild(id)
		w.resume(id)
		w.good(abi.Resumed)
		w.speak(1000, 1000)
		w.bypassAgain(id)
		w.speak(3000, 3000)
		w.heard()
	}},
	{"joined and resumed", func(w *world) {
		id := w.toShadow()
		w.speak(5000, 5000)
		w.join(id)
		w.good(abi.Joined)
		w.speak(3000, 3000)
		w.command(abi.Resume, id)
		w.good(abi.Resumed)
		w.tie = nil
		w.heard()
	}},
	{"the program closes first", func(w *world) { w.closeBoth(w.program, w.peer) }},
	{"the peer closes first", func(w *world) { w.closeBoth(w.peer, w.program) }},
	{"shadow", func(w *world) {
		id := w.toShadow()
		w.speak(9000, 9000)
		w.heard()
		w.speak(3000, 3000)
		w.fromShadow(id)
		w.heard()
	}},
}

// The steps of scenarios.

func (w *world) toShadow() abi.HWID {
	id := w.admit()
	w.steered = true
	w.speak(1000, 1000)
	w.ownIt(id)
	w.good(abi.Owned)
	return id
}

// toBypass bypasses a connection that is at work.
func (w *world) toBypass() abi.HWID {
	id := w.toShadow()
	w.speak(5000, 5000)
	w.bypassAgain(id)
	return id
}

func (w *world) bypassAgain(id abi.HWID) {
	w.join(id)
	w.good(abi.Joined)
	w.speak(3000, 3000)
	w.until(time.Minute, "drained", func() bool { return w.program.conn.Waiting(make([]frame.Span, 1)) == 0 })
	w.tie.block.Channel.Open = 1
	w.speak(3000, 0) // before the device is told
	w.command(abi.Divert, id)
	w.good(abi.Diverted)
}

func (w *world) fromShadow(id abi.HWID) {
	w.command(abi.Pass, id)
	w.good(abi.Passing)
	w.steered = false
	w.command(abi.Release, id)
	w.good(abi.Released)
}

func (w *world) closeBoth(first, second *endpoint) {
	id := w.toBypass()
	w.speak(5000, 5000)
	first.closing = true
	first.run()
	w.until(time.Minute, "the FIN", second.conn.PeerFINReceived)
	if second == w.program {
		w.speak(3000, 0)
	} else {
		w.speak(0, 3000)
	}
	w.heard()
	second.closing = true
	second.run()
	w.until(time.Minute, "the end", w.done)
	w.until(time.Minute, "a notice", func() bool { _, ok := w.answer(abi.Notice); return ok })
	w.command(abi.Release, id)
	w.good(abi.Released)
}

// speak has both sides send some octets more.
func (w *world) speak(program, peer int) {
	for _, s := range []struct {
		n        int
		from, to *endpoint
	}{{program, w.program, w.peer}, {peer, w.peer, w.program}} {
		b := make([]byte, s.n)
		for i := range b {
			b[i] = byte(w.r.Uint32())
		}
		s.from.toSend = append(slices.Clone(s.from.toSend), b...)
		s.to.want = append(slices.Clone(s.to.want), b...)
		s.from.run()
	}
}

// heard waits until everything has come.
func (w *world) heard() {
	w.until(time.Minute, "octets", func() bool {
		return len(w.program.got) == len(w.program.want) && len(w.peer.got) == len(w.peer.want)
	})
}

// live has a scenario played by a device that is watched, and reports that it died.
func (w *world) live(play func(*world)) (died bool) {
	defer func() {
		if r := recover(); r == (ended{}) {
			w.died, died = true, true
		} else if r != nil {
			panic(r)
		}
	}()
	play(w)
	return false
}

// bury is what the host does when it finds the device dead: what that has sent is on its
// way, and S goes on without it.
func (w *world) bury() {
	w.steered = false
	w.carry(w.kernelUplink, func(b []byte) { w.onWire(b, w.peerReceives) })
	w.carry(w.kernelHost, w.program.receive)
}

// behind reports that S has to be rebuilt.
func (w *world) behind() bool {
	return w.tie != nil && w.tie.block != nil && w.tie.block.Channel.Open != 0
}

// outlook is all that follows from the shared memory of a dead device.
func (w *world) outlook() string {
	if !w.behind() {
		return ""
	}
	_, k, r := w.reckoned(w.id)
	sent, unsent, unread := slices.Concat(r.Sent...), slices.Concat(r.Unsent...), slices.Concat(r.Unread...)
	return fmt.Sprintln(k.Ledger.HWID == w.id, r.SndUna, r.RcvNxt, r.SndWnd, r.SndWL1, r.MaxWnd, r.RcvWnd, r.RcvWup, len(sent), len(unsent)) +
		string(sent) + string(unsent) + string(unread)
}

// survive has the host rebuild S, and both sides say what they have to say, and close.
func (w *world) survive() {
	if w.behind() {
		w.rebuild(w.id)
	} else if w.tie != nil && w.tie.block != nil {
		w.tie = nil
	}
	if !w.program.closing && !w.peer.closing {
		w.speak(2000, 2000)
	}
	w.program.closing, w.peer.closing = true, true
	w.program.run()
	w.peer.run()
	w.until(10*time.Minute, "the end of both streams", w.done)
}

// A crash is a scenario of which the device dies at every point.
type crash struct {
	t      *testing.T
	s      *scenario
	seed   uint64
	memory *shared
	script script
	where  string

	points, stores, completed int
}

func newCrash(t *testing.T, s *scenario, seed uint64) *crash {
	c := &crash{t: t, s: s, seed: seed, memory: newShared(t)}
	c.at(-1, 0)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.where)
		}
	})
	return c
}

func (c *crash) at(point, stores int) {
	c.where = fmt.Sprintf("%s, seed %d: dead after point %d and %d stores", c.s.name, c.seed, point, stores)
}

func (c *crash) world(watch func(*world) watcher) *world {
	f := faults{delay: time.Millisecond}
	if c.seed%2 == 1 {
		f.lose, f.double, f.reorder = 0.03, 0.02, 0.1
	}
	w := newWorld(c.t, c.seed, f)
	w.shared, w.watch = c.memory, watch(w)
	w.newDevice(64 << 20)
	return w
}

// beRecorded is a life in a process that is recorded.
func (c *crash) beRecorded(only map[int]bool) {
	beRecorded(c.t, only, func(s *shared, r watcher) {
		c.memory = s
		c.s.play(c.world(func(*world) watcher { return r }))
	})
}

// count counts the points of a life that nothing disturbs.
func (c *crash) count() {
	w := c.world(func(*world) watcher { return census{} })
	c.s.play(w)
	c.points = w.points
}

// check compares such a life with the script.
func (c *crash) check() {
	var cmp *comparison
	w := c.world(func(w *world) watcher {
		cmp = &comparison{w: w, script: c.script, in: -1, windows: [][2]int{{controlAt, ringsAt}, c.window(w)}}
		return cmp
	})
	c.s.play(w)
	if c.points == 0 && len(c.script) != w.points || c.points != 0 && c.points != w.points {
		c.t.Fatalf("%d points are recorded, %d were counted, and now %d", len(c.script), c.points, w.points)
	}
	c.points, c.stores = w.points, cmp.stores
}

// window is where in the memory the first octets are that S sends.
func (c *crash) window(w *world) [2]int {
	from := int(uint32(w.program.conn.SndEnd()) % abi.RingSize)
	return [2]int{ringsAt + from, ringsAt + min(from+1<<20, abi.RingSize)}
}

// dead is the world when the device has died after a point and some stores more.
func (c *crash) dead(n int, stores []store) *world {
	c.at(n, len(stores))
	w := c.world(func(w *world) watcher { return &execution{w: w, at: n, stores: stores, how: ended{}} })
	if !w.live(c.s.play) {
		c.t.Fatalf("not dead: %s", c.where)
	}
	w.bury()
	return w
}

// die has the device die after a point, and after each store that follows it. What is
// the same for the host has the same end, so each different end is played once.
func (c *crash) die(n int) {
	stores := c.script[n]
	w := c.dead(n, nil)
	last := w.outlook()
	ends := map[string]int{last: 0}
	for i := range stores {
		c.at(n, i+1)
		stores[i].do(w.shared.host)
		last = w.outlook()
		if _, known := ends[last]; !known {
			ends[last] = i + 1
		}
	}
	w.survive() // as it was last
	delete(ends, last)
	for _, made := range ends {
		c.dead(n, stores[:made]).survive()
	}
	c.completed += 1 + len(ends)
}

// dieAndGoOn has the device die, and the life goes on with the next one.
func (c *crash) dieAndGoOn(n int, stores []store) {
	c.at(n, len(stores))
	w := c.world(func(w *world) watcher { return &execution{w: w, at: n, stores: stores, how: death{}} })
	c.s.play(w)
	if w.points <= n {
		c.t.Fatalf("not dead: %s", c.where)
	}
}

// TestCrashAtEveryPoint has the device die at every point of short lives of a connection:
// where its code begins to run, after each system call, after each store to shared
// memory. From what is left then the driver's recovery says what S has to be.
func TestCrashAtEveryPoint(t *testing.T) {
	if what, ok := recorded(); ok {
		c := &crash{t: t, s: &scenarios[what[0]], seed: uint64(what[1])}
		c.beRecorded(nil)
		return
	}
	points, ends := 0, 0
	for i := range scenarios {
		for seed := range uint64(2) {
			c := newCrash(t, &scenarios[i], seed)
			c.script = recordScript(t, "TestCrashAtEveryPoint", i, int(seed))
			c.check()
			for n := range c.points {
				c.die(n)
			}
			points, ends = points+c.points+c.stores, ends+c.completed
			if c.points < 30 || c.stores < 200 {
				t.Errorf("%s: only %d points and %d stores", c.s.name, c.points, c.stores)
			}
		}
	}
	t.Logf("%d points, %d different ends", points, ends)
}

// A long life has every fault of the wire, and the driver moves it at random.
var longLife = scenario{"a long life", func(w *world) {
	w.fill(w.r.IntN(8<<20), w.r.IntN(4<<20))
	w.program.closing, w.peer.closing = w.r.IntN(4) > 0, w.r.IntN(4) > 0
	(&crosser{w: w}).run(400000)
}}

// sample is which of n points of a life are tried.
func sample(seed uint64, n int) map[int]bool {
	const tries = 16
	r, chosen := rand.New(rand.NewPCG(seed, 11)), make(map[int]bool)
	for range tries {
		chosen[r.IntN(n)] = true
	}
	return chosen
}

// TestCrashAtSampledPoints is the same for long lives, at points by seed.
func TestCrashAtSampledPoints(t *testing.T) {
	if what, ok := recorded(); ok {
		c := &crash{t: t, s: &longLife, seed: uint64(what[0])}
		c.beRecorded(sample(c.seed, what[1]))
		return
	}
	for seed := range uint64(6) {
		c := newCrash(t, &longLife, seed)
		c.count()
		c.script = recordScript(t, "TestCrashAtSampledPoints", int(seed), c.points)
		c.check()
		r := rand.New(rand.NewPCG(seed, 13))
		for _, n := range slices.Sorted(maps.Keys(c.script)) {
			c.dieAndGoOn(n, c.script[n][:r.IntN(len(c.script[n])+1)])
		}
		t.Logf("seed %d: %d of %d points, %d stores", seed, len(c.script), c.points, c.stores)
	}
}
