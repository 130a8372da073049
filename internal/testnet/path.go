package testnet

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/mono"
)

// A Path is what a Bridge does to TCP frames of one direction. A frame is
// first lost or not, then waits in the queue for its turn at the rate, and
// then flies for the delay.
type Path struct {
	Rate   int64         // bits a second, 0: without limit
	Delay  time.Duration // one way
	Queue  int           // octets that wait for Rate at most, 0: without limit
	Loss   float64       // share of the frames that are lost
	Burst  float64       // how many in a row are lost, on average; up to 1: each on its own
	Double float64       // share that arrives twice
	Late   float64       // share that arrives Behind later than it should
	Behind time.Duration
}

// Harmless is the path with its rate, delay and queue alone.
func (p Path) Harmless() Path { return Path{Rate: p.Rate, Delay: p.Delay, Queue: p.Queue} }

// Counts are of TCP frames.
type Counts struct {
	Entered    int
	Lost       int // at random
	Overflowed int // the queue
	Doubled    int
	Delayed    int
}

// A lane is one direction of a bridge. The n-th frame of a seed has the same
// fate whenever it comes, but for the queue.
type lane struct {
	Path
	Counts
	random *rand.Rand
	bad    bool      // in a burst of losses
	last   mono.Time // when a frame entered
	free   mono.Time // when the last frame that waits will have left
}

func newLane(p Path, seed, direction uint64) *lane {
	return &lane{Path: p, random: rand.New(rand.NewPCG(seed, direction))}
}

// enter decides when a frame of so many octets arrives, and how often: 0, 1
// or 2 times.
func (l *lane) enter(now mono.Time, octets int) (at mono.Time, copies int) {
	l.Entered++
	lost, double, late := l.lose(now), l.chance(l.Double), l.chance(l.Late)
	if lost {
		l.Lost++
		return 0, 0
	}
	left, ok := l.wait(now, octets)
	if !ok {
		l.Overflowed++
		return 0, 0
	}
	at, copies = left.Add(l.Delay), 1
	if late {
		l.Delayed++
		at = at.Add(l.Behind)
	}
	if double {
		l.Doubled++
		copies = 2
	}
	return at, copies
}

// chance draws whatever p is, so that a frame always uses as many draws.
func (l *lane) chance(p float64) bool { return l.random.Float64() < p }

// burstRest is how long a burst of losses waits for another frame. In a model
// of frames alone it would wait for every retransmission by timeout too, and
// lose most of them.
const burstRest = 20 * time.Millisecond

// lose is Gilbert's model: in the bad state every frame is lost.
func (l *lane) lose(now mono.Time) bool {
	draw, rest := l.random.Float64(), now.Sub(l.last)
	l.last = now
	if l.Burst <= 1 {
		return draw < l.Loss
	}
	if l.bad && rest < burstRest {
		l.bad = draw >= 1/l.Burst
	} else {
		l.bad = draw < l.Loss/(1-l.Loss)/l.Burst
	}
	return l.bad
}

// wait returns when a frame has left at the rate; false: it found no room.
func (l *lane) wait(now mono.Time, octets int) (mono.Time, bool) {
	if l.Rate == 0 {
		return now, true
	}
	l.free = max(l.free, now)
	waiting := float64(l.free.Sub(now)) * float64(l.Rate) / 8e9
	if l.Queue > 0 && waiting+float64(octets) > float64(l.Queue) {
		return 0, false
	}
	l.free += mono.Time(float64(octets) * 8e9 / float64(l.Rate))
	return l.free, true
}

// isTCP says whether an Ethernet frame carries TCP. Only those meet
// adversity: a run shall not wait for a lost ARP or neighbour discovery.
func isTCP(frame []byte) bool {
	if len(frame) < 34 {
		return false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		return frame[23] == unix.IPPROTO_TCP
	case unix.ETH_P_IPV6:
		return frame[20] == unix.IPPROTO_TCP
	}
	return false
}

// An arrival is a frame that is under way.
type arrival struct {
	at    mono.Time
	frame []byte
}

// A flight is the frames that are under way, soonest first; of the same time,
// the first to enter.
type flight []arrival

func (f *flight) add(a arrival) {
	all := append(*f, a)
	i := len(all) - 1
	for ; i > 0 && all[i-1].at > a.at; i-- {
		all[i] = all[i-1]
	}
	all[i] = a
	*f = all
}

// next is when the first arrives, 0: never.
func (f flight) next() mono.Time {
	if len(f) == 0 {
		return 0
	}
	return f[0].at
}

// due takes the first frame out if it has arrived.
func (f *flight) due(now mono.Time) ([]byte, bool) {
	if len(*f) == 0 || (*f)[0].at > now {
		return nil, false
	}
	frame := (*f)[0].frame
	(*f)[0].frame = nil
	*f = (*f)[1:]
	return frame, true
}
