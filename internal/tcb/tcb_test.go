package tcb

import (
	"strings"
	"testing"

	"toehold/internal/frame"
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
			s.State, s.FINSent, s.SndUna, s.Unacked, s.Unsent = FinWait2, true, s.SndNxt, nil, nil
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
