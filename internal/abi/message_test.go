package abi

import (
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"toehold/internal/flow"
)

var someKey = flow.Make(netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:40000")).Key()

func TestRoundTrip(t *testing.T) {
	roundTrip(t, Hello, []Greeting{{Version: Version, Capacity: 1 << 16, PID: 42, Memory: 1 << 30}})
	roundTrip(t, Admit, []Offer{{Key: someKey, MSS: 1448, Flags: FlagSACK}, {Key: someKey.Reverse()}})
	roundTrip(t, Own, []Command{{MakeHWID(1, 1)}, {MakeHWID(2, 9)}})
	roundTrip(t, Owned, []Answer{{MakeHWID(1, 1), None, 12345, 1 << 40}, {0, DeviceFull, 0, 0}})
	roundTrip(t, Quit, []Command{})
	roundTrip(t, Released, make([]Answer, MaxEntries))
}

func roundTrip[E interface {
	Entries
	comparable
}](t *testing.T, typ Type, entries []E) {
	t.Helper()
	msg := Append([]byte("before"), typ, 77, entries)
	if len(msg) > MaxMessage+len("before") {
		t.Errorf("type %d: %d octets, more than MaxMessage", typ, len(msg))
	}
	h, octets, err := ParseHeader(msg[len("before"):])
	if err != nil || h != (Header{typ, uint16(len(entries)), 77}) {
		t.Fatalf("header %+v, %v", h, err)
	}
	got, err := Parse([]E(nil), h, octets)
	if err != nil || !slices.Equal(got, entries) {
		t.Errorf("type %d: %v, %v", typ, got, err)
	}
}

// Nothing longer than MaxMessage can be made, whatever the type of entry.
func TestOfferIsTheLargestEntry(t *testing.T) {
	largest := unsafe.Sizeof(Offer{})
	if unsafe.Sizeof(Greeting{}) > largest || unsafe.Sizeof(Command{}) > largest || unsafe.Sizeof(Answer{}) > largest {
		t.Error("MaxMessage is too small")
	}
}

func TestParseRefuses(t *testing.T) {
	answer := Append(nil, Owned, 1, []Answer{{HWID: 5}})
	tests := []struct {
		name string
		edit func(h *Header, octets []byte) []byte
	}{
		{"an octet too few", func(h *Header, o []byte) []byte { return o[:len(o)-1] }},
		{"an octet too many", func(h *Header, o []byte) []byte { return append(o, 0) }},
		{"no entry of one promised", func(h *Header, o []byte) []byte { return nil }},
		{"an entry that was not promised", func(h *Header, o []byte) []byte { h.Count = 0; return o }},
		{"more than MaxEntries", func(h *Header, o []byte) []byte {
			h.Count = MaxEntries + 1
			return make([]byte, int(h.Count)*len(o))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, octets, err := ParseHeader(slices.Clone(answer))
			if err != nil {
				t.Fatal(err)
			}
			octets = tt.edit(&h, octets)
			if got, err := Parse([]Answer(nil), h, octets); err == nil {
				t.Errorf("taken for %v", got)
			}
		})
	}
	for n := range unsafe.Sizeof(Header{}) {
		if _, _, err := ParseHeader(answer[:n]); err == nil {
			t.Errorf("%d octets have a header", n)
		}
	}
}

func TestAppendOfTooMany(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a message that no receiver takes was made")
		}
	}()
	Append(nil, Own, 1, make([]Command, MaxEntries+1))
}

func TestMessagesAllocateNothing(t *testing.T) {
	msg := make([]byte, 0, MaxMessage)
	entries := make([]Answer, 0, MaxEntries)
	offers := make([]Answer, 64)
	n := testing.AllocsPerRun(100, func() {
		msg = Append(msg[:0], Admitted, 3, offers)
		h, octets, err := ParseHeader(msg)
		if err != nil {
			t.Fatal(err)
		}
		if entries, err = Parse(entries[:0], h, octets); err != nil || len(entries) != 64 {
			t.Fatal(len(entries), err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per message", n)
	}
}

// Whatever arrives on the socket is refused or is a message that writes back
// to the same octets.
func FuzzMessage(f *testing.F) {
	f.Add(Append(nil, Hello, 0, []Greeting{{Version: Version}}))
	f.Add(Append(nil, Admit, 1, []Offer{{Key: someKey}}))
	f.Add(Append(nil, Pass, 2, []Command{{MakeHWID(1, 2)}, {MakeHWID(3, 4)}}))
	f.Add(Append(nil, Notice, 3, []Answer{{HWID: 1, Reason: Closed}}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		h, octets, err := ParseHeader(msg)
		if err != nil {
			return
		}
		again[Greeting](t, msg, h, octets)
		again[Offer](t, msg, h, octets)
		again[Command](t, msg, h, octets)
		again[Answer](t, msg, h, octets)
	})
}

func again[E Entries](t *testing.T, msg []byte, h Header, octets []byte) {
	entries, err := Parse([]E(nil), h, octets)
	if err != nil {
		return
	}
	if got := Append(nil, h.Type, h.Batch, entries); !slices.Equal(got, msg) {
		t.Errorf("%x reads as %v and writes %x", msg, entries, got)
	}
}
