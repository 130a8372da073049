package driver

import (
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/handover"
	"toehold/internal/mono"
)

// A window is widened when the device's has come near to it. BBR is told again
// and again, before it goes by what it measures, or looks for the least RTT.
func TestLooser(t *testing.T) {
	const ms = mono.Time(time.Millisecond)
	for _, tt := range []struct {
		control string
		cwnd    uint32
		at      mono.Time // told to 1000 ms 4096 segments, over 80 ms
		una     uint32    // then 1
		told    bool
		leash   uint32
	}{
		{"cubic", 10, 1100, 2, false, 4096},
		{"cubic", 1024, 1100, 2, false, 4096},
		{"cubic", 1025, 1100, 2, true, 8200},
		{"cubic", 1 << 20, 1100, 2, true, leashMost},
		{"cubic", 10, 60_000, 2, false, 4096},
		{"bbr", 10, 1100, 2, false, 4096},
		{"bbr", 1025, 1100, 2, true, 8200},
		{"bbr", 10, 1000 + 24*80, 2, false, 4096},
		{"bbr", 10, 1001 + 24*80, 2, true, 4096},
		{"bbr", 10, 60_000, 1, false, 4096},
		{"bbr", 1025, 60_000, 1, true, 8200},
	} {
		c := &handover.Conn{Leash: 4096, Loose: 1000 * ms, LooseUna: 1, State: abi.KernelState{MSS: 1000, Inode: 7}}
		copy(c.State.CongestionControl[:], tt.control)
		w, ok := looser(tt.at*ms, c, tt.cwnd, 80_000, tt.una)
		if ok != tt.told || c.Leash != tt.leash || ok && (w.Cwnd != tt.leash || c.Loose != tt.at*ms || c.LooseUna != tt.una) {
			t.Errorf("%+v: %v, %+v, %+v", tt, ok, w, c)
		}
		if (w.Private != nil) != (ok && tt.control == "bbr") {
			t.Errorf("%+v: private %+v", tt, w.Private)
		}
		if p := w.Private; p != nil && (w.Inode != 7 || p.BBR.LongTerm != uint64(tt.leash)*1000*1000/80 || p.BBR.MinRTT != 80_000 || p.Control != c.State.CongestionControl) {
			t.Errorf("%+v: private %+v", tt, p)
		}
	}
}

func TestBBRIsToldWithinReason(t *testing.T) {
	for srtt, want := range map[uint32]time.Duration{0: looseLeast, 1000: looseLeast, 80_000: 24 * 80 * time.Millisecond, 4_000_000_000: looseMost} {
		if got := looseFor(srtt); got != want {
			t.Errorf("%d us: %v, want %v", srtt, got, want)
		}
	}
}
