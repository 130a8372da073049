package driver

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode"
	"unsafe"

	"toehold/internal/abi"
	"toehold/internal/handover"
	"toehold/internal/mono"
	"toehold/internal/shm"
)

// scribble fills v with anything.
func scribble[T any](r *rand.Rand, v *T) {
	octets := unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
	for ; len(octets) >= 8; octets = octets[8:] {
		n := r.Uint64()
		switch r.IntN(4) {
		case 0:
			n = 0
		case 1:
			n = ^uint64(0)
		}
		binary.NativeEndian.PutUint64(octets, n)
	}
}

// Whatever a device has published, what the driver makes of it is within bounds, and can
// be shown.
func TestHostileBlock(t *testing.T) {
	const seed = 3
	r := rand.New(rand.NewPCG(seed, 1))
	blocks := make([]abi.Block, 4)
	c := &handover.Conn{HWID: abi.MakeHWID(2, 1)}
	copy(c.State.CongestionControl[:], "bbr")
	for n := range 2000 {
		for i := range blocks {
			scribble(r, &blocks[i])
		}
		b := &blocks[2]
		b.Hardware.Sequence &^= 1
		b.Hardware.HWID = c.HWID
		if r.IntN(2) == 0 {
			b.Hardware.CongestionControl = [16]byte{}
			copy(b.Hardware.CongestionControl[:], []string{"cubic", "bbr", "dctcp", "\x1b[2J"}[r.IntN(4)])
		}
		h := shm.ReadHardware(blocks, c.HWID)
		if h == nil {
			t.Fatalf("seed %d, number %d: it is not read", seed, n)
		}
		private(mono.Time(n), h)
		shown := hardwarePart(h)
		text, err := json.Marshal(shown)
		if err != nil || strings.ContainsFunc(shown.CongestionControl+shown.Place+shown.State+shown.Recovery+shown.Reason, func(c rune) bool { return !unicode.IsGraphic(c) }) {
			t.Fatalf("seed %d, number %d: %s, %v", seed, n, text, err)
		}
		if w, ok := looser(mono.Time(n)+mono.Time(time.Hour), c, h.Cwnd, h.SRTT, h.SndUna); ok && (w.Cwnd > leashMost || w.Cwnd < leashLeast) {
			t.Fatalf("seed %d, number %d: a window of %d segments", seed, n, w.Cwnd)
		}
		shm.ReadLedger(&b.Ledger)
	}
	for _, id := range []abi.HWID{0, abi.MakeHWID(4, 1), abi.MakeHWID(1<<32-1, 1), abi.MakeHWID(2, 2)} {
		if shm.ReadHardware(blocks, id) != nil {
			t.Errorf("%#x has a block", uint64(id))
		}
	}
}

// A part that is never whole is as one that is not there.
func TestPartThatIsNeverWhole(t *testing.T) {
	blocks := make([]abi.Block, 1)
	h := &blocks[0].Hardware
	h.Sequence, h.HWID = 1, abi.MakeHWID(0, 1)
	if shm.ReadHardware(blocks, h.HWID) != nil {
		t.Error("it is read")
	}
}
