package tcp_test

import (
	"math"
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// FuzzSnapshot restores whatever passes Check; what does not is refused and
// takes nothing.
func FuzzSnapshot(f *testing.F) {
	f.Add(make([]byte, 64))
	for i := range uint64(4) {
		f.Add(octets(i, 200))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		z := newFuzzed(t, in)
		s := z.snapshot()
		z.opts = z.options()
		valid := s.Check() == nil
		if err := z.c.Restore(z.now, s, z.opts); (err == nil) != valid {
			t.Fatalf("valid %v, Restore: %v", valid, err)
		}
		if !valid {
			each(s, (*frame.Buf).Release)
			z.end()
			return
		}
		z.run(200)
	})
}

// snapshot is one that is valid but for what the input changes.
func (f *fuzzed) snapshot() *tcb.Snapshot {
	s := &tcb.Snapshot{State: tcb.State(f.u8() % 9), SndUna: 1000, RcvNxt: 5000, MSS: uint32(f.u16()), SndWnd: f.u32() >> (f.u8() & 31)}
	s.RcvAcked, s.RcvEdge = f.near(s.RcvNxt), f.near(s.RcvNxt)
	s.SndWL1, s.SndWL2 = f.near(s.RcvNxt), f.near(s.SndUna)
	s.SndWscale, s.RcvWscale = f.u8()%16, f.u8()%16
	flags := f.u8()
	s.FINQueued, s.FINSent, s.PeerFIN, s.SACK, s.Timestamps = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&8 != 0, flags&16 != 0
	s.ECN, s.EchoCE, s.CWRDue = flags&32 != 0, flags&96 == 96, flags&160 == 160
	f.send(s)
	f.receive(s)
	if f.yes() {
		f.measured(s)
	}
	if f.yes() {
		f.state(s)
	}
	return s
}

// send is the octets to send and what the peer has of them.
func (f *fuzzed) send(s *tcb.Snapshot) {
	s.SndNxt = s.SndUna
	for range f.u8() % 5 {
		p := f.span(uint32(f.u16()))
		s.Unacked = append(s.Unacked, p)
		s.SndNxt = s.SndNxt.Add(p.Len)
	}
	if s.FINSent && f.u8() != 0 {
		s.SndNxt++
	}
	if f.u8() == 255 {
		s.SndNxt = f.near(s.SndNxt)
	}
	for range f.u8() % 3 {
		s.Unsent = append(s.Unsent, f.span(uint32(f.u16())))
	}
	at := s.SndUna
	for n := f.u8() % 16; n > 0 && (s.SACK || n == 1); n-- {
		r := seqnum.Range{Lo: f.near(at)}
		r.Hi = f.near(r.Lo)
		s.Sacked, at = append(s.Sacked, r), r.Hi
	}
}

func (f *fuzzed) receive(s *tcb.Snapshot) {
	at := s.RcvNxt
	for range f.u8() % 4 {
		p := f.span(uint32(f.u8()))
		at = f.near(at)
		s.OutOfOrder = append(s.OutOfOrder, tcb.OOOSpan{Seq: at, Span: p})
		at = at.Add(p.Len)
	}
}

// long is any duration, small ones as likely as large ones.
func (f *fuzzed) long() time.Duration { return time.Duration(f.u64()) >> (f.u8() & 63) }

// real is any number.
func (f *fuzzed) real() float64 { return math.Float64frombits(f.u64()) }

// measured is what was measured.
func (f *fuzzed) measured(s *tcb.Snapshot) {
	s.SRTT, s.RTTVar, s.RTO, s.MinRTT = f.long(), f.long(), f.long(), f.long()
	s.TSOffset, s.TSRecent, s.TSEcr, s.TSRecentAge = f.u32(), f.u32(), f.u32(), f.long()
	s.Cwnd, s.Ssthresh = f.u32()>>(f.u8()&31), f.u32()>>(f.u8()&31)
	s.Backoff, s.Probes = f.u8(), f.u8()
	s.ReorderingSeen, s.ReoWndMult = f.yes(), f.u8()
}

// state is that of a congestion control.
func (f *fuzzed) state(s *tcb.Snapshot) {
	s.CC = []string{"", "cubic", "reno", "dctcp", "bbr", "vegas", "a_name_of_sixteen"}[f.u8()%7]
	s.CCState = tcb.CCState{
		Cubic: tcb.Cubic{
			WMax: f.real(), InEpoch: f.yes(), Epoch: f.long(), Origin: f.real(), K: f.long(),
			WEst: f.real(), DelayMin: f.long(), Found: f.yes(),
		},
		BBR: tcb.BBR{
			Mode: tcb.BBRMode(f.u8() & 7), CycleIndex: f.u8() & 15, CycleAge: f.long(), MinRTT: f.long(), MinRTTAge: f.long(),
			Bandwidth: f.u64(), LongTerm: f.u64(), FullBandwidth: f.u64(), FullCount: f.u8(), Filled: f.yes(),
			PacingGain: f.real(), CwndGain: f.real(), PriorCwnd: f.u32(), ExtraAcked: f.u32(),
		},
		DCTCP: tcb.DCTCP{Alpha: f.real(), CE: f.yes(), LossCwnd: f.u32()},
	}
	if f.yes() { // one of them only, the others as they mostly are
		keep := s.CCState
		s.CCState = tcb.CCState{}
		switch s.CC {
		case "cubic":
			s.CCState.Cubic = keep.Cubic
		case "bbr":
			s.CCState.BBR = keep.BBR
		case "dctcp":
			s.CCState.DCTCP = keep.DCTCP
		}
	}
}
