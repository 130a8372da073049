package tcp

import (
	"errors"
	"fmt"
	"unsafe"
)

// Held is the memory of all rings and sets, in octets.
func (c *Conn) Held() int {
	entries := len(c.snd.q.ring) + len(c.rcv.in.ring) + len(c.rcv.ooo.ring)
	return entries*int(unsafe.Sizeof(entry{})) + 8*cap(c.rcv.runs.list) + len(c.loss.ring)*int(unsafe.Sizeof(flight{}))
}

// Miscounted is by how much the sums of memory held in order and after a gap
// are more than the buffers there.
func (c *Conn) Miscounted() (in, ooo int) {
	memory := func(q *queue) (n int) {
		for i := q.head; i != q.tail; i++ {
			n += q.at(i).buf.Cap()
		}
		return n
	}
	return int(c.rcv.inMem) - memory(&c.rcv.in), int(c.rcv.oooMem) - memory(&c.rcv.ooo)
}

// Unsound tells what of the sender contradicts itself, between two calls and
// after Output had nothing more, nil when nothing does.
func (c *Conn) Unsound() error {
	if !c.live {
		return nil
	}
	l, s := &c.loss, &c.snd
	switch {
	case !s.una.LessEq(s.nxt) || !s.nxt.LessEq(s.end.Add(1)):
		return fmt.Errorf("snd.una %d, snd.nxt %d, end of the queue %d", s.una, s.nxt, s.end)
	case s.flight() > 0 && c.timer.rto == 0:
		return errors.New("something is in flight and no timer runs")
	case s.flight() == 0 && s.unsent() > 0 && c.Deadline() == 0:
		return errors.New("nothing is in flight, something waits, and no timer runs")
	case c.cc.cwnd < s.mss:
		return fmt.Errorf("a window of %d octets for segments of %d", c.cc.cwnd, s.mss)
	case l.fack.Less(s.una) || s.nxt.Less(l.fack):
		return fmt.Errorf("fack %d is not between %d and %d", l.fack, s.una, s.nxt)
	case l.phase == open && (l.frto || l.newFirst || l.force):
		return fmt.Errorf("open, with frto %v, newFirst %v, force %v", l.frto, l.newFirst, l.force)
	}
	return errors.Join(c.gaps(), l.recount(), l.marks())
}

// gaps looks for places in flight that the scoreboard does not know.
func (c *Conn) gaps() error {
	l, at := &c.loss, c.snd.una
	for i := l.head; i != l.tail; i++ {
		if x := l.at(i); x.lo != at || !x.lo.Less(x.hi) {
			return fmt.Errorf("flight %d-%d where one from %d is due", x.lo, x.hi, at)
		}
		at = l.at(i).hi
	}
	if at != c.snd.nxt {
		return fmt.Errorf("flights end at %d, snd.nxt is %d", at, c.snd.nxt)
	}
	if l.len() > maxFlights {
		return fmt.Errorf("%d flights", l.len())
	}
	return nil
}

// recount compares the sums with what they are of.
func (l *lossState) recount() error {
	var s, m, r, runs, all, out uint32
	for i := l.head; i != l.tail; i++ {
		x := l.at(i)
		all += x.len()
		if x.is(sacked) {
			s += x.len()
			runs++
		}
		if x.is(lost) {
			m += x.len()
		}
		if x.is(resent) {
			r += x.len()
		}
		if !x.is(sacked) && (!x.is(lost) || x.is(resent)) {
			out += x.len()
		}
	}
	if s != l.sacked || m != l.lost || r != l.resent || runs != l.runs {
		return fmt.Errorf("sums %d %d %d %d of what is %d %d %d %d", l.sacked, l.lost, l.resent, l.runs, s, m, r, runs)
	}
	if n := l.pipe(all); n != out {
		return fmt.Errorf("pipe is %d and should be %d", n, out)
	}
	return nil
}

// marks looks for marks that exclude one another, SACKed neighbours, and what
// is missing but before the hint.
func (l *lossState) marks() error {
	for i := l.head; i != l.tail; i++ {
		x := l.at(i)
		switch {
		case x.is(sacked) && x.is(lost|resent), x.is(resent) && !x.is(lost), x.is(resent) && !x.is(again):
			return fmt.Errorf("flight %d-%d has marks %b", x.lo, x.hi, x.marks)
		case x.is(sacked) && i != l.head && l.at(i-1).is(sacked):
			return fmt.Errorf("SACKed up to %d and from there on", x.lo)
		case x.missing() && (!l.hinted || x.lo.Less(l.hint)):
			return fmt.Errorf("flight %d-%d is missing, the hint is %d, %v", x.lo, x.hi, l.hint, l.hinted)
		}
	}
	return nil
}
