package recovery

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"toehold/internal/abi"
	"toehold/internal/tcb"
)

// rings are three connections'; the middle one's is the one in question.
var rings = func() []byte {
	all := bytes.Repeat([]byte{'!'}, 3*abi.RingSize)
	copy(all[abi.RingSize:], bytes.Repeat([]byte{'r'}, abi.RingSize))
	return all
}()

// wild makes what a device may have written: near what is right, or anywhere.
func wild(r *rand.Rand, s *Socket) *Kept {
	near := func(v uint32) uint32 {
		switch r.IntN(4) {
		case 0:
			return r.Uint32()
		case 1:
			return v
		}
		return v + uint32(r.IntN(64)) - 16
	}
	k := &Kept{
		ID: id, Ring: rings[abi.RingSize : 2*abi.RingSize], Waiting: []byte("wwwww"), Unread: []byte("uuuu"),
		Taken: uint64(r.IntN(50)), Given: r.Uint64(),
		Ledger: abi.LedgerPart{
			Sequence: r.Uint64(), HWID: id, Taken: r.Uint64(), Delivered: r.Uint64(), SndUna: near(s.SndUna), SndStart: near(s.SndUna),
			SndEnd: r.Uint32(), RcvStart: near(s.RcvNxt), HostNxt: near(s.SndUna),
		},
	}
	if r.IntN(8) == 0 {
		k.Taken = r.Uint64()
	}
	if r.IntN(8) == 0 {
		k.Ledger.HWID = abi.HWID(r.Uint64())
	}
	if r.IntN(3) != 0 {
		k.Hardware = &abi.HardwarePart{HWID: id, SndUna: near(s.SndUna), SndWnd: r.Uint32(), RcvAcked: near(s.RcvNxt), RcvWnd: r.Uint32()}
	}
	return k
}

// reckoned checks what a Reckon of a hostile ledger has made of s: an error and s as it was, or a socket
// of the connection's own octets.
func reckoned(t *testing.T, k *Kept) {
	t.Helper()
	s := Socket{SndUna: 7, RcvNxt: 500, Sent: lists("sss", "ss"), Unsent: lists("sssss"), SndWnd: 1000, RcvWup: 490, RcvWnd: 2000}
	err := k.Reckon(&s)
	if err != nil {
		if s.SndUna != 7 || s.RcvNxt != 500 || total(s.Sent) != 5 || total(s.Unsent) != 5 {
			t.Fatalf("%v, and it is %+v", err, s)
		}
		return
	}
	if total(s.Sent) > abi.RingSize+10+5 || total(s.Unsent) > 5+10 || total(s.Unread) != 4 {
		t.Fatalf("%d sent, %d unsent, %d unread of %+v", total(s.Sent), total(s.Unsent), total(s.Unread), k.Ledger)
	}
	for _, list := range [][][]byte{s.Sent, s.Unsent, s.Unread} {
		for _, octets := range list {
			if bytes.IndexByte(octets, '!') >= 0 {
				t.Fatalf("it has octets of another connection, by %+v", k.Ledger)
			}
		}
	}
	if s.SndWnd > tcb.MaxWindow || s.RcvWnd > tcb.MaxWindow {
		t.Fatalf("windows of %d and %d octets", s.SndWnd, s.RcvWnd)
	}
}

func total(lists [][]byte) (n int) {
	for _, l := range lists {
		n += len(l)
	}
	return n
}

func TestHostileLedger(t *testing.T) {
	const seed = 9
	r := rand.New(rand.NewPCG(seed, 1))
	for n := range 3000 {
		k := wild(r, &Socket{SndUna: 7, RcvNxt: 500})
		if reckoned(t, k); t.Failed() {
			t.Fatalf("seed %d, number %d", seed, n)
		}
	}
}

func FuzzReckon(f *testing.F) {
	f.Add(uint64(3), uint64(9), uint32(7), uint32(8), uint32(9), uint32(500), uint32(10), uint32(5), true)
	f.Fuzz(func(t *testing.T, taken, given uint64, una, start, end, rcv, host, window uint32, hardware bool) {
		k := &Kept{
			ID: id, Taken: taken, Given: given, Ring: rings[abi.RingSize : 2*abi.RingSize], Waiting: []byte("wwwww"), Unread: []byte("uuuu"),
			Ledger: abi.LedgerPart{HWID: id, SndUna: una, SndStart: start, SndEnd: end, RcvStart: rcv, HostNxt: host},
		}
		if hardware {
			k.Hardware = &abi.HardwarePart{SndUna: host, SndWnd: window, RcvAcked: end, RcvWnd: window}
		}
		reckoned(t, k)
	})
}
