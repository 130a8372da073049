package device

import (
	"testing"
	"time"

	"toehold/internal/abi"
)

func TestAgainst(t *testing.T) {
	r := abi.Returns{Loss: 0.05, Reordering: 0.1, Fragments: 0.2, SmallIO: 200}
	good := abi.Traffic{BytesSent: 1_000_000, SegsSent: 1000, SegsReceived: 1000}
	for _, tt := range []struct {
		name string
		edit func(*abi.Traffic)
		want abi.Reason
	}{
		{"bulk", func(*abi.Traffic) {}, abi.None},
		{"some loss", func(t *abi.Traffic) { t.Retransmits = 50 }, abi.None},
		{"much loss", func(t *abi.Traffic) { t.Retransmits = 51 }, abi.Loss},
		{"some reordering", func(t *abi.Traffic) { t.OutOfOrder = 100 }, abi.None},
		{"much reordering", func(t *abi.Traffic) { t.OutOfOrder = 101 }, abi.Reordering},
		{"messages", func(t *abi.Traffic) { t.BytesSent = 399_999 }, abi.SmallIO},
		{"loss counts first", func(t *abi.Traffic) { t.Retransmits, t.OutOfOrder, t.BytesSent = 500, 500, 1 }, abi.Loss},
	} {
		traffic := good
		tt.edit(&traffic)
		if got := against(&r, &traffic, 0); got != tt.want {
			t.Errorf("%s: %q", tt.name, got)
		}
		if got := against(&abi.Returns{}, &traffic, 1e6); got != abi.None {
			t.Errorf("%s: %q where nothing is a reason", tt.name, got)
		}
	}
}

func TestFragmentsSpeakAgainst(t *testing.T) {
	r := abi.Returns{Fragments: 0.2, SmallIO: 200}
	for _, tt := range []struct {
		received, fragments uint64
		want                abi.Reason
	}{
		{800, 0, abi.None},
		{800, 200, abi.None},
		{800, 201, abi.Fragments},
		{0, 300, abi.Fragments}, // the device has seen none of them
		{0, 0, abi.None},
	} {
		traffic := abi.Traffic{BytesSent: 1_000_000, SegsSent: 1000, SegsReceived: tt.received}
		if got := against(&r, &traffic, tt.fragments); got != tt.want {
			t.Errorf("%d of %d: %q, want %q", tt.fragments, tt.received+tt.fragments, got, tt.want)
		}
	}
}

// owned is a world whose connection the device has, and which it judges so.
func owned(t *testing.T, r abi.Returns) (*world, abi.HWID) {
	t.Helper()
	w := newWorld(t, 1, faults{delay: time.Millisecond})
	w.device.returns = r
	id := w.admit()
	w.steered = true
	w.ownIt(id)
	w.turnDevice()
	if a, ok := w.answer(abi.Owned); !ok || a.Reason != abi.None {
		t.Fatalf("not owned: %v %v", ok, a.Reason)
	}
	return w, id
}

// period lets a period pass in which the engine towards the peer has done what
// traffic says.
func (w *world) period(id abi.HWID, traffic abi.Traffic) {
	c := w.device.find(id)
	c.base = c.base.Plus(traffic)
	for end := w.now.Add(judgeEvery); w.now < end; {
		w.now = w.now.Add(50 * time.Millisecond)
		w.turnDevice()
	}
}

// One bad period is nothing, nor are bad ones between good ones; three in a row
// are. What is too quiet to be judged counts neither way.
func TestJudgesByWhatLasts(t *testing.T) {
	good := abi.Traffic{BytesSent: 1_000_000, SegsSent: 1000, SegsReceived: 1000}
	bad, quiet := good, abi.Traffic{SegsSent: 10, Retransmits: 10}
	bad.Retransmits = 300
	w, id := owned(t, abi.Returns{Loss: 0.1})
	for i, traffic := range []abi.Traffic{good, bad, bad, good, bad, quiet, bad, quiet, bad} {
		if a, ok := w.answer(abi.Notice); ok {
			t.Fatalf("given back before period %d: %q", i, a.Reason)
		}
		w.period(id, traffic)
	}
	if a, ok := w.answer(abi.Notice); !ok || a.Reason != abi.Loss || a.HWID != id {
		t.Fatalf("not given back: %v, %+v", ok, a)
	}
	if c := w.device.find(id); c.place == abi.PlaceOwned {
		t.Error("still owned")
	}
}

// Periods count in which the device has got nothing at all, since the kernel had
// it.
func TestFragmentsAreGivenBack(t *testing.T) {
	w, id := owned(t, abi.Returns{Fragments: 0.2})
	block := &w.device.blocks[id.Index()]
	bulk := abi.Traffic{BytesReceived: 1_000_000, SegsReceived: 1000}
	for i, p := range []struct {
		traffic   abi.Traffic
		fragments uint64
	}{{bulk, 0}, {bulk, 300}, {abi.Traffic{}, 300}, {bulk, 100}, {bulk, 300}, {abi.Traffic{}, 300}, {bulk, 300}} {
		if a, ok := w.answer(abi.Notice); ok {
			t.Fatalf("given back before period %d: %q", i, a.Reason)
		}
		block.Fragments += p.fragments
		w.period(id, p.traffic)
	}
	if a, ok := w.answer(abi.Notice); !ok || a.Reason != abi.Fragments || a.HWID != id {
		t.Fatalf("not given back: %v, %+v", ok, a)
	}
}

// What the slot's last connection had is not held against the next.
func TestFragmentsOfAnotherConnection(t *testing.T) {
	w := newWorld(t, 1, faults{delay: time.Millisecond})
	for i := range w.device.blocks {
		w.device.blocks[i].Fragments = 1000
	}
	c := w.device.find(w.admit())
	if why := w.device.whyOutOfStep(c); why != abi.OutOfStep {
		t.Errorf("blamed for %q", why)
	}
	w.device.blocks[c.id.Index()].Fragments++
	for range 2 {
		if why := w.device.whyOutOfStep(c); why != abi.Fragments {
			t.Errorf("blamed for %q after a fragment of its own", why)
		}
	}
}

func TestIdleIsGivenBack(t *testing.T) {
	w, id := owned(t, abi.Returns{Idle: 12 * time.Second})
	w.period(id, abi.Traffic{})
	w.period(id, abi.Traffic{})
	w.period(id, abi.Traffic{SegsReceived: 1}) // a sign of life
	w.period(id, abi.Traffic{})
	w.period(id, abi.Traffic{})
	if a, ok := w.answer(abi.Notice); ok {
		t.Fatalf("given back before its time: %q", a.Reason)
	}
	w.period(id, abi.Traffic{})
	if a, ok := w.answer(abi.Notice); !ok || a.Reason != abi.Idle {
		t.Errorf("not given back: %v, %q", ok, a.Reason)
	}
}

// Nothing is a reason when nobody has said so.
func TestNothingIsGivenBack(t *testing.T) {
	w, id := owned(t, abi.Returns{})
	for range 10 {
		w.period(id, abi.Traffic{SegsSent: 1000, Retransmits: 1000})
	}
	if a, ok := w.answer(abi.Notice); ok {
		t.Errorf("given back: %q", a.Reason)
	}
}
