package tcp

import (
	"toehold/internal/frame"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// sendState is the send sequence space (RFC 9293, section 3.3.1).
type sendState struct {
	q      queue        // payload from una to end
	una    seqnum.Value // snd.una
	nxt    seqnum.Value // snd.nxt
	end    seqnum.Value // after the last octet queued; the FIN's sequence number
	edge   seqnum.Value // right edge of the peer's window
	wl1    seqnum.Value // snd.wl1
	wl2    seqnum.Value // snd.wl2
	flush  seqnum.Value // what is before it may be sent whatever cwnd says
	at     uint32       // index in q of the entry that nxt is in
	mss    uint32       // octets
	maxWnd uint32       // largest window that the peer offered
	wscale uint8

	finQueued bool // a FIN is to follow end
	finSent   bool
	finAcked  bool
	flushing  bool // until nxt reaches flush
	override  bool // send a part of a segment into a small window (RFC 9293, section 3.8.6.2.1)
}

func (s *sendState) restore(from *tcb.Snapshot) {
	*s = sendState{
		una: from.SndUna, nxt: from.SndNxt, end: from.SndUna, wl1: from.SndWL1, wl2: from.SndWL2,
		edge: from.SndUna.Add(from.SndWnd), mss: from.MSS, maxWnd: from.SndWnd, wscale: from.SndWscale,
		finQueued: from.FINQueued || from.FINSent, finSent: from.FINSent, finAcked: from.FINAcked(),
	}
	for _, p := range from.Unacked {
		s.append(p)
	}
	s.at = s.q.tail
	for _, p := range from.Unsent {
		s.append(p)
	}
	if s.finAcked {
		s.end-- // una is after the FIN already
	}
}

func (s *sendState) snapshot(to *tcb.Snapshot) {
	to.SndUna, to.SndNxt, to.SndWnd = s.una, s.nxt, min(s.window(), tcb.MaxWindow)
	to.SndWL1, to.SndWL2, to.SndWscale, to.MSS = s.wl1, s.wl2, s.wscale, s.mss
	to.FINSent, to.FINQueued = s.finSent, s.finQueued && !s.finSent
}

// spans appends the payload held to the lists of what was sent and what was
// not.
func (s *sendState) spans(sent, unsent []frame.Span) ([]frame.Span, []frame.Span) {
	for i := s.q.head; i != s.q.tail; i++ {
		e := s.q.at(i)
		n := min(distance(e.seq, s.nxt), e.len)
		if n > 0 {
			sent = append(sent, e.span().Slice(0, n))
		}
		if n < e.len {
			unsent = append(unsent, e.span().Slice(n, e.len-n))
		}
	}
	return sent, unsent
}

// append queues p, joined to the entry before it when it follows it in memory
// and nothing of that entry was completely sent, as s.at may be behind it.
func (s *sendState) append(p frame.Span) {
	if s.at != s.q.tail && !s.q.empty() {
		if e := s.q.last(); e.buf == p.Buf && e.off+e.len == p.Off {
			e.len += p.Len
			s.end = s.end.Add(p.Len)
			p.Buf.Release()
			return
		}
	}
	s.q.push(p, s.end)
	s.end = s.end.Add(p.Len)
}

// flight is the distance from snd.una to snd.nxt.
func (s *sendState) flight() uint32 { return s.nxt.Sub(s.una) }

// window is snd.wnd.
func (s *sendState) window() uint32 { return distance(s.una, s.edge) }

// unsent is the number of octets queued and never sent.
func (s *sendState) unsent() uint32 { return distance(s.nxt, s.end) }

// held is the number of octets queued, sent or not.
func (s *sendState) held() uint32 {
	if s.q.empty() {
		return 0
	}
	return s.q.last().end().Sub(s.q.at(s.q.head).seq)
}

// finDue reports whether a FIN is yet to be sent.
func (s *sendState) finDue() bool { return s.finQueued && !s.finSent }

// acknowledge moves snd.una to ack and frees what is before it.
func (s *sendState) acknowledge(ack seqnum.Value) {
	s.una = ack
	s.q.dropBefore(ack)
	if s.finSent && s.end.Less(ack) {
		s.finAcked = true
	}
}

// gather fills out with the payload from seq on, n octets or as many as fit
// into its pieces, and returns how many and the index of the entry after them.
func (s *sendState) gather(out *wire.Out, i uint32, seq seqnum.Value, n uint32) (uint32, uint32) {
	got, k := uint32(0), 0
	for got < n && k < wire.MaxPieces && i != s.q.tail {
		e := s.q.at(i)
		from := seq.Add(got).Sub(e.seq)
		take := min(e.len-from, n-got)
		out.Pieces[k] = frame.Span{Buf: e.buf, Off: e.off + from, Len: take}
		k++
		got += take
		if from+take == e.len {
			i++
		}
	}
	out.NPieces, out.Length = k, got
	return got, i
}

// Send queues s, whose reference it takes over. After CloseSend, or when the
// connection is gone, it only releases it.
func (c *Conn) Send(s frame.Span) {
	if !c.live || c.snd.finQueued || s.Len == 0 {
		if s.Buf != nil {
			s.Buf.Release()
		}
		return
	}
	c.snd.append(s)
}

// CloseSend queues a FIN after what is queued (RFC 9293, section 3.10.4).
func (c *Conn) CloseSend() {
	if !c.live || c.snd.finQueued {
		return
	}
	c.snd.finQueued = true
	c.localClose()
}

// FlushAll lets everything queued be sent now whatever the congestion window
// says, and in whatever pieces the peer's window allows.
func (c *Conn) FlushAll() {
	c.snd.flush, c.snd.flushing = c.snd.end, c.snd.unsent() > 0
}
