package recovery

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"toehold/internal/abi"
)

const id = abi.HWID(1<<32 | 3)

// ringed is a ring that has octets from a sequence number on.
func ringed(from uint32, octets string) []byte {
	ring := bytes.Repeat([]byte{'?'}, abi.RingSize)
	for i := range len(octets) {
		ring[(from+uint32(i))%abi.RingSize] = octets[i]
	}
	return ring
}

func lists(octets ...string) (all [][]byte) {
	for _, o := range octets {
		all = append(all, []byte(o))
	}
	return all
}

func TestReckon(t *testing.T) {
	const start = abi.RingSize - 2 // so that what follows goes around
	for _, tt := range []struct {
		name                 string
		ledger               abi.LedgerPart
		taken, given         uint64
		ring, waiting        string
		s                    Socket
		sent, unsent         string
		una, nxt, wnd, space uint32
	}{
		{
			name:   "nothing crossed",
			ledger: abi.LedgerPart{HWID: id, SndUna: start, SndEnd: start, SndStart: start, HostNxt: start, RcvStart: 500},
			s:      Socket{SndUna: start, RcvNxt: 500, SndWnd: 10, RcvWup: 500, RcvWnd: 20},
			una:    start, nxt: 500, wnd: 10, space: 20,
		},
		{
			name:   "by the channel, around the ring's end, more than the ledger has",
			ledger: abi.LedgerPart{HWID: id, SndUna: start + 1, SndEnd: start + 3, SndStart: start, HostNxt: start, Taken: 3, RcvStart: 500},
			taken:  5, given: 7, ring: "abcde", waiting: "fg",
			s:    Socket{SndUna: start, RcvNxt: 500, SndWnd: 10, RcvWup: 500, RcvWnd: 20},
			sent: "bcde", unsent: "fg", una: start + 1, nxt: 507, wnd: 10, space: 20,
		},
		{
			name:   "S has what it sent before, and what it spilled after",
			ledger: abi.LedgerPart{HWID: id, SndUna: start - 2, SndEnd: start + 4, SndStart: start, HostNxt: start + 2, Taken: 2, RcvStart: 500},
			taken:  2, ring: "abSP", waiting: "", // S and P were spilled, and taken into the ring
			s:    Socket{SndUna: start - 3, Sent: lists("xyz"), Unsent: lists("SP", "ILL"), RcvNxt: 500, RcvWup: 500},
			sent: "yzabSP", unsent: "ILL", una: start - 2, nxt: 500,
		},
		{
			name:   "more than half of the sequence numbers received since",
			ledger: abi.LedgerPart{HWID: id, SndUna: start, SndEnd: start, SndStart: start, HostNxt: start, RcvStart: 500},
			given:  1<<31 + 5, s: Socket{SndUna: start, RcvNxt: 500, SndWnd: 10, RcvWup: 500, RcvWnd: 20},
			una: start, nxt: 500 + 1<<31 + 5, wnd: 10, space: 20,
		},
		{
			name:    "the device had not begun",
			ledger:  abi.LedgerPart{HWID: id + 1, SndUna: 77},
			waiting: "first", s: Socket{SndUna: 100, Sent: lists("then"), Unsent: lists("last"), RcvNxt: 500, SndWnd: 3, RcvWup: 500, RcvWnd: 4},
			unsent: "firstthenlast", una: 100, nxt: 500, wnd: 3, space: 4,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := Kept{ID: id, Ledger: tt.ledger, Taken: tt.taken, Given: tt.given, Ring: ringed(start, tt.ring), Waiting: []byte(tt.waiting)}
			s := tt.s
			if err := k.Reckon(&s); err != nil {
				t.Fatal(err)
			}
			if got := string(slices.Concat(s.Sent...)); got != tt.sent {
				t.Errorf("sent %q, want %q", got, tt.sent)
			}
			if got := string(slices.Concat(s.Unsent...)); got != tt.unsent {
				t.Errorf("unsent %q, want %q", got, tt.unsent)
			}
			if s.SndUna != tt.una || s.RcvNxt != tt.nxt || s.SndWnd != tt.wnd || s.RcvWnd != tt.space {
				t.Errorf("una %d nxt %d wnd %d space %d, want %d %d %d %d", s.SndUna, s.RcvNxt, s.SndWnd, s.RcvWnd, tt.una, tt.nxt, tt.wnd, tt.space)
			}
		})
	}
}

// What makes no sense is an error, and leaves S as it is.
func TestReckonOfNonsense(t *testing.T) {
	good := abi.LedgerPart{HWID: id, SndUna: 100, SndEnd: 200, SndStart: 100, HostNxt: 100, Taken: 100}
	for _, tt := range []struct {
		name  string
		spoil func(*Kept)
	}{
		{"acknowledged beyond the end", func(k *Kept) { k.Ledger.SndUna = 201 }},
		{"begun after the end", func(k *Kept) { k.Ledger.SndStart = 201 }},
		{"more than a ring", func(k *Kept) { k.Taken = abi.RingSize + 1 }},
		{"S has not what is before the start", func(k *Kept) { k.Ledger.SndUna, k.Ledger.SndStart = 50, 60 }},
		{"S has not what was taken of it", func(k *Kept) { k.Ledger.HostNxt = 104 }},
		{"taken of it before it began", func(k *Kept) { k.Ledger.HostNxt = 99 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := Kept{ID: id, Ledger: good, Taken: 100, Ring: ringed(100, "")}
			s := Socket{SndUna: 100, Unsent: lists("abc"), RcvNxt: 9}
			before := s
			tt.spoil(&k)
			if err := k.Reckon(&s); err == nil {
				t.Errorf("no error; S is %+v", s)
			}
			if !reflect.DeepEqual(s, before) {
				t.Errorf("S was %+v and is %+v", before, s)
			}
		})
	}
}
