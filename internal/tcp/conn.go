package tcp

import (
	"fmt"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// A Conn is one end of a connection. The zero value is closed; Restore brings
// it to life. It belongs to one goroutine.
type Conn struct {
	snd   sendState
	rcv   recvState
	ts    stampState
	rtt   rttState
	loss  lossState
	rate  rateState
	path  pathState
	cc    congestion
	timer timerState
	chal  challengeState
	ecn   ecnState
	opt   optionState

	state   tcb.State
	live    bool // not reset, aborted or closed: takes things in
	through bool
	told    bool
	rstDue  bool

	stats Stats
}

const (
	defaultRcvBuf = 1 << 20
	defaultMaxOOO = 4 << 20
)

// Restore makes c continue the connection in s and takes over the references
// of the spans in it. It returns an error, and takes nothing, when s breaks
// one of its promises or o names no congestion control that exists.
func (c *Conn) Restore(now mono.Time, s *tcb.Snapshot, o Options) error {
	if err := s.Check(); err != nil {
		return err
	}
	algorithm, ok := algorithms[o.CC]
	if !ok {
		return fmt.Errorf("congestion control %q is not known", o.CC)
	}
	*c = Conn{state: s.State, live: true, through: o.Through, told: o.TSTold}
	c.ts.restore(now, s)
	c.snd.restore(s)
	c.path.told, c.path.probing = s.MSS, o.MTUProbing
	c.rcv.restore(s, o)
	c.rtt.restore(now, s)
	c.loss.restore(now, s)
	c.cc.restore(now, algorithm(), s)
	c.ecn.restore(s, o)
	c.restoreOptions(now, s, o)
	c.restoreState(now, s)
	return nil
}

func (c *Conn) restoreState(now mono.Time, s *tcb.Snapshot) {
	if s.State == tcb.Closed && !(s.FINAcked() && s.PeerFIN) {
		c.forget()
		return
	}
	if s.FINQueued {
		c.localClose()
	}
	if !c.through && s.RcvAcked != s.RcvNxt {
		c.rcv.ackDue = true
	}
	if c.state == tcb.TimeWait {
		c.timer.wait = now.Add(timeWait)
	}
	if c.snd.flight() > 0 {
		c.timer.backoff = min(s.Backoff, maxBackoff)
		c.armRTO(now)
	}
	c.timer.sent = now
	c.touch(now)
}

// Snapshot writes the connection at rest to s, whose slices it uses again. The
// spans are borrowed: who keeps one retains it. What Next can still hand out is
// not in it: take that first. A FIN received after a gap is
// left out, as nobody acknowledged it.
func (c *Conn) Snapshot(now mono.Time, s *tcb.Snapshot) {
	unacked, unsent, ooo := s.Unacked[:0], s.Unsent[:0], s.OutOfOrder[:0]
	sacked := s.Sacked[:0]
	*s = tcb.Snapshot{State: c.state}
	s.Unacked, s.Unsent = c.snd.spans(unacked, unsent)
	s.OutOfOrder = c.rcv.spans(ooo)
	c.snd.snapshot(s)
	c.rcv.snapshot(s)
	c.ts.snapshot(now, s)
	s.Probes = c.opt.probes
	c.rtt.snapshot(s)
	c.loss.snapshot(s, sacked)
	s.Backoff = c.timer.backoff
	c.cc.snapshot(now, s)
	c.ecn.snapshot(s)
	if !c.live { // what was in flight is forgotten
		s.SndNxt, s.FINSent, s.FINQueued, s.Sacked = s.SndUna, false, false, sacked
	}
}

// Congestion writes to s what Snapshot does of congestion control alone: MSS,
// Cwnd, Ssthresh, CC and CCState.
func (c *Conn) Congestion(now mono.Time, s *tcb.Snapshot) {
	s.MSS, s.CCState = c.snd.mss, tcb.CCState{}
	c.cc.snapshot(now, s)
}

// Close releases every span held. The Conn does nothing afterwards.
func (c *Conn) Close() {
	c.forget()
	c.rcv.in.clear()
	c.rcv.in.giveBack()
	c.rcv.held, c.rcv.inMem = 0, 0
	c.rstDue = false
}

// forget ends the connection; what was received in order can still be taken.
func (c *Conn) forget() {
	c.live = false
	c.state = tcb.Closed
	c.timer = timerState{}
	c.opt.stop()
	c.snd.q.clear()
	c.snd.q.giveBack()
	c.rcv.dropOOO()
	c.rcv.delack.at, c.rcv.ackDue = 0, false
	c.loss.clear()
	c.loss.giveBack()
}

// Abort makes the next Output one RST, after which there is nothing any more
// (RFC 9293, section 3.10.5).
func (c *Conn) Abort() {
	if !c.live {
		return
	}
	c.forget()
	c.rstDue = true
}

// Sacked calls each for what the peer has selectively acknowledged, in order.
func (c *Conn) Sacked(each func(seqnum.Range)) { c.loss.each(each) }

// Cwnd is the congestion window, in octets.
func (c *Conn) Cwnd() uint32 { return c.cc.cwnd }

// SndUna is the first octet not yet acknowledged.
func (c *Conn) SndUna() seqnum.Value { return c.snd.una }

// SndNxt is the next octet to send.
func (c *Conn) SndNxt() seqnum.Value { return c.snd.nxt }

// SndEdge is the right edge of the peer's window.
func (c *Conn) SndEdge() seqnum.Value { return c.snd.edge }

// SndEnd is the end of everything that Send queued, without a FIN.
func (c *Conn) SndEnd() seqnum.Value { return c.snd.end }

// RcvNxt is the next octet expected.
func (c *Conn) RcvNxt() seqnum.Value { return c.rcv.nxt }

// RcvAcked is what has been acknowledged to the peer; with Through, what may
// be.
func (c *Conn) RcvAcked() seqnum.Value { return c.rcv.acked }

// TSRecent is the peer's timestamp to echo.
func (c *Conn) TSRecent() uint32 { return c.ts.recent }

// TSEcrLast is the timestamp that the peer last echoed.
func (c *Conn) TSEcrLast() uint32 { return c.ts.echoed }

// FINAcked reports whether the FIN of this end was acknowledged.
func (c *Conn) FINAcked() bool { return c.snd.finAcked }

// PeerFINReceived reports whether the peer's FIN was received in order.
func (c *Conn) PeerFINReceived() bool { return c.rcv.finDone }

// State is the connection's state.
func (c *Conn) State() tcb.State { return c.state }

// OOO calls each for the spans received after a gap, in order. They are
// borrowed.
func (c *Conn) OOO(each func(seq seqnum.Value, s frame.Span)) {
	q := &c.rcv.after().ooo
	for i := q.head; i != q.tail; i++ {
		e := q.at(i)
		each(e.seq, e.span())
	}
}

// Stats are the counters; the caller only reads them.
func (c *Conn) Stats() *Stats { return &c.stats }

// Metrics writes the state that tools show to m.
func (c *Conn) Metrics(m *Metrics) {
	*m = Metrics{
		SRTT: micros(c.rtt.srtt), RTTVar: micros(c.rtt.rttvar), RTO: micros(c.rtt.rto),
		Cwnd:     c.cc.segments(c.cc.cwnd),
		Ssthresh: c.cc.segments(c.cc.ssthresh),
		Recovery: uint8(c.loss.phase),
		State:    c.state,
		SndWnd:   c.snd.window(),
		RcvWnd:   distance(c.rcv.acked, c.rcv.edge),
		HeldOut:  c.snd.held(),
		HeldIn:   c.rcv.held + c.rcv.after().held,
		MSS:      c.snd.mss,

		MinRTT: micros(c.rtt.min), DeliveryRate: uint64(c.rate.latest), PacingRate: c.cc.pacing,
	}
	if m.PacingRate == 0 {
		m.PacingRate = c.cc.pace(c.rtt.srtt)
	}
	l := &c.loss
	m.Unacked, m.Sacked = c.segments(c.snd.flight()), c.segments(l.sacked)
	m.Lost, m.Resent = c.segments(l.lost), c.segments(l.resent)
}

// segments is how many carry n octets.
func (c *Conn) segments(n uint32) uint32 { return (n + c.snd.mss - 1) / c.snd.mss }

// distance is from a to b, 0 when b is before a.
func distance(a, b seqnum.Value) uint32 {
	if b.Less(a) {
		return 0
	}
	return b.Sub(a)
}
