package tcptest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

func TestWorldRunsInOrder(t *testing.T) {
	w := NewWorld(1)
	var order []int
	start := w.Now
	w.After(2*time.Second, func() { order = append(order, 3) })
	w.After(time.Second, func() {
		order = append(order, 1)
		w.After(0, func() { order = append(order, 2) })
	})
	w.At(0, func() { order = append(order, 0) }) // the past is now
	if !w.Run(time.Minute, 100, func() bool { return len(order) == 4 }) {
		t.Fatal("not done")
	}
	if !slices.Equal(order, []int{0, 1, 2, 3}) || w.Now.Sub(start) != 2*time.Second {
		t.Errorf("%v at %v", order, w.Now.Sub(start))
	}
}

func TestWorldLimits(t *testing.T) {
	w := NewWorld(1)
	n := 0
	var tick func()
	tick = func() { n++; w.After(time.Second, tick) }
	tick()
	never := func() bool { return false }
	if w.Run(10*time.Second, 1000, never) || n != 11 {
		t.Errorf("%d ticks in ten seconds", n)
	}
	if w.Run(time.Hour, 5, never) || n != 16 {
		t.Errorf("%d ticks after five events more", n)
	}
	w.RunUntil(w.Now.Add(3 * time.Second))
	if n != 19 {
		t.Errorf("%d ticks after three seconds more", n)
	}
}

// TestEndTellsWrongOctets: an end that reads what nobody wrote says so.
func TestEndTellsWrongOctets(t *testing.T) {
	w := NewWorld(1)
	a := w.NewEnd("a", []byte("hello, world"), nil)
	b := w.NewEnd("b", nil, []byte("hello, earth"))
	connect(t, w, a, b)
	a.Pump()
	w.RunUntil(w.Now.Add(time.Minute))
	if b.Err == nil || !strings.Contains(b.Err.Error(), "octets at 0") {
		t.Errorf("error %v", b.Err)
	}
}

func connect(t *testing.T, w *World, a, b *End) {
	t.Helper()
	Join(w, a.Box, b.Box, Path{Delay: time.Millisecond}, Path{Delay: time.Millisecond})
	sa, sb := Shape{MSS: 1000, SACK: true, TS: true, WindowA: 60000, WindowB: 60000}.Snapshots(w.Now)
	if err := a.Restore(w.Now, sa, tcp.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Restore(w.Now, sb, tcp.Options{}); err != nil {
		t.Fatal(err)
	}
}

func TestEndsFinish(t *testing.T) {
	w := NewWorld(1)
	a := w.NewEnd("a", []byte("question"), []byte("the answer"))
	b := w.NewEnd("b", a.Want, a.Source)
	connect(t, w, a, b)
	a.Pump()
	b.Pump()
	if !w.Run(time.Minute, 1000, func() bool { return a.Done() && b.Done() }) {
		t.Errorf("a read %d, b read %d", a.Read, b.Read)
	}
}

func TestMoveKeepsEverything(t *testing.T) {
	w := NewWorld(1)
	a := w.NewEnd("a", make([]byte, 200000), nil)
	b := w.NewEnd("b", nil, a.Source)
	b.Slow = true
	connect(t, w, a, b)
	a.Pump()
	for range 50 {
		w.RunUntil(w.Now.Add(3 * time.Millisecond))
		una, nxt, end, read := a.SndUna(), a.SndNxt(), a.SndEnd(), b.RcvNxt()
		if err := a.Move(tcp.Options{}); err != nil {
			t.Fatal(err)
		}
		if err := b.Move(tcp.Options{}); err != nil {
			t.Fatal(err)
		}
		if a.SndUna() != una || a.SndNxt() != nxt || a.SndEnd() != end || b.RcvNxt() != read {
			t.Fatal("a move changed the sequence space")
		}
		a.Pump()
		b.Pump()
	}
	if !w.Run(time.Minute, 10000, b.PeerFINReceived) || b.Err != nil {
		t.Errorf("b read %d, %v", b.Read, b.Err)
	}
}

// TestRelayTellsOfBrokenPromises: the check of a relay finds what it is for.
func TestRelayTellsOfBrokenPromises(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(s *wire.Segment)
		want  string
	}{
		{"none", func(s *wire.Segment) {}, ""},
		{"acknowledged too much", func(s *wire.Segment) { s.Ack += 70000 }, "the other end received up to"},
		{"empty SACK block", func(s *wire.Segment) { s.NSACK = 1 }, "reports"},
		{"SACK in order", func(s *wire.Segment) {
			s.NSACK = 2
			s.SACK[0].Lo, s.SACK[0].Hi = s.Ack-1, s.Ack
			s.SACK[1] = s.SACK[0]
		}, "reports"},
	} {
		w := NewWorld(1)
		peer, program := w.NewEnd("peer", nil, nil), w.NewEnd("program", nil, nil)
		relay := NewRelay(w, peer, program, Path{}, Path{}, Path{})
		sa, sb := Shape{MSS: 1000, WindowA: 60000, WindowB: 60000}.Snapshots(w.Now)
		if relay.Restore(sa, sb, w) != nil || peer.Restore(w.Now, sa, tcp.Options{}) != nil || program.Restore(w.Now, sb, tcp.Options{}) != nil {
			t.Fatal("no relay")
		}
		seg := wire.Segment{Seq: program.SndNxt(), Ack: program.RcvNxt(), Flags: wire.ACK}
		tt.spoil(&seg)
		relay.Wire.Out.Watch(&seg)
		if relay.Err == nil && tt.want != "" || relay.Err != nil && (tt.want == "" || !strings.Contains(relay.Err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, relay.Err, tt.want)
		}
	}
}

func TestScriptRefuses(t *testing.T) {
	s := NewScript()
	for _, tt := range []struct {
		cmd  string
		args Args
	}{
		{"dance", nil},
		{"conn", Args{"cc": "vegas"}},
		{"recv", Args{"sack": "1..2"}},
		{"recv", Args{"sack": "1-2,3-4,5-6,7-8,9-10"}},
	} {
		if said, err := s.Do(tt.cmd, tt.args); err == nil {
			t.Errorf("%s %v: %q", tt.cmd, tt.args, said)
		}
	}
	if _, err := s.Do("conn", Args{}); err != nil {
		t.Fatal(err)
	}
	if said, err := s.Do("wait", Args{"ms": "5"}); err != nil || said != "nothing\n" || s.now != mono.Time(time.Hour)+5000000 {
		t.Errorf("%q %v", said, err)
	}
}
