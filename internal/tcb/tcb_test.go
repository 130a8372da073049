package tcb

import (
	"math"
	"strings"
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/seqnum"
)

func span(n uint32) frame.Span {
	return frame.Span{Buf: &frame.Buf{B: make([]byte, 4096)}, Off: 10, Len: n}
}

// bulk is a valid snapshot with something of everything, across the wrap of
// both sequence spaces.
func bulk() *Snapshot {
	return &Snapshot{
		State: Established, SndUna: 0xffffff00, SndNxt: 0x100, SndWnd: 65536, SndWscale: 7, RcvWscale: 7,
		RcvNxt: 0x20, RcvAcked: 0xfffffff0, RcvEdge: 0x4000, MSS: 1448, SACK: true, Timestamps: true,
		Unacked:    []frame.Span{span(0x100), span(0x100)},
		Unsent:     []frame.Span{span(7)},
		OutOfOrder: []OOOSpan{{0x30, span(16)}, {0x40, span(1)}, {0x80, span(5)}},
		Sacked:     []seqnum.Range{{Lo: 0xffffff10, Hi: 0xffffff20}, {Lo: 0xffffff80, Hi: 0x10}, {Lo: 0x10, Hi: 0x100}},
		CC:         "cubic", CCState: CCState{Cubic: Cubic{WMax: 12.5, InEpoch: true, Epoch: time.Second}},
		ECN: true, EchoCE: true, CWRDue: true,
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		edit   func(*Snapshot)
		broken string // start of the error, "" when valid
	}{
		{"bulk", func(s *Snapshot) {}, ""},
		{"state", func(s *Snapshot) { s.State = 99 }, "snapshot breaks promise 1"},
		{"closed", func(s *Snapshot) { s.State = Closed }, ""},
		{"peer closed without its FIN", func(s *Snapshot) { s.State = CloseWait }, "snapshot breaks promise 1"},
		{"FIN of an open peer", func(s *Snapshot) { s.PeerFIN, s.OutOfOrder = true, nil }, "snapshot breaks promise 1"},
		{"close-wait", func(s *Snapshot) { s.State, s.PeerFIN, s.OutOfOrder = CloseWait, true, nil }, ""},
		{"FIN queued", func(s *Snapshot) { s.State, s.FINQueued = FinWait1, true }, ""},
		{"FIN queued, state not yet changed", func(s *Snapshot) { s.FINQueued = true }, ""},
		{"fin-wait-1 without FIN", func(s *Snapshot) { s.State = FinWait1 }, "snapshot breaks promise 1"},
		{"FIN sent", func(s *Snapshot) { s.State, s.FINSent, s.SndNxt, s.Unsent = FinWait1, true, 0x101, nil }, ""},
		{"FIN sent while established", func(s *Snapshot) { s.FINSent, s.SndNxt, s.Unsent = true, 0x101, nil }, "snapshot breaks promise 1"},
		{"FIN acknowledged", func(s *Snapshot) {
			s.State, s.FINSent, s.SndUna, s.Unacked, s.Unsent, s.Sacked = FinWait2, true, s.SndNxt, nil, nil, nil
		}, ""},
		{"FIN acknowledged, still fin-wait-1", func(s *Snapshot) {
			s.State, s.FINSent, s.SndUna, s.Unacked, s.Unsent = FinWait1, true, s.SndNxt, nil, nil
		}, "snapshot breaks promise 1"},
		{"snd.una after snd.nxt", func(s *Snapshot) { s.SndUna = 0x101 }, "snapshot breaks promise 2"},
		{"too much in flight", func(s *Snapshot) { s.SndUna = s.SndNxt - MaxWindow - 2 }, "snapshot breaks promise 2"},
		{"octets missing", func(s *Snapshot) { s.Unacked = s.Unacked[:1] }, "snapshot breaks promise 3"},
		{"FIN counted as payload", func(s *Snapshot) { s.State, s.FINSent, s.Unsent = FinWait1, true, nil }, "snapshot breaks promise 3"},
		{"octets after a FIN", func(s *Snapshot) { s.State, s.FINSent, s.SndNxt = FinWait1, true, 0x101 }, "snapshot breaks promise 4"},
		{"two FINs", func(s *Snapshot) {
			s.State, s.FINSent, s.FINQueued, s.SndNxt, s.Unsent = FinWait1, true, true, 0x101, nil
		}, "snapshot breaks promise 4"},
		{"acknowledged too much", func(s *Snapshot) { s.RcvAcked = 0x21 }, "snapshot breaks promise 5"},
		{"edge before acknowledged", func(s *Snapshot) { s.RcvEdge = s.RcvAcked - 1 }, "snapshot breaks promise 5"},
		{"edge before rcv.nxt", func(s *Snapshot) { s.RcvEdge = s.RcvAcked }, ""},
		{"edge too far", func(s *Snapshot) { s.RcvEdge = s.RcvAcked + MaxWindow + 1 }, "snapshot breaks promise 5"},
		{"out of order in order", func(s *Snapshot) { s.OutOfOrder[0].Seq = s.RcvNxt }, "snapshot breaks promise 6"},
		{"out of order before rcv.nxt", func(s *Snapshot) { s.OutOfOrder[0].Seq = s.RcvNxt - 1 }, "snapshot breaks promise 6"},
		{"out of order overlaps", func(s *Snapshot) { s.OutOfOrder[1].Seq-- }, "snapshot breaks promise 6"},
		{"out of order not sorted", func(s *Snapshot) { s.OutOfOrder[2].Seq = 0x31 }, "snapshot breaks promise 6"},
		{"out of order too far", func(s *Snapshot) { s.OutOfOrder[2].Seq = s.RcvNxt + 2*MaxWindow + 1 }, "snapshot breaks promise 6"},
		{"out of order after FIN", func(s *Snapshot) { s.State, s.PeerFIN = CloseWait, true }, "snapshot breaks promise 6"},
		{"span without buffer", func(s *Snapshot) { s.Unsent[0].Buf = nil }, "snapshot breaks promise 7"},
		{"empty span", func(s *Snapshot) { s.Unsent[0].Len = 0 }, "snapshot breaks promise 7"},
		{"span past its buffer", func(s *Snapshot) { s.Unsent[0].Off = 0xffffffff }, "snapshot breaks promise 7"},
		{"out-of-order span past its buffer", func(s *Snapshot) { s.OutOfOrder[0].Span.Off = 4090 }, "snapshot breaks promise 7"},
		{"send window", func(s *Snapshot) { s.SndWnd = MaxWindow + 1 }, "snapshot breaks promise 8"},
		{"shift", func(s *Snapshot) { s.RcvWscale = 15 }, "snapshot breaks promise 8"},
		{"segment size 0", func(s *Snapshot) { s.MSS = 0 }, "snapshot breaks promise 8"},
		{"segment size", func(s *Snapshot) { s.MSS = 65536 }, "snapshot breaks promise 8"},
		{"negative least rtt", func(s *Snapshot) { s.MinRTT = -1 }, "snapshot breaks promise 8"},
		{"timestamp from the future", func(s *Snapshot) { s.TSRecentAge = -1 }, "snapshot breaks promise 8"},
		{"SACK without SACK", func(s *Snapshot) { s.SACK = false }, "snapshot breaks promise 9"},
		{"SACK of nothing", func(s *Snapshot) { s.Sacked[1].Hi = s.Sacked[1].Lo }, "snapshot breaks promise 9"},
		{"SACK turned round", func(s *Snapshot) { s.Sacked[0] = seqnum.Range{Lo: 0xffffff20, Hi: 0xffffff10} }, "snapshot breaks promise 9"},
		{"SACK overlaps", func(s *Snapshot) { s.Sacked[1].Lo = 0xffffff1f }, "snapshot breaks promise 9"},
		{"SACK not sorted", func(s *Snapshot) { s.Sacked[0], s.Sacked[1] = s.Sacked[1], s.Sacked[0] }, "snapshot breaks promise 9"},
		{"SACK from snd.una", func(s *Snapshot) { s.Sacked[0].Lo = s.SndUna }, ""},
		{"SACK before snd.una", func(s *Snapshot) { s.Sacked[0].Lo = s.SndUna - 1 }, "snapshot breaks promise 9"},
		{"SACK after snd.nxt", func(s *Snapshot) { s.Sacked[2].Hi = s.SndNxt + 1 }, "snapshot breaks promise 9"},
		{"name", func(s *Snapshot) { s.CC = "a_name_of_sixteen" }, "snapshot breaks promise 10"},
		{"window not a number", func(s *Snapshot) { s.CCState.Cubic.WMax = math.NaN() }, "snapshot breaks promise 10"},
		{"window without end", func(s *Snapshot) { s.CCState.Cubic.WEst = math.Inf(1) }, "snapshot breaks promise 10"},
		{"negative window", func(s *Snapshot) { s.CCState.Cubic.Origin = -1 }, "snapshot breaks promise 10"},
		{"epoch from the future", func(s *Snapshot) { s.CCState.Cubic.Epoch = -1 }, "snapshot breaks promise 10"},
		{"gain", func(s *Snapshot) { s.CCState.BBR.PacingGain = math.Inf(1) }, "snapshot breaks promise 10"},
		{"age", func(s *Snapshot) { s.CCState.BBR.MinRTTAge = -1 }, "snapshot breaks promise 10"},
		{"mode", func(s *Snapshot) { s.CCState.BBR.Mode = 4 }, "snapshot breaks promise 10"},
		{"phase", func(s *Snapshot) { s.CCState.BBR.CycleIndex = 8 }, "snapshot breaks promise 10"},
		{"alpha 1", func(s *Snapshot) { s.CCState.DCTCP.Alpha = 1 }, ""},
		{"alpha", func(s *Snapshot) { s.CCState.DCTCP.Alpha = 1.01 }, "snapshot breaks promise 10"},
		{"echo without ECN", func(s *Snapshot) { s.ECN, s.CWRDue = false, false }, "snapshot breaks promise 11"},
		{"CWR without ECN", func(s *Snapshot) { s.ECN, s.EchoCE = false, false }, "snapshot breaks promise 11"},
		{"negative time", func(s *Snapshot) { s.RTTVar = -1 }, "snapshot breaks promise 8"},
	}
	for _, tt := range tests {
		s := bulk()
		tt.edit(s)
		err := s.Check()
		switch {
		case err == nil && tt.broken == "":
		case err == nil || tt.broken == "" || !strings.HasPrefix(err.Error(), tt.broken):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.broken)
		}
	}
}

func TestStateOfAgreesWithItself(t *testing.T) {
	for i := range 8 {
		peer, local, acked := i&1 != 0, i&2 != 0, i&4 != 0
		if acked && !local {
			continue
		}
		s := StateOf(peer, local, acked)
		if s.PeerClosed() != peer || s.LocalClosed() != local || s.LocalFINAcked() != acked {
			t.Errorf("%v for peer %v, local %v, acknowledged %v", s, peer, local, acked)
		}
	}
}

func TestStateNames(t *testing.T) {
	want := []string{"closed", "established", "fin-wait-1", "fin-wait-2", "close-wait", "closing", "last-ack", "time-wait", "invalid"}
	for i, name := range want {
		if s := State(i); s.String() != name || s.Valid() != (name != "invalid") {
			t.Errorf("state %d is %q, want %q", i, s, name)
		}
	}
}
