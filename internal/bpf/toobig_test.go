package bpf

import (
	"encoding/binary"
	"slices"
	"testing"

	"toehold/internal/flow"
)

// tooBig is a router's message that a segment of id was too large.
func tooBig(id flow.ID) []byte {
	quoted := segment(id)
	frame := slices.Clone(quoted[:14])
	if id.Is4() {
		ip := slices.Clone(quoted[14:34])
		ip[9] = 1
		copy(ip[12:], quoted[14+16:14+20]) // as if the peer were the router
		copy(ip[16:], quoted[14+12:14+16])
		return slices.Concat(frame, ip, []byte{3, 4, 0, 0, 0, 0, 5, 0x14}, quoted[14:])
	}
	ip := slices.Clone(quoted[14:54])
	ip[6] = 58
	binary.BigEndian.PutUint16(ip[4:], uint16(8+len(quoted)-14))
	copy(ip[8:], quoted[14+24:14+40])
	copy(ip[24:], quoted[14+8:14+24])
	return slices.Concat(frame, ip, []byte{2, 0, 0, 0, 0, 0, 5, 0x14}, quoted[14:])
}

// What routers say of the size of S's segments goes to the device and to the
// kernel; what they say else, and of other flows, to the kernel alone.
func TestWordOfARouterGoesToBoth(t *testing.T) {
	s := bench(t, 0)
	for _, id := range []flow.ID{steered4, steered6} {
		kind := 14 + 20
		if !id.Is4() {
			kind = 14 + 40
		}
		if got, _, _ := run(t, s.steer.Filter, tooBig(id), 0); got != 0xffffffff {
			t.Errorf("%v: filter says %d", id, int32(got))
		}
		if got, _, _ := run(t, s.steer.Ingress, tooBig(id), 0); got != next {
			t.Errorf("%v: ingress says %d", id, int32(got))
		}
		for name, edit := range map[string]func([]byte){
			"another message": func(f []byte) { f[kind] = 1 },
			"another flow":    func(f []byte) { f[len(f)-40] ^= 1 }, // the source port
			"UDP":             func(f []byte) { f[kind+8+9], f[kind+8+6] = 17, 17 },
		} {
			f := tooBig(id)
			edit(f)
			if got, _, _ := run(t, s.steer.Filter, f, 0); got != 0 {
				t.Errorf("%v, %s: filter says %d", id, name, int32(got))
			}
		}
	}
	s.Control().Fenced = 1
	if got, _, _ := run(t, s.steer.Filter, tooBig(steered4), 0); got != 0 {
		t.Errorf("fenced: filter says %d", int32(got))
	}
}
