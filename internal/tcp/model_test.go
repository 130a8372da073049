package tcp

import (
	"math/rand/v2"
	"testing"
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// A model is a sender with a congestion control, a bottleneck with a queue and
// a receiver that acknowledges each segment. What is lost is sent again as
// soon as three segments after it are acknowledged, and is not lost again
// unless the queue is full.
type model struct {
	congestion
	now   mono.Time
	rate  float64       // octets a second
	rtt   time.Duration // of an empty path
	queue float64       // octets that wait at most, more are lost
	mark  float64       // octets in the queue from which on segments are marked; 0: never
	loss  float64       // probability
	app   func(sent uint32) bool
	rng   *rand.Rand

	una, nxt, recover seqnum.Value
	flights           []modelFlight
	inFlight          uint32
	free              mono.Time // when the bottleneck is
	next              mono.Time // when pacing allows a segment
	srtt              time.Duration
	delivered         uint64
	deliveredAt       mono.Time
	firstAt           mono.Time
	starved           uint64
	repair            happening // ended: none

	losses, marks int
	mostInFlight  uint32
	acks          func(s sample) // sees every acknowledgment
}

type modelFlight struct {
	hi             seqnum.Value
	at, back       mono.Time // sent; acknowledged, 0: lost
	prior          uint64
	priorAt, first mono.Time
	starved, ce    bool
	passed         int // segments sent after it that were acknowledged
}

// newModel is a path of 10 Mbit/s and 40 ms with a queue of as much, and the
// algorithm of a name as at the start of a connection.
func newModel(name string) *model {
	m := &model{now: noon, rate: 1.25e6, rtt: 40 * time.Millisecond, queue: 50000, rng: rand.New(rand.NewPCG(1, 2)), repair: ended}
	m.restore(noon, algorithms[name](), &tcb.Snapshot{MSS: testMSS})
	return m
}

// run goes on for d and returns the octets a second delivered.
func (m *model) run(d time.Duration) float64 {
	from, end := m.delivered, m.now.Add(d)
	for m.now < end {
		m.fill()
		at := m.nextEvent(end)
		m.now = max(m.now, at)
		if len(m.flights) > 0 {
			m.arrive()
		}
	}
	return float64(m.delivered-from) / d.Seconds()
}

func (m *model) may() bool { return m.app == nil || m.app(uint32(m.nxt)) }

// fill sends what window and pacing allow.
func (m *model) fill() {
	if m.inFlight == 0 && m.may() {
		m.idle(m.now, m.now.Sub(max(m.deliveredAt, noon)), 300*time.Millisecond)
	}
	for m.may() {
		if m.inFlight+testMSS > m.cwnd {
			m.limited = true
			return
		}
		if m.pacing > 0 && m.next > m.now {
			return
		}
		m.send()
	}
	m.starved = m.delivered + uint64(m.inFlight) + 1
}

func (m *model) send() {
	if m.inFlight == 0 {
		m.firstAt, m.deliveredAt = m.now, m.now
	}
	m.nxt += testMSS
	m.inFlight += testMSS
	m.flights = append(m.flights, m.transmit(m.nxt, m.rng.Float64() < m.loss))
	m.mostInFlight = max(m.mostInFlight, m.inFlight)
}

// transmit sends the segment that ends at hi.
func (m *model) transmit(hi seqnum.Value, lost bool) modelFlight {
	f := modelFlight{hi: hi, at: m.now, prior: m.delivered, priorAt: m.deliveredAt, first: m.firstAt, starved: m.starved != 0}
	waiting := max(float64(m.free-m.now)/1e9*m.rate, 0)
	if waiting <= m.queue && !lost {
		m.free = max(m.free, m.now).Add(time.Duration(testMSS / m.rate * 1e9))
		f.back, f.ce = m.free.Add(m.rtt), m.mark > 0 && waiting > m.mark
	} else {
		m.losses++
	}
	if m.pacing > 0 {
		m.next = max(m.next, m.now).Add(time.Duration(testMSS * 1e9 / m.pacing))
	}
	return f
}

// nextEvent is the next acknowledgment, departure, or a timeout when all is
// lost.
func (m *model) nextEvent(end mono.Time) mono.Time {
	at := mono.Time(0)
	if i := m.first(); i >= 0 {
		at = m.flights[i].back
	}
	if at == 0 && len(m.flights) > 0 {
		at = m.flights[len(m.flights)-1].at.Add(time.Second)
	}
	if m.pacing > 0 && m.next > m.now && m.inFlight+testMSS <= m.cwnd && m.may() {
		at = mono.Earliest(at, m.next)
	}
	if at == 0 {
		at = m.now.Add(time.Millisecond)
	}
	return min(at, end)
}

// first is the flight that is acknowledged next, -1: none.
func (m *model) first() int {
	i := -1
	for j, f := range m.flights {
		if f.back != 0 && (i < 0 || f.back < m.flights[i].back) {
			i = j
		}
	}
	return i
}

func (m *model) arrive() {
	if i := m.first(); i >= 0 {
		if m.flights[i].back <= m.now {
			m.acknowledged(i)
		}
		return
	}
	if last := m.flights[len(m.flights)-1]; m.now >= last.at.Add(time.Second) {
		m.timeout()
	}
}

// timeout repairs everything.
func (m *model) timeout() {
	m.reduce(m.now, m.inFlight, beganLoss)
	m.cwnd, m.repair, m.recover = testMSS, beganLoss, m.nxt+testMSS
	m.flights, m.inFlight, m.una = nil, 0, m.nxt
}

// acknowledged is the acknowledgment of flight i; those before it are lost.
func (m *model) acknowledged(i int) {
	f := m.flights[i]
	s := sample{now: m.now, before: m.inFlight, delivered: testMSS, ece: f.ce, rtt: m.now.Sub(f.at), recovering: m.repair != ended}
	m.srtt += (s.rtt - m.srtt) / 8
	if m.srtt < s.rtt/8 {
		m.srtt = s.rtt
	}
	m.delivered += testMSS
	s.prior, s.total, s.rated, s.appLimited = f.prior, m.delivered, m.delivered-f.prior, f.starved
	s.interval = max(f.at.Sub(f.first), m.now.Sub(f.priorAt))
	m.firstAt, m.deliveredAt, s.srtt = f.at, m.now, m.srtt
	if m.starved != 0 && m.delivered > m.starved {
		m.starved = 0
	}
	s.lost = m.pass(i)
	m.inFlight -= testMSS
	m.advance(&s)
	m.respond(s)
}

// pass takes flight i out and sends those before it again that three later
// ones passed, which are lost. It returns their octets.
func (m *model) pass(i int) uint32 {
	lost, sent := uint32(0), m.flights[i].at
	for j := range i {
		f := &m.flights[j]
		if f.at > sent {
			continue
		}
		if f.passed++; f.passed == 3 {
			lost += testMSS
			*f = m.transmit(f.hi, false)
		}
	}
	m.flights = append(m.flights[:i], m.flights[i+1:]...)
	return lost
}

func (m *model) advance(s *sample) {
	una := m.nxt
	if len(m.flights) > 0 {
		una = m.flights[0].hi - testMSS
	}
	s.acked, m.una = una.Sub(m.una), una
	s.una, s.nxt, s.inFlight = m.una, m.nxt, m.inFlight
}

// respond is what a sender does with an acknowledgment.
func (m *model) respond(s sample) {
	if m.acks != nil {
		m.acks(s)
	}
	if m.repair != ended && m.recover.LessEq(m.una) {
		m.repair = ended
		m.tell(m.now, ended)
		s.recovering = false
	}
	m.observe(s)
	switch {
	case s.lost > 0 && (m.repair == ended || m.repair == beganCWR):
		m.begin(beganRecovery)
	case s.ece && m.repair == ended:
		m.marks++
		m.begin(beganCWR)
	}
	if !m.control(s) && s.acked > 0 && (m.repair == ended || m.repair == beganLoss) {
		m.onAck(s)
	}
}

func (m *model) begin(e happening) {
	m.repair, m.recover = e, m.nxt
	m.reduce(m.now, m.inFlight, e)
	if !m.controlled() {
		m.cwnd = m.ssthresh
	}
}

// between fails unless lo <= got <= hi.
func between(t *testing.T, what string, got, lo, hi float64) {
	t.Helper()
	if got < lo || got > hi {
		t.Errorf("%s is %.4g, want %.4g to %.4g", what, got, lo, hi)
	}
}
