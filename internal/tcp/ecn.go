package tcp

import (
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// ecnState is explicit congestion notification (RFC 3168, section 6.1): as a
// receiver, what ECE says; as a sender, when CWR is due. With DCTCP (RFC 8257)
// ECE says of each acknowledgment whether its own octets were marked.
type ecnState struct {
	on      bool         // negotiated
	echo    bool         // ECE goes on what is sent
	cwrDue  bool         // the next new data carries CWR
	markDue bool         // the next new data carries CE, by MarkNext
	recover seqnum.Value // snd.nxt when the window was last reduced for an ECE
	dctcp   *changes     // nil: RFC 3168's receiver
}

func (e *ecnState) restore(s *tcb.Snapshot, o Options) {
	*e = ecnState{on: s.ECN, echo: s.EchoCE, cwrDue: s.CWRDue, recover: s.SndUna - 1}
	if s.CWRDue {
		e.recover = s.SndNxt
	}
	if s.ECN && o.CC == "dctcp" {
		e.dctcp = &changes{ce: s.CCState.DCTCP.CE}
		e.echo = e.dctcp.ce
	}
}

func (e *ecnState) snapshot(s *tcb.Snapshot) {
	s.ECN, s.EchoCE, s.CWRDue = e.on, e.echo, e.cwrDue
	if e.dctcp != nil {
		s.CCState.DCTCP.CE = e.dctcp.ce
	}
}

// marked takes in the codepoint and CWR of payload that is new and in the
// window; what is not says nothing about the path now (RFC 3168, section
// 6.1.5). It reports whether to acknowledge at once.
func (c *Conn) marked(seg *wire.Segment) (ev Event, atOnce bool) {
	e := &c.ecn
	if !e.on || seg.Payload.Len == 0 {
		return 0, false
	}
	ce := seg.ECN == wire.CE
	if ce {
		ev |= Marked
		c.stats.MarkedIn += uint32(count(seg.Payload.Len, uint32(seg.Size)))
	}
	if seg.Flags&wire.CWR != 0 {
		// The sender's window may be of one segment now: no delay (Linux tcp_ecn_accept_cwr).
		ev, atOnce = ev|Reduced, true
	}
	if e.dctcp != nil {
		return ev, e.dctcp.note(c.rcv.nxt, ce) || atOnce
	}
	was := e.echo && seg.Flags&wire.CWR == 0
	e.echo = was || ce
	return ev, atOnce || e.echo && !was
}

// flags is ECE for a segment with these flags.
func (e *ecnState) flags(flags uint8) uint8 {
	if e.on && e.echo && flags&wire.RST == 0 {
		return wire.ECE
	}
	return 0
}

// codepoint is that of a segment without new data: not ECN-capable (RFC 3168,
// sections 6.1.4 to 6.1.6), but as Linux with DCTCP, whose queues drop what is
// not (tcp_ca_needs_ecn).
func (e *ecnState) codepoint() uint8 {
	if e.dctcp != nil {
		return wire.ECT0
	}
	return wire.NotECT
}

// dress makes out, with data sent for the first time, ECN-capable, and
// says CWR on the first one after a reduction (RFC 3168, section 6.1.2).
func (e *ecnState) dress(out *wire.Out) {
	if !e.on || out.Length == 0 {
		return
	}
	out.ECN = wire.ECT0
	if e.markDue {
		out.ECN, e.markDue = wire.CE, false
	}
	if e.cwrDue {
		out.Flags |= wire.CWR
		e.cwrDue = false
	}
}

// alone limits new data to one segment when it is to carry CWR: of a
// super-segment not every card and kernel would set it on the first one only.
func (e *ecnState) alone(n, mss uint32) uint32 {
	if e.cwrDue && e.on {
		return min(n, mss)
	}
	return n
}

// sawECE is the congestion window's answer to an acknowledgment with ECE: one
// reduction for each window of data (RFC 3168, section 6.1.2).
func (c *Conn) sawECE(now mono.Time) {
	e := &c.ecn
	if !e.on || c.cc.algorithm == nil || c.loss.phase != open || c.snd.una.LessEq(e.recover) {
		return
	}
	c.beginReduction(now, reducing, beganCWR)
}

// queueCWR is called when the congestion window was reduced, "for any reason"
// (RFC 3168, section 6.1.2): ECE before snd.nxt speaks of the same congestion.
func (c *Conn) queueCWR() {
	if c.ecn.on && c.cc.algorithm != nil {
		c.ecn.cwrDue, c.ecn.recover = true, c.snd.nxt
	}
}

// ECN is what is yet to be said: ECE on everything, CWR on the next new data.
func (c *Conn) ECN() (echo, cwr bool) { return c.ecn.echo, c.ecn.cwrDue }

// MarkNext passes on what a correspondent's segment said: that the network
// marked it (Marked), that its sender reduced its window (Reduced). The next
// new data says the same.
func (c *Conn) MarkNext(ev Event) {
	if c.ecn.on && c.live {
		c.ecn.markDue = c.ecn.markDue || ev&Marked != 0
		c.ecn.cwrDue = c.ecn.cwrDue || ev&Reduced != 0
	}
}

// maxMarks is how many changes of CE an acknowledgment may lag behind. What is
// beyond is reported as marked.
const maxMarks = 8

// changes is DCTCP's receiver (RFC 8257, section 3.2): where, in what has not
// been acknowledged, octets with and without CE meet.
type changes struct {
	at [maxMarks]seqnum.Value // the octets from at[i] on differ from those before
	n  uint8
	ce bool // of the octets received last (DCTCP.CE)
}

// note takes in that the octets which come at seq have this mark, and reports
// whether that is a change.
func (m *changes) note(seq seqnum.Value, ce bool) bool {
	switch {
	case ce == m.ce:
		return false
	case !ce && m.n > 0 && m.at[m.n-1] == seq:
		return false // marked octets that came after a gap are yet to be told of
	case m.n == maxMarks && !ce:
		return false
	case m.n == maxMarks:
		m.n-- // what lies between the last two marks is reported as marked
	default:
		m.at[m.n] = seq
		m.n++
	}
	m.ce = ce
	return true
}

// cut returns how far an acknowledgment up to ack may go at once, and whether
// the octets that it then covers are marked: not across a change (RFC 8257,
// section 3.2, figure 1). sent is the acknowledgment before it, all that was
// received is before nxt.
func (m *changes) cut(sent, ack, nxt seqnum.Value) (seqnum.Value, bool) {
	k := uint8(0)
	for k < m.n && m.at[k].LessEq(sent) && (m.at[k].Less(ack) || ack == nxt) {
		k++
	}
	m.n = uint8(copy(m.at[:], m.at[k:m.n]))
	ce := m.ce != (m.n%2 == 1)
	if m.n > 0 && sent.Less(m.at[0]) && m.at[0].Less(ack) {
		return m.at[0], ce
	}
	return ack, ce
}
