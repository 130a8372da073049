package tcptest

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/wire"
)

// A Path is what a Link does to segments, one way. All of it may be changed
// while the link carries. Probabilities are for each segment.
type Path struct {
	// The line, which a segment enters first.
	MTU   int     // octets of the largest IP packet; what is larger vanishes (see Link.TooBig); 0: without limit
	Rate  float64 // octets a second, all headers counted; 0: without limit
	Queue int     // octets that may wait for the line; a segment that finds so many is dropped; 0: without limit
	Mark  int     // a segment that finds so many octets waiting, and may be marked, is (ECN, as DCTCP's switches do); 0: none
	Line  *Line   // shared with other links, in place of Rate, Queue and Mark; nil: a line of its own

	// What is lost and doubled after the line.
	Loss    float64
	Burst   Burst
	Corrupt float64 // as Loss: the receiver drops it for its checksum
	AckLoss float64 // as Loss, for segments without payload
	Double  float64

	// The time on the way.
	Delay   time.Duration // of each segment
	Wobble  time.Duration // at most so much more, in order
	Jitter  time.Duration // at most so much more, each on its own: reorders
	Late    float64       // probability of being held back by Behind
	Behind  time.Duration
	AckHold time.Duration // segments without payload wait for its next multiple and come in bunches

	// How super-segments travel.
	Whole bool          // as they are; else split into segments, as a network card does (TSO)
	Merge time.Duration // segments that follow the first within it are merged with it (GRO); 0: none
}

// A Burst is loss in bursts, the model of Gilbert and Elliott: a link is in its
// good state or in its bad one, and each segment may change it.
type Burst struct {
	Start float64 // probability that the bad state begins with a segment
	End   float64 // probability that it ends with one: it lasts 1/End segments on average
	Loss  float64 // in the bad state
}

// Mean is the loss of the long run.
func (b Burst) Mean() float64 {
	if b.Start == 0 {
		return 0
	}
	return b.Loss * b.Start / (b.Start + b.End)
}

// A Line sends at a rate, and has a queue in front of it that drops what does
// not fit. Links that share one compete for it.
type Line struct {
	Rate    float64 // these as in Path
	Queue   int
	Mark    int
	Dropped int // segments that found the queue full
	Marked  int // segments
	Octets  int // sent

	free mono.Time // when it will have sent all that waits
}

// pass takes in seg, of size octets, and returns when the last of them has been
// sent; false when the queue is full.
func (l *Line) pass(now mono.Time, seg *wire.Segment, size int) (mono.Time, bool) {
	if l.Rate == 0 {
		return now, true
	}
	waiting := l.Waiting(now)
	if l.Queue > 0 && waiting >= l.Queue {
		l.Dropped++
		return 0, false
	}
	if l.Mark > 0 && waiting >= l.Mark && seg.ECN != wire.NotECT {
		seg.ECN = wire.CE
		l.Marked++
	}
	l.Octets += size
	l.free = max(l.free, now).Add(time.Duration(float64(size) / l.Rate * 1e9))
	return l.free, true
}

// Waiting is the octets not yet sent.
func (l *Line) Waiting(now mono.Time) int {
	return int(float64(max(l.free, now)-now)/1e9*l.Rate + 0.5)
}
