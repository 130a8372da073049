package tcptest

import (
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/wire"
)

// A Link carries segments one way.
type Link struct {
	Path
	Deliver func(*wire.Segment) // the payload is the link's: who keeps it retains it
	Watch   func(*wire.Segment) // sees what enters, without payload but for its length; nil: nobody
	// TooBig is told the MTU when something was too large for it, a Delay
	// later, as ICMP would tell; nil: a black hole.
	TooBig  func(mtu int)
	Lost    int // segments that did not arrive, for whatever reason
	Carried int // segments that entered

	world *World
	own   Line
	bad   bool      // in the bad state of Burst
	last  mono.Time // when what keeps its order arrives last
	batch *packet   // being merged
	until mono.Time // when the batch ends
}

// NewLink returns a link that delivers to nobody yet.
func (w *World) NewLink(p Path) *Link { return &Link{Path: p, world: w} }

// Carry takes out over the link. It copies the payload.
func (l *Link) Carry(out *wire.Out) {
	size := uint32(out.Size)
	if size == 0 || l.Whole {
		l.carry(out, 0, out.Length)
		return
	}
	for at := uint32(0); at < out.Length; at += size {
		l.carry(out, at, min(size, out.Length-at))
	}
}

// carry takes a segment, n octets of out from at on, to the receiver or to
// nowhere.
func (l *Link) carry(out *wire.Out, at, n uint32) {
	p := l.world.packet(l)
	p.seg = cut(out, at, n)
	if l.Watch != nil {
		l.Watch(&p.seg)
	}
	l.Carried++
	left, ok := l.enter(&p.seg)
	if !ok || l.loses(n == 0) || !l.fill(p, out, at) {
		l.Lost++
		l.world.discard(p)
		return
	}
	if l.world.Chance(l.Double) {
		l.fly(left, l.twin(p))
	}
	l.fly(left, p)
}

// cut is the header of a segment of out. CWR is only on the first, FIN and PSH
// only on the last.
func cut(out *wire.Out, at, n uint32) wire.Segment {
	seg := out.Segment
	seg.Seq = seg.Seq.Add(at)
	seg.Payload = frame.Span{Len: n}
	if at > 0 {
		seg.Flags &^= wire.CWR
	}
	if at+n < out.Length {
		seg.Flags &^= wire.FIN | wire.PSH
	}
	if n <= uint32(seg.Size) {
		seg.Size = 0
	}
	return seg
}

// Octets in front of the payload, without options.
const (
	ipHeaders  = 20 + 20
	allHeaders = 14 + ipHeaders
)

// options is the length of seg's TCP options.
func options(seg *wire.Segment) int {
	n := 0
	if seg.TSOK {
		n = 12
	}
	if seg.NSACK > 0 {
		n += 4 + 8*seg.NSACK
	}
	return n
}

// enter passes seg through the MTU and the line, and returns when it has left.
func (l *Link) enter(seg *wire.Segment) (mono.Time, bool) {
	n, segments := int(seg.Payload.Len), 1
	largest := n
	if seg.Size > 0 {
		largest, segments = int(seg.Size), (n+int(seg.Size)-1)/int(seg.Size)
	}
	if l.MTU > 0 && largest+ipHeaders+options(seg) > l.MTU {
		l.tooBig()
		return 0, false
	}
	line := l.Line
	if line == nil {
		line = &l.own
		line.Rate, line.Queue, line.Mark = l.Rate, l.Queue, l.Mark
	}
	return line.pass(l.world.Now, seg, n+segments*(allHeaders+options(seg)))
}

func (l *Link) tooBig() {
	if l.TooBig != nil {
		mtu := l.MTU
		l.world.After(l.Delay, func() { l.TooBig(mtu) })
	}
}

// loses decides whether a segment that left the line is lost.
func (l *Link) loses(empty bool) bool {
	w := l.world
	if l.bad {
		l.bad = !w.Chance(l.Burst.End)
	} else {
		l.bad = w.Chance(l.Burst.Start)
	}
	return w.Chance(l.Loss) || w.Chance(l.Corrupt) || empty && w.Chance(l.AckLoss) || l.bad && w.Chance(l.Burst.Loss)
}

// fill gives p the payload of out from at on, false when there is no buffer.
func (l *Link) fill(p *packet, out *wire.Out, at uint32) bool {
	n := p.seg.Payload.Len
	if n == 0 {
		return true
	}
	b := l.world.Pool.Get(int(n) + allHeaders)
	if b == nil {
		return false
	}
	p.seg.Payload = frame.Span{Buf: b, Off: allHeaders, Len: n}
	gather(p.seg.Payload.Bytes(), out, at)
	return true
}

// gather copies the payload of out from at on.
func gather(dst []byte, out *wire.Out, at uint32) {
	for _, s := range out.Pieces[:out.NPieces] {
		if at >= s.Len {
			at -= s.Len
			continue
		}
		dst = dst[copy(dst, s.Bytes()[at:]):]
		at = 0
	}
}

// twin is p once more.
func (l *Link) twin(p *packet) *packet {
	q := l.world.packet(l)
	q.seg = p.seg
	if b := q.seg.Payload.Buf; b != nil {
		b.Retain()
	}
	return q
}

// fly takes p from the line to the receiver.
func (l *Link) fly(left mono.Time, p *packet) {
	w := l.world
	at := left.Add(l.Delay + l.upTo(l.Wobble))
	if l.AckHold > 0 && p.seg.Payload.Len == 0 {
		at += mono.Time(l.AckHold) - at%mono.Time(l.AckHold)
	}
	if l.Wobble > 0 {
		at = max(at, l.last)
		l.last = at
	}
	at = at.Add(l.upTo(l.Jitter))
	if w.Chance(l.Late) {
		at = at.Add(l.Behind)
	}
	w.at(at, p)
}

func (l *Link) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(l.world.Rand.Int64N(int64(d)))
}

// arrive hands p over, at once or when what follows has been merged with it.
func (l *Link) arrive(p *packet) {
	if l.batch != nil || l.Merge > 0 {
		l.merge(p)
		return
	}
	l.deliver(p)
}

func (l *Link) deliver(p *packet) {
	l.Deliver(&p.seg)
	l.world.discard(p)
}
