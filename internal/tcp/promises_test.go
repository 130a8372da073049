package tcp

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// Promises returns nil when c keeps what an engine promises after every call:
//  1. snd.una is not after snd.nxt, nor snd.nxt after the end of what is queued
//     and a FIN.
//  2. The scoreboard is all from snd.una to snd.nxt, in order, without gaps and
//     without an empty flight, of at most maxFlights; its sums are right.
//  3. rcv.acked is not after rcv.nxt; what waits is from there on, without gaps.
//  4. What came after a gap is after rcv.nxt, in order, disjoint, within its
//     bounds, and the sums of both queues are right.
//  5. The window is a segment at least, and not more than unlimited.
//  6. A connection that is gone holds nothing to send.
//  7. Nothing is missing before the hint; fack is in flight; what is out there is
//     counted; without a recovery none of its intentions are left.
//
// And, when Output has nothing more to say:
//  8. What is in flight, or waits for a window, has a timer.
func (c *Conn) Promises() error {
	for i, keep := range [...]func() error{c.keepsSend, c.keepsScoreboard, c.keepsOrder, c.keepsGaps, c.keepsWindow, c.keepsGone, c.keepsRepair, c.keepsTime} {
		if err := keep(); err != nil {
			return fmt.Errorf("promise %d: %w", i+1, err)
		}
	}
	return nil
}

func (c *Conn) keepsSend() error {
	s := &c.snd
	last := s.end
	if s.finSent {
		last++
	}
	if !s.una.LessEq(s.nxt) || !s.nxt.LessEq(last) {
		return fmt.Errorf("snd.una %d, snd.nxt %d, end %d, FIN sent %v", s.una, s.nxt, s.end, s.finSent)
	}
	return nil
}

func (c *Conn) keepsScoreboard() error {
	l := &c.loss
	var sum flights
	at, was := c.snd.una, mark(0)
	for i := l.head; i != l.tail; i++ {
		x := l.at(i)
		if x.lo != at || !x.lo.Less(x.hi) {
			return fmt.Errorf("flight %d to %d, want it from %d on", x.lo, x.hi, at)
		}
		if x.is(sacked) && (x.is(lost|resent) || was&sacked != 0) || x.is(resent) && !x.is(lost) {
			return fmt.Errorf("marks %b after %b", x.marks, was)
		}
		sum.count(x, x.len())
		if x.is(sacked) {
			sum.runs++
		}
		at, was = x.hi, x.marks
	}
	if c.live && at != c.snd.nxt || l.len() > maxFlights {
		return fmt.Errorf("%d flights up to %d, snd.nxt %d", l.len(), at, c.snd.nxt)
	}
	if sum.sacked != l.sacked || sum.lost != l.lost || sum.resent != l.resent || sum.runs != l.runs {
		return fmt.Errorf("sums %d %d %d %d, want %d %d %d %d", l.sacked, l.lost, l.resent, l.runs, sum.sacked, sum.lost, sum.resent, sum.runs)
	}
	return nil
}

func (c *Conn) keepsOrder() error {
	r := &c.rcv
	if !r.acked.LessEq(r.nxt) || !r.sentAck.LessEq(r.nxt) {
		return fmt.Errorf("acknowledged %d, %d; rcv.nxt %d", r.acked, r.sentAck, r.nxt)
	}
	next := r.nxt
	if r.finDone {
		next--
	}
	next -= seqnum.Value(r.held)
	for i := r.in.head; i != r.in.tail; i++ {
		e := r.in.at(i)
		if e.len == 0 || e.seq != next {
			return fmt.Errorf("%d octets at %d wait, want them from %d on", e.len, e.seq, next)
		}
		next = e.end()
	}
	return nil
}

func (c *Conn) keepsGaps() error {
	r := &c.rcv
	at, held := r.nxt+1, uint32(0)
	for i := r.after().ooo.head; i != r.after().ooo.tail; i++ {
		e := r.after().ooo.at(i)
		if e.len == 0 || e.seq.Less(at) || !r.after().runs.has(seqnum.Range{Lo: e.seq, Hi: e.end()}) {
			return fmt.Errorf("%d octets at %d after a gap, rcv.nxt %d", e.len, e.seq, r.nxt)
		}
		at, held = e.end(), held+e.len
	}
	if in, ooo := c.Miscounted(); in != 0 || ooo != 0 || held != r.after().held {
		return fmt.Errorf("counts %d and %d octets of memory more than it holds, %d octets of %d", in, ooo, r.after().held, held)
	}
	if r.after().memory > r.maxOOO || r.after().ooo.len() > maxPending || len(r.after().runs.list) > maxRanges {
		return fmt.Errorf("%d octets of memory, %d spans, %d ranges after a gap", r.after().memory, r.after().ooo.len(), len(r.after().runs.list))
	}
	return nil
}

func (c *Conn) keepsWindow() error {
	g := &c.cc
	switch {
	case !c.live:
		return nil
	case g.cwnd < g.mss || g.cwnd > unlimited || g.ssthresh > unlimited:
	case g.mss != c.snd.mss:
	default:
		return nil
	}
	return fmt.Errorf("cwnd %d, ssthresh %d, segments of %d and %d", g.cwnd, g.ssthresh, g.mss, c.snd.mss)
}

func (c *Conn) keepsGone() error {
	if !c.live && c.state != tcb.Closed {
		return fmt.Errorf("state %v", c.state)
	}
	if !c.live && (!c.snd.q.empty() || !c.rcv.after().ooo.empty() || c.loss.len() > 0 || c.Deadline() != 0) {
		return errors.New("it holds something")
	}
	return nil
}

func (c *Conn) keepsRepair() error {
	l, out := &c.loss, uint32(0)
	if !c.live {
		return nil
	}
	for i := l.head; i != l.tail; i++ {
		x := l.at(i)
		if x.missing() && (!l.hinted || x.lo.Less(l.hint)) {
			return fmt.Errorf("flight %d to %d is missing, the hint is %d, %v", x.lo, x.hi, l.hint, l.hinted)
		}
		if !x.is(sacked) && !x.missing() {
			out += x.len()
		}
	}
	switch {
	case l.pipe(c.snd.flight()) != out:
		return fmt.Errorf("pipe is %d, want %d", l.pipe(c.snd.flight()), out)
	case l.fack.Less(c.snd.una) || c.snd.nxt.Less(l.fack):
		return fmt.Errorf("fack %d, snd.una %d, snd.nxt %d", l.fack, c.snd.una, c.snd.nxt)
	case l.phase == open && (l.frto || l.newFirst || l.force):
		return fmt.Errorf("open, with frto %v, newFirst %v, force %v", l.frto, l.newFirst, l.force)
	}
	return nil
}

func (c *Conn) keepsTime() error {
	waits := c.snd.flight() > 0 || c.snd.unsent() > 0 || c.snd.finDue()
	if c.live && waits && c.timer.rto == 0 && !c.timer.pacing && c.opt.deadline() == 0 {
		return fmt.Errorf("%d octets in flight and %d unsent wait for nothing", c.snd.flight(), c.snd.unsent())
	}
	return nil
}

// ReoWnd is RACK.reo_wnd, and the smoothed round-trip time.
func (c *Conn) ReoWnd() (wnd, srtt time.Duration) { return c.reoWnd(), c.rtt.srtt }

// Scoreboard is the memory of what is known of the octets in flight.
func (c *Conn) Scoreboard() int { return len(c.loss.ring) * int(unsafe.Sizeof(flight{})) }
