package wire

import (
	"testing"
	"testing/quick"
)

func TestSumAgreesWithTheSlowOne(t *testing.T) {
	check := func(b []byte) bool { return fold(sum(b, 0)) == slowSum(b) }
	if err := quick.Check(check, &quick.Config{MaxCount: 2000}); err != nil {
		t.Fatal(err)
	}
	ones := make([]byte, 70001)
	for i := range ones {
		ones[i] = 0xff
	}
	for _, n := range []int{0, 1, 2, 7, 8, 9, 63, 64, 65, 1448, 65535, len(ones)} {
		if !check(ones[:n]) {
			t.Errorf("%d octets of ones: %#x", n, fold(sum(ones[:n], 0)))
		}
	}
}

func TestSumCarriesTheInitialValueOver(t *testing.T) {
	if got := fold(sum([]byte{0, 1}, 1<<64-1)); got != 1 {
		t.Errorf("sum %#x", got)
	}
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	for _, tt := range shapes {
		s := plain()
		tt.edit(&s)
		buf, n, p, _ := s.parse()
		for i := p.TCPOff; i < p.End; i++ {
			buf.B[i] ^= 0x10
			if VerifyChecksum(buf, n, &p) {
				t.Errorf("%s: octet %d changed, unnoticed", tt.name, i)
			}
			buf.B[i] ^= 0x10
		}
		if p.Key.Family == 4 {
			buf.B[p.IPOff+8]--
			if VerifyChecksum(buf, n, &p) {
				t.Errorf("%s: TTL changed, unnoticed", tt.name)
			}
		}
	}
}

func TestWhatTheKernelVouchesForIsNotSummed(t *testing.T) {
	for _, tt := range []struct {
		name string
		vnet VNet
		want bool
	}{
		{"nothing", VNet{}, false},
		{"partial", VNet{Flags: NeedsCsum, CsumStart: 34, CsumOffset: 16}, true},
		{"verified", VNet{Flags: DataValid}, true},
		{"merged", VNet{GSOType: GSOTCPv4, GSOSize: 3}, true},
	} {
		s := plain()
		s.vnet = tt.vnet
		buf, n, p, v := s.parse()
		buf.B[p.DataOff]++
		if got := VerifyChecksum(buf, n, &p); v != OK || got != tt.want {
			t.Errorf("%s: %v, sound %v", tt.name, v, got)
		}
	}
}

func TestVerifyChecksumOfAShorterFrame(t *testing.T) {
	buf, n, p, _ := plain().parse()
	if VerifyChecksum(buf, n-1, &p) {
		t.Error("a packet past the frame's end is called sound")
	}
}
