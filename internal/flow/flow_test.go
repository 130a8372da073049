package flow

import (
	"net/netip"
	"testing"
	"unsafe"
)

func TestKeyRoundTrip(t *testing.T) {
	for _, tt := range []struct{ local, remote string }{
		{"10.0.0.1:80", "10.0.0.2:40000"},
		{"[fd00::1]:443", "[fd00::2]:1"},
	} {
		id := Make(netip.MustParseAddrPort(tt.local), netip.MustParseAddrPort(tt.remote))
		if got := id.Key().ID(); got != id {
			t.Errorf("key of %v names %v", id, got)
		}
		if got := id.Key().Reverse().ID(); got != id.Reverse() {
			t.Errorf("reversed key of %v names %v", id, got)
		}
	}
}

func TestMakeUnmaps(t *testing.T) {
	id := Make(netip.MustParseAddrPort("[::ffff:10.0.0.1]:80"), netip.MustParseAddrPort("[::ffff:10.0.0.2]:81"))
	if !id.Is4() || id.String() != "10.0.0.1:80 10.0.0.2:81" {
		t.Errorf("mapped addresses gave %v", id)
	}
}

func TestKeyIsFortyOctets(t *testing.T) {
	if n := unsafe.Sizeof(Key{}); n != 40 {
		t.Errorf("Key is %d octets, struct flow_key has 40", n)
	}
}

func TestUnknownFamily(t *testing.T) {
	if got := (Key{Family: 9}).ID(); got != (ID{}) {
		t.Errorf("family 9 gave %v", got)
	}
}
