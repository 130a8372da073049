// Package tcb is a TCP connection at rest: what an engine, or a kernel, must
// know to continue it (RFC 9293, section 3.3.1: the transmission control
// block).
package tcb

import (
	"fmt"
	"time"

	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

// NoThreshold is a slow-start threshold that was never set, as Linux writes it
// (TCP_INFINITE_SSTHRESH).
const NoThreshold = 0x7fffffff

// Limits that Check holds a snapshot to.
const (
	MaxWindow = 65535 << 14 // octets, the largest that RFC 7323 can advertise
	MaxShift  = 14          // RFC 7323, section 2.3
	MinMSS    = 8           // Linux TCP_MIN_SND_MSS without 40 octets of options
	MaxMSS    = 65495       // what an IPv4 packet holds
	MaxName   = 15          // octets, Linux TCP_CA_NAME_MAX with its zero
)

// A Snapshot is a connection at rest.
//
// A valid Snapshot keeps these promises:
//  1. State is one of the states, and agrees with PeerFIN, FINQueued, FINSent
//     and with whether a sent FIN is acknowledged (SndUna == SndNxt).
//  2. SndUna is not after SndNxt; SndNxt-SndUna is at most MaxWindow+1.
//  3. Unacked has SndNxt-SndUna octets, less one for a FIN that is sent and not
//     acknowledged.
//  4. When FINSent, Unsent is empty and FINQueued is false.
//  5. RcvAcked is not after RcvNxt; RcvEdge is at most MaxWindow after RcvAcked
//     and not before it.
//  6. OutOfOrder is in order, disjoint, wholly after RcvNxt by at most
//     2*MaxWindow, and empty when PeerFIN.
//  7. Every span has a buffer, at least one octet, and lies in its buffer.
//  8. SndWnd is at most MaxWindow, the shifts at most MaxShift, MSS from
//     MinMSS to MaxMSS, no duration negative.
//  9. Sacked is in order, disjoint, within SndUna to SndNxt, without an empty
//     range, and empty without SACK.
//  10. CC is at most MaxName octets, CCState keeps its own promises.
//  11. EchoCE and CWRDue are false without ECN.
//
// Code that builds one from outside (a kernel socket, shared memory) calls
// Check first; so does an engine that restores one.
type Snapshot struct {
	State State

	SndUna, SndNxt seqnum.Value
	SndWnd         uint32       // octets from SndUna that the peer lets us send
	SndWL1, SndWL2 seqnum.Value // seq and ack of the segment that set SndWnd

	RcvNxt   seqnum.Value
	RcvAcked seqnum.Value // acknowledged to the peer; before RcvNxt when acknowledging through
	RcvEdge  seqnum.Value // right edge of the window advertised to the peer

	SndWscale, RcvWscale uint8  // shift of the peer's window field, of ours
	MSS                  uint32 // octets of payload in a segment, options already taken off
	SACK, Timestamps     bool   // negotiated

	TSOffset uint32 // ms; TSval is uint32(now.Milliseconds()) + TSOffset
	TSRecent uint32 // the peer's timestamp to echo (RFC 7323, section 4.3)
	TSEcr    uint32 // the last timestamp that the peer echoed
	// TSRecentAge is how long ago TSRecent was set (RFC 7323, section 5.5).
	TSRecentAge time.Duration

	SRTT, RTTVar time.Duration // 0: not measured
	RTO          time.Duration // before back-off; 0: from SRTT and RTTVar
	MinRTT       time.Duration // the least that was measured lately; 0: not measured
	Backoff      uint8         // timeouts in a row: RTO is doubled so often (RFC 6298, rule 5.5)
	Probes       uint8         // window and keepalive probes in a row without an answer

	Cwnd     uint32  // segments, 0: initial window
	Ssthresh uint32  // segments, NoThreshold or 0: never set
	CC       string  // congestion control by Linux's name, "": not told
	CCState  CCState // its private state, as far as it is known

	Sacked         []seqnum.Range // of Unacked, what the peer has selectively acknowledged (RFC 2018)
	ReorderingSeen bool           // RACK.reordering_seen (RFC 8985, section 5.2)
	ReoWndMult     uint8          // RACK.reo_wnd_mult, 0 as 1

	ECN    bool // negotiated (RFC 3168)
	EchoCE bool // ECE goes on every acknowledgment until the peer's CWR comes
	CWRDue bool // the window was reduced for an ECE: the next new data carries CWR

	FINQueued bool // a FIN is to follow Unsent
	FINSent   bool // a FIN was sent: SndNxt is after it
	PeerFIN   bool // the peer's FIN was received in order: RcvNxt is after it

	Unacked    []frame.Span // octets from SndUna to SndNxt
	Unsent     []frame.Span // octets from SndNxt on
	OutOfOrder []OOOSpan    // received after a gap
}

// An OOOSpan is received payload whose first octet is Seq.
type OOOSpan struct {
	Seq  seqnum.Value
	Span frame.Span
}

// FINAcked reports whether this end's FIN was sent and acknowledged.
func (s *Snapshot) FINAcked() bool { return s.FINSent && s.SndUna == s.SndNxt }

// Check returns nil when s keeps every promise, or an error that names the
// first one broken.
func (s *Snapshot) Check() error {
	for i, keep := range [...]func() error{
		s.checkState, s.checkSend, s.checkUnacked, s.checkFIN, s.checkReceive, s.checkOOO, s.checkSpans, s.checkLimits,
		s.checkSacked, s.checkCC, s.checkECN,
	} {
		if err := keep(); err != nil {
			return fmt.Errorf("snapshot breaks promise %d: %w", i+1, err)
		}
	}
	return nil
}

func (s *Snapshot) checkState() error {
	if !s.State.Valid() {
		return fmt.Errorf("state %d", s.State)
	}
	if s.State == Closed {
		return nil
	}
	if s.PeerFIN != s.State.PeerClosed() {
		return fmt.Errorf("state %v with the peer's FIN %v", s.State, s.PeerFIN)
	}
	if s.FINAcked() != s.State.LocalFINAcked() {
		return fmt.Errorf("state %v with the own FIN acknowledged %v", s.State, s.FINAcked())
	}
	if s.FINSent && !s.State.LocalClosed() || !s.FINSent && !s.FINQueued && s.State.LocalClosed() {
		return fmt.Errorf("state %v with FIN sent %v, queued %v", s.State, s.FINSent, s.FINQueued)
	}
	return nil
}

func (s *Snapshot) checkSend() error {
	if d := s.SndNxt.Sub(s.SndUna); !s.SndUna.LessEq(s.SndNxt) || d > MaxWindow+1 {
		return fmt.Errorf("snd.una %d, snd.nxt %d", s.SndUna, s.SndNxt)
	}
	return nil
}

func (s *Snapshot) checkUnacked() error {
	want := uint64(s.SndNxt.Sub(s.SndUna))
	if s.FINSent && !s.FINAcked() {
		want--
	}
	if n := octets(s.Unacked); n != want {
		return fmt.Errorf("%d octets unacknowledged, want %d", n, want)
	}
	return nil
}

func (s *Snapshot) checkFIN() error {
	if s.FINSent && (len(s.Unsent) > 0 || s.FINQueued) {
		return fmt.Errorf("%d spans or a FIN after a FIN that was sent", len(s.Unsent))
	}
	return nil
}

func (s *Snapshot) checkReceive() error {
	if !s.RcvAcked.LessEq(s.RcvNxt) {
		return fmt.Errorf("acknowledged %d is after rcv.nxt %d", s.RcvAcked, s.RcvNxt)
	}
	if d := s.RcvEdge.Sub(s.RcvAcked); !s.RcvAcked.LessEq(s.RcvEdge) || d > MaxWindow {
		return fmt.Errorf("window edge %d, acknowledged %d", s.RcvEdge, s.RcvAcked)
	}
	return nil
}

func (s *Snapshot) checkOOO() error {
	if s.PeerFIN && len(s.OutOfOrder) > 0 {
		return fmt.Errorf("%d spans after the peer's FIN", len(s.OutOfOrder))
	}
	next := uint64(1) // distance from RcvNxt
	for i, o := range s.OutOfOrder {
		from := uint64(o.Seq.Sub(s.RcvNxt))
		if from < next || from > 2*MaxWindow {
			return fmt.Errorf("out-of-order span %d at %d, rcv.nxt %d", i, o.Seq, s.RcvNxt)
		}
		next = from + uint64(o.Span.Len)
	}
	if next > 2*MaxWindow {
		return fmt.Errorf("out-of-order spans up to %d after rcv.nxt", next)
	}
	return nil
}

func (s *Snapshot) checkSpans() error {
	for _, list := range [...][]frame.Span{s.Unacked, s.Unsent} {
		for i, p := range list {
			if !sound(p) {
				return fmt.Errorf("span %d: offset %d, length %d", i, p.Off, p.Len)
			}
		}
	}
	for i, o := range s.OutOfOrder {
		if !sound(o.Span) {
			return fmt.Errorf("out-of-order span %d: offset %d, length %d", i, o.Span.Off, o.Span.Len)
		}
	}
	return nil
}

func (s *Snapshot) checkLimits() error {
	switch {
	case s.SndWnd > MaxWindow:
		return fmt.Errorf("send window %d", s.SndWnd)
	case s.SndWscale > MaxShift || s.RcvWscale > MaxShift:
		return fmt.Errorf("window shifts %d, %d", s.SndWscale, s.RcvWscale)
	case s.MSS < MinMSS || s.MSS > MaxMSS:
		return fmt.Errorf("segment size %d", s.MSS)
	case s.SRTT < 0 || s.RTTVar < 0 || s.RTO < 0 || s.MinRTT < 0:
		return fmt.Errorf("srtt %v, rttvar %v, rto %v, least rtt %v", s.SRTT, s.RTTVar, s.RTO, s.MinRTT)
	case s.TSRecentAge < 0:
		return fmt.Errorf("age of the timestamp to echo %v", s.TSRecentAge)
	}
	return nil
}

func (s *Snapshot) checkSacked() error {
	if !s.SACK && len(s.Sacked) > 0 {
		return fmt.Errorf("%d ranges selectively acknowledged without SACK", len(s.Sacked))
	}
	next, end := uint32(0), s.SndNxt.Sub(s.SndUna) // distances from SndUna
	for i, r := range s.Sacked {
		lo, hi := r.Lo.Sub(s.SndUna), r.Hi.Sub(s.SndUna)
		if lo < next || hi <= lo || hi > end {
			return fmt.Errorf("selectively acknowledged range %d from %d to %d, snd.una %d, snd.nxt %d", i, r.Lo, r.Hi, s.SndUna, s.SndNxt)
		}
		next = hi
	}
	return nil
}

func (s *Snapshot) checkCC() error {
	if len(s.CC) > MaxName {
		return fmt.Errorf("congestion control with a name of %d octets", len(s.CC))
	}
	return s.CCState.Check()
}

func (s *Snapshot) checkECN() error {
	if !s.ECN && (s.EchoCE || s.CWRDue) {
		return fmt.Errorf("echo of CE %v, CWR due %v without ECN", s.EchoCE, s.CWRDue)
	}
	return nil
}

func sound(p frame.Span) bool {
	return p.Buf != nil && p.Len > 0 && uint64(p.Off)+uint64(p.Len) <= uint64(len(p.Buf.B))
}

func octets(list []frame.Span) uint64 {
	n := uint64(0)
	for _, s := range list {
		n += uint64(s.Len)
	}
	return n
}
