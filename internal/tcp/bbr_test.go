package tcp

import (
	"math/rand/v2"
	"testing"
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

func (m *model) bbr() *bbr { return m.algorithm.(*bbr) }

// pipe is what the model's path holds, in octets.
func (m *model) pipe() float64 { return m.rate * m.rtt.Seconds() }

func TestBBRFindsTheBottleneck(t *testing.T) {
	for _, tt := range []struct {
		rate  float64
		rtt   time.Duration
		queue float64
	}{
		{1.25e6, 40 * time.Millisecond, 50000},
		{1.25e6, 40 * time.Millisecond, 1e6},
		{1.25e7, 10 * time.Millisecond, 125000},
		{1.25e5, 100 * time.Millisecond, 30000},
		{1.25e7, time.Millisecond, 100000},
	} {
		m := newModel("bbr")
		m.rate, m.rtt, m.queue = tt.rate, tt.rtt, tt.queue
		m.run(3 * time.Second)
		got := m.run(5 * time.Second)
		if got < 0.9*m.rate {
			t.Errorf("%+v: %.0f octets a second", tt, got)
		}
		if b := m.bbr(); !near(float64(b.rates.max()), m.rate, 0.1) || b.minRTT > tt.rtt+tt.rtt/4+2*time.Millisecond {
			t.Errorf("%+v: estimates %d octets a second and %v, mode %d", tt, b.rates.max(), b.minRTT, b.mode)
		}
	}
}

// Startup doubles each round until the bandwidth does not grow for three;
// Drain takes away the queue that this made.
func TestBBRStartsDrainsAndCruises(t *testing.T) {
	m := newModel("bbr")
	m.queue = 1e6
	var modes []tcb.BBRMode
	m.acks = func(sample) {
		if mode := m.bbr().mode; len(modes) == 0 || modes[len(modes)-1] != mode {
			modes = append(modes, mode)
		}
	}
	m.run(3 * time.Second)
	want := []tcb.BBRMode{tcb.BBRStartup, tcb.BBRDrain, tcb.BBRProbeBW}
	if len(modes) != 3 || modes[0] != want[0] || modes[1] != want[1] || modes[2] != want[2] {
		t.Errorf("modes %v, want %v", modes, want)
	}
	most := uint32(0)
	m.acks = func(s sample) { most = max(most, s.inFlight) }
	m.run(3 * time.Second)
	between(t, "most in flight in pipes", float64(most)/m.pipe(), 1, 1.5)
}

func TestBBRProbesTheRTTEveryTenSeconds(t *testing.T) {
	m := newModel("bbr")
	var at []mono.Time
	var left []time.Duration
	low, was := uint32(1<<31), tcb.BBRStartup
	m.acks = func(s sample) {
		mode := m.bbr().mode
		if mode == tcb.BBRProbeRTT {
			low = min(low, s.inFlight)
		}
		if mode == tcb.BBRProbeRTT && was != mode {
			at = append(at, m.now)
		}
		if was == tcb.BBRProbeRTT && was != mode {
			left = append(left, m.now.Sub(at[len(at)-1]))
		}
		was = mode
	}
	m.run(35 * time.Second)
	if len(at) != 3 || len(left) != 3 {
		t.Fatalf("%d dips, %d ended, in 35 s", len(at), len(left))
	}
	for i := range at {
		between(t, "dip in seconds", left[i].Seconds(), 0.2, 0.4)
		if i > 0 {
			between(t, "seconds between dips", at[i].Sub(at[i-1]).Seconds(), 10, 11)
		}
	}
	if low > leastSegs*testMSS {
		t.Errorf("%d octets in flight in a dip", low)
	}
	if m.cwnd < uint32(m.pipe()) {
		t.Errorf("cwnd is %d after the dips", m.cwnd)
	}
}

func TestBBRDoesNotCollapseWithLoss(t *testing.T) {
	for _, loss := range []float64{0.01, 0.02, 0.05} {
		m := newModel("bbr")
		m.loss = loss
		m.run(3 * time.Second)
		if got := m.run(15 * time.Second); got < 0.85*m.rate*(1-loss) {
			t.Errorf("loss %v: %.0f of %.0f octets a second", loss, got, m.rate)
		}
	}
}

// What the program does not fill says nothing of the path: the bandwidth that
// was known stays.
func TestBBRKeepsItsRateWhenThereIsLittleToSend(t *testing.T) {
	m := newModel("bbr")
	m.run(3 * time.Second)
	known := m.bbr().rates.max()
	from := m.nxt
	start := m.now
	m.app = func(sent uint32) bool { return sent-uint32(from) < uint32(m.now.Sub(start).Seconds()*1e5) }
	m.run(4 * time.Second)
	if got := m.bbr().rates.max(); !near(float64(got), float64(known), 0.05) {
		t.Errorf("%d octets a second known, %d before", got, known)
	}
	m.app = nil
	m.run(200 * time.Millisecond)
	between(t, "rate after", m.run(time.Second), 0.9*m.rate, m.rate)
}

func TestBBRFollowsTheBandwidth(t *testing.T) {
	m := newModel("bbr")
	m.run(3 * time.Second)
	m.rate /= 4
	m.run(3 * time.Second)
	between(t, "estimate after a fall", float64(m.bbr().rates.max()), 0.95*m.rate, 1.1*m.rate)
	m.rate *= 4
	m.run(6 * time.Second)
	between(t, "estimate after a rise", float64(m.bbr().rates.max()), 0.9*m.rate, 1.05*m.rate)
}

// A policer drops what is above its rate and queues nothing.
func TestBBRHoldsToAPolicer(t *testing.T) {
	var l longTerm
	s := sample{now: noon, lost: 1000}
	for range 3 * policerRounds {
		s.now = s.now.Add(50 * time.Millisecond)
		s.total += 50000
		s.lost = 20000
		l.sampleLongTerm(s, true, true)
	}
	if !l.policed || !near(float64(l.policer), 1e6, 0.01) {
		t.Fatalf("after two intervals of 1e6 octets a second with losses: %+v", l)
	}
	over := 0
	for range policerLasts {
		if l.sampleLongTerm(sample{}, true, true) {
			over++
		}
	}
	if over != 1 || l.policed {
		t.Errorf("after %d rounds: %+v", policerLasts, l)
	}
}

// In the first round of recovery as much is sent as is delivered; after
// recovery the window is as before.
func TestBBRRecovers(t *testing.T) {
	m := newModel("bbr")
	m.queue = 1e6
	m.run(3 * time.Second)
	before := m.cwnd
	m.reduce(m.now, m.inFlight, beganRecovery)
	m.control(sample{now: m.now, una: m.una, nxt: m.nxt, delivered: testMSS, lost: testMSS, inFlight: 20 * testMSS, before: 22 * testMSS, total: m.delivered, interval: m.rtt, rated: 50000, rtt: m.rtt})
	if m.cwnd != 21*testMSS {
		t.Errorf("cwnd is %d as recovery begins, want in flight and delivered", m.cwnd)
	}
	m.tell(m.now, ended)
	m.control(sample{now: m.now, una: m.una, nxt: m.nxt, delivered: testMSS, inFlight: 20 * testMSS, before: 21 * testMSS, total: m.delivered, prior: m.delivered, interval: m.rtt, rated: 50000, rtt: m.rtt})
	between(t, "cwnd after", float64(m.cwnd), float64(before)-2000, float64(before)+2000)
}

func TestBBRStartsByWindowAndRTT(t *testing.T) {
	for _, tt := range []struct {
		srtt time.Duration
		want float64
	}{
		{0, 10000 / 0.001},
		{100 * time.Millisecond, 10000 / 0.1},
	} {
		var g congestion
		g.restore(noon, new(bbr), &tcb.Snapshot{MSS: testMSS, SRTT: tt.srtt, Ssthresh: 7})
		if want := tt.want * startupGain * pacingMargin; !near(float64(g.pacing), want, 0.001) || g.ssthresh != unlimited {
			t.Errorf("%v: pacing %d, want %.0f; ssthresh %d", tt.srtt, g.pacing, want, g.ssthresh)
		}
	}
}

// The phase of ProbeBW is another for another connection, never the one that
// drains, and the same for the same.
func TestBBRSpreadsItsPhases(t *testing.T) {
	seen := [8]int{}
	for i := range uint32(7000) {
		var b, again bbr
		s := sample{una: seqnum.Value(i * 9973)}
		b.enterProbeBW(s)
		again.enterProbeBW(s)
		seen[b.phase]++
		if b.phase != again.phase {
			t.Fatalf("phases %d and %d for the same sequence number", b.phase, again.phase)
		}
	}
	for i, n := range seen {
		if i == 1 && n != 0 || i != 1 && n < 500 {
			t.Errorf("phase %d begins %d of 7000 times", i, n)
		}
	}
}

// rateFilter against one that remembers everything.
func TestRateFilter(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var f rateFilter
	type added struct {
		round uint32
		rate  uint64
	}
	var all []added
	round := uint32(0)
	for range 5000 {
		if rng.IntN(3) == 0 {
			round += uint32(rng.IntN(4))
		}
		if rng.IntN(200) == 0 {
			round += 100
		}
		r := uint64(rng.IntN(1 << 20))
		f.add(round, r)
		all = append(all, added{round, r})
		want := uint64(0)
		for _, a := range all[max(0, len(all)-100):] {
			if round-a.round < bwRounds {
				want = max(want, a.rate)
			}
		}
		if f.max() != want {
			t.Fatalf("round %d: %d, want %d", round, f.max(), want)
		}
	}
}
