package tcp_test

import (
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

const noon = mono.Time(time.Hour)

// established is a snapshot of a connection with nothing in flight.
func established(edit func(*tcb.Snapshot)) *tcb.Snapshot {
	s := &tcb.Snapshot{
		State: tcb.Established, SndUna: 1000, SndNxt: 1000, SndWnd: 60000, RcvNxt: 5000, RcvAcked: 5000, RcvEdge: 65000,
		MSS: 1000, SACK: true,
	}
	edit(s)
	return s
}

func TestRestoreRefusesAndTakesNothing(t *testing.T) {
	pool := frame.NewPool(1 << 20)
	for _, tt := range []struct {
		name string
		edit func(*tcb.Snapshot)
		opts tcp.Options
	}{
		{"broken promise", func(s *tcb.Snapshot) { s.RcvAcked++ }, tcp.Options{}},
		{"unknown congestion control", func(s *tcb.Snapshot) {}, tcp.Options{CC: "vegas"}},
	} {
		var c tcp.Conn
		s := established(tt.edit)
		s.Unsent = []frame.Span{{Buf: pool.Get(1), Len: 1}}
		if err := c.Restore(noon, s, tt.opts); err == nil {
			t.Errorf("%s: no error", tt.name)
		}
		s.Unsent[0].Buf.Release() // panics when Restore has released it
		if c.State() != tcb.Closed {
			t.Errorf("%s: %v", tt.name, c.State())
		}
	}
}

// TestClosedConn: the zero value, and one after Close, take everything and do
// nothing.
func TestClosedConn(t *testing.T) {
	pool := frame.NewPool(1 << 20)
	var c tcp.Conn
	for round := range 2 {
		var s tcb.Snapshot
		var out wire.Out
		var p frame.Span
		seg := wire.Segment{Flags: wire.ACK, Payload: frame.Span{Buf: pool.Get(1), Len: 1}}
		if ev := c.Receive(noon, &seg); ev != tcp.Dropped && c.State() == tcb.Closed {
			t.Errorf("events %b", ev)
		}
		seg.Payload.Buf.Release()
		c.Close()
		c.Send(frame.Span{Buf: pool.Get(1), Len: 1})
		c.Send(frame.Span{})
		c.CloseSend()
		c.Permit(1, 2)
		c.AckNow()
		c.Probe()
		c.Abort()
		c.FlushAll()
		c.Advance(noon)
		c.Snapshot(noon, &s)
		if c.Output(noon, &out) || c.Next(&p) || c.Deadline() != 0 || round == 1 && s.Check() != nil {
			t.Error("a closed connection does something")
		}
		if err := c.Restore(noon, established(func(*tcb.Snapshot) {}), tcp.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	pool.Recycle()
	if pool.Used() != 0 {
		t.Errorf("%d octets leaked", pool.Used())
	}
}

// TestUnsoundPayload: a payload that is not there is not touched.
func TestUnsoundPayload(t *testing.T) {
	pool := frame.NewPool(1 << 20)
	b := pool.Get(100)
	for _, p := range []frame.Span{{Len: 1}, {Buf: b, Off: uint32(len(b.B)), Len: 1}, {Buf: b, Off: 1<<32 - 1, Len: 2}} {
		var c tcp.Conn
		if err := c.Restore(noon, established(func(*tcb.Snapshot) {}), tcp.Options{}); err != nil {
			t.Fatal(err)
		}
		if ev := c.Receive(noon, &wire.Segment{Seq: 5000, Ack: 1000, Flags: wire.ACK, Payload: p}); ev != tcp.Dropped {
			t.Errorf("%+v: events %b", p, ev)
		}
	}
}

func TestOOOListsWhatWaits(t *testing.T) {
	pool := frame.NewPool(1 << 20)
	var c tcp.Conn
	s := established(func(s *tcb.Snapshot) {
		s.OutOfOrder = []tcb.OOOSpan{{Seq: 5100, Span: frame.Span{Buf: pool.Get(9), Len: 9}}, {Seq: 5200, Span: frame.Span{Buf: pool.Get(7), Off: 1, Len: 7}}}
	})
	if err := c.Restore(noon, s, tcp.Options{}); err != nil {
		t.Fatal(err)
	}
	var seqs []seqnum.Value
	octets := uint32(0)
	c.OOO(func(seq seqnum.Value, p frame.Span) {
		seqs = append(seqs, seq)
		octets += p.Len
	})
	if len(seqs) != 2 || seqs[0] != 5100 || seqs[1] != 5200 || octets != 16 {
		t.Errorf("%v, %d octets", seqs, octets)
	}
	c.Close()
	pool.Recycle()
	if pool.Used() != 0 {
		t.Errorf("%d octets leaked", pool.Used())
	}
}

// TestSnapshotIsWhatWasRestored, field by field.
func TestSnapshotIsWhatWasRestored(t *testing.T) {
	pool := frame.NewPool(1 << 20)
	span := func(n uint32) frame.Span { return frame.Span{Buf: pool.Get(int(n)), Off: 3, Len: n} }
	want := established(func(s *tcb.Snapshot) {
		s.SndNxt, s.Unacked, s.Unsent = 1150, []frame.Span{span(100), span(50)}, []frame.Span{span(20)}
		s.OutOfOrder = []tcb.OOOSpan{{Seq: 6000, Span: span(5)}}
		s.SndWL1, s.SndWL2, s.SndWscale, s.RcvWscale, s.Timestamps = 4999, 1000, 3, 9, true
		s.TSOffset, s.TSRecent, s.TSEcr = 1, 2, 3
		s.SRTT, s.RTTVar, s.RTO, s.Cwnd, s.Ssthresh = 40*time.Millisecond, 7*time.Millisecond, 300*time.Millisecond, 12, 99
		s.RcvAcked, s.FINQueued, s.State = 4000, true, tcb.FinWait1
	})
	var c tcp.Conn
	if err := c.Restore(noon, want, tcp.Options{Through: true}); err != nil {
		t.Fatal(err)
	}
	var got tcb.Snapshot
	c.Snapshot(noon, &got)
	if err := got.Check(); err != nil {
		t.Fatal(err)
	}
	for name, same := range map[string]bool{
		"spans":     len(got.Unacked) == 2 && got.Unacked[0] == want.Unacked[0] && got.Unacked[1] == want.Unacked[1] && len(got.Unsent) == 1 && got.Unsent[0] == want.Unsent[0],
		"ooo":       len(got.OutOfOrder) == 1 && got.OutOfOrder[0] == want.OutOfOrder[0],
		"send":      got.SndUna == want.SndUna && got.SndNxt == want.SndNxt && got.SndWnd == want.SndWnd && got.SndWL1 == want.SndWL1 && got.SndWL2 == want.SndWL2,
		"receive":   got.RcvNxt == want.RcvNxt && got.RcvAcked == want.RcvAcked && got.RcvEdge == want.RcvEdge,
		"options":   got.SndWscale == 3 && got.RcvWscale == 9 && got.MSS == 1000 && got.SACK && got.Timestamps,
		"stamps":    got.TSOffset == 1 && got.TSRecent == 2 && got.TSEcr == 3,
		"estimates": got.SRTT == want.SRTT && got.RTTVar == want.RTTVar && got.RTO == want.RTO && got.Cwnd == 12 && got.Ssthresh == 99,
		"closing":   got.FINQueued && !got.FINSent && !got.PeerFIN && got.State == tcb.FinWait1,
	} {
		if !same {
			t.Errorf("%s differ: %+v", name, got)
		}
	}
}

// TestEveryStateMoves: in each state a snapshot can be taken and gone on from.
func TestEveryStateMoves(t *testing.T) {
	for _, tt := range []struct {
		state tcb.State
		edit  func(*tcb.Snapshot)
	}{
		{tcb.Established, func(s *tcb.Snapshot) {}},
		{tcb.FinWait1, func(s *tcb.Snapshot) { s.FINSent, s.SndNxt = true, 1001 }},
		{tcb.FinWait2, func(s *tcb.Snapshot) { s.FINSent = true }},
		{tcb.CloseWait, func(s *tcb.Snapshot) { s.PeerFIN = true }},
		{tcb.Closing, func(s *tcb.Snapshot) { s.PeerFIN, s.FINSent, s.SndNxt = true, true, 1001 }},
		{tcb.LastAck, func(s *tcb.Snapshot) { s.PeerFIN, s.FINSent, s.SndNxt = true, true, 1001 }},
		{tcb.TimeWait, func(s *tcb.Snapshot) { s.PeerFIN, s.FINSent = true, true }},
		{tcb.Closed, func(s *tcb.Snapshot) { s.PeerFIN, s.FINSent = true, true }},
		{tcb.Closed, func(s *tcb.Snapshot) {}},
	} {
		s := established(tt.edit)
		s.State = tt.state
		for range 3 {
			var c tcp.Conn
			if err := c.Restore(noon, s, tcp.Options{}); err != nil {
				t.Fatalf("%v: %v", tt.state, err)
			}
			s = new(tcb.Snapshot)
			c.Snapshot(noon, s)
			if c.State() != tt.state || s.State != tt.state {
				t.Errorf("%v became %v, %v", tt.state, c.State(), s.State)
			}
		}
	}
}
