package tcptest

import (
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/wire"
)

// A Path is what a Link does to segments.
type Path struct {
	Delay   time.Duration // one way
	Jitter  time.Duration // at most so much more, each on its own: reorders
	Loss    float64       // probability for each segment
	Corrupt float64       // as loss, for a segment whose checksum fails at the receiver
	Double  float64
	Late    float64       // probability of being held back by Behind
	Behind  time.Duration // for Late
	Rate    float64       // octets a second, 0: without limit
	Queue   int           // octets that wait for Rate at most, 0: without limit
	Whole   bool          // super-segments travel whole
}

// A Link carries segments one way.
type Link struct {
	Path
	Deliver func(*wire.Segment) // the payload is the link's: who keeps it retains it
	Watch   func(*wire.Segment) // sees what enters, nil: nobody
	Pool    *frame.Pool         // of the receiver
	Lost    int                 // segments
	Carried int

	world *World
	free  mono.Time // when the line is free
}

// NewLink returns a link that delivers to nobody yet.
func (w *World) NewLink(p Path, pool *frame.Pool) *Link {
	return &Link{Path: p, Pool: pool, world: w}
}

// Carry takes out over the link. It copies the payload.
func (l *Link) Carry(out *wire.Out) {
	seg, size := out.Segment, uint32(out.Size)
	data := payload(out)
	if size == 0 || l.Whole {
		l.one(seg, data)
		return
	}
	for len(data) > 0 {
		n := min(size, uint32(len(data)))
		part := seg
		part.Size = 0
		if int(n) < len(data) {
			part.Flags &^= wire.FIN | wire.PSH
		}
		l.one(part, data[:n])
		data = data[n:]
		seg.Seq = seg.Seq.Add(n)
	}
}

func payload(out *wire.Out) []byte {
	data := make([]byte, 0, out.Length)
	for _, p := range out.Pieces[:out.NPieces] {
		data = append(data, p.Bytes()...)
	}
	return data
}

// one decides the fate of a segment.
func (l *Link) one(seg wire.Segment, data []byte) {
	w := l.world
	if l.Watch != nil {
		seg.Payload.Len = uint32(len(data))
		l.Watch(&seg)
	}
	l.Carried++
	if w.Chance(l.Loss) || w.Chance(l.Corrupt) || !l.room() {
		l.Lost++
		return
	}
	at := w.Now
	if l.Rate > 0 {
		l.free = max(l.free, w.Now).Add(time.Duration(float64(len(data)+66) / l.Rate * 1e9))
		at = l.free
	}
	l.fly(at, seg, data)
	if w.Chance(l.Double) {
		l.fly(at, seg, data)
	}
}

func (l *Link) room() bool {
	return l.Rate == 0 || l.Queue == 0 || float64(l.free-l.world.Now)/1e9*l.Rate < float64(l.Queue)
}

func (l *Link) fly(at mono.Time, seg wire.Segment, data []byte) {
	w := l.world
	d := l.Delay
	if l.Jitter > 0 {
		d += time.Duration(w.Rand.Int64N(int64(l.Jitter)))
	}
	if w.Chance(l.Late) {
		d += l.Behind
	}
	w.At(at.Add(d), func() { l.arrive(seg, data) })
}

func (l *Link) arrive(seg wire.Segment, data []byte) {
	seg.Payload = frame.Span{}
	if len(data) == 0 {
		l.Deliver(&seg)
		return
	}
	b := l.Pool.Get(len(data) + 54)
	if b == nil {
		l.Lost++
		return
	}
	seg.Payload = frame.Span{Buf: b, Off: 54, Len: uint32(copy(b.B[54:], data))}
	l.Deliver(&seg)
	b.Release()
}
