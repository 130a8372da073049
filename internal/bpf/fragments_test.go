package bpf

import (
	"slices"
	"testing"

	"toehold/internal/flow"
)

// fragmentOf makes a frame a fragment, with more to come or not. The offset is
// in units of eight octets.
func fragmentOf(frame []byte, offset uint16, more bool) []byte {
	f := slices.Clone(frame)
	field := offset
	if f[14]>>4 == 4 {
		if more {
			field |= 0x2000
		}
		f[14+6], f[14+7] = byte(field>>8), byte(field)
		return f
	}
	field <<= 3
	if more {
		field |= 1
	}
	f[14+6] = 44
	f[14+5] += 8
	return slices.Insert(f, 54, 6, 0, byte(field>>8), byte(field), 0, 0, 0, 1)
}

// The peer's segments that come as fragments are the kernel's, and are counted
// in their connection's block, each once.
func TestFragmentsAreCounted(t *testing.T) {
	s := bench(t, 0)
	want := make([]uint64, len(s.Blocks()))
	for slot, id := range map[int]flow.ID{1: steered4, 2: steered6} {
		fromPeer := segment(flow.Make(id.Remote, id.Local))
		for _, tt := range []struct {
			name  string
			frame []byte
			more  uint64
		}{
			{"the first", fragmentOf(fromPeer, 0, true), 1},
			{"one in the middle", fragmentOf(fromPeer, 2, true), 0},
			{"the last", fragmentOf(fromPeer, 2, false), 0},
			{"one at a great offset", fragmentOf(fromPeer, 0x1000, true), 0},
			{"our own", fragmentOf(segment(id), 0, true), 0},
			{"of another flow", fragmentOf(segment(flow.Make(id.Local, id.Local)), 0, true), 0},
			{"cut in the ports", fragmentOf(fromPeer, 0, true)[:len(fromPeer)-40+2], 0},
		} {
			if got, _, _ := run(t, s.steer.Filter, tt.frame, 0); got != 0 {
				t.Errorf("%v, %s: filter says %d", id, tt.name, int32(got))
			}
			if got, _, _ := run(t, s.steer.Ingress, tt.frame, 0); got != next {
				t.Errorf("%v, %s: ingress says %d", id, tt.name, int32(got))
			}
			want[slot] += tt.more
			for i := range s.Blocks() {
				if got := s.Blocks()[i].Fragments; got != want[i] {
					t.Fatalf("%v, %s: %d counted in block %d, want %d", id, tt.name, got, i, want[i])
				}
			}
		}
	}
}

// Only fragments count, of all that is not the device's.
func TestOnlyFragmentsAreCounted(t *testing.T) {
	s := bench(t, 0)
	firsts := []string{"first fragment", "fragment header"} // the second is at an offset of 0 and the last
	for _, v := range variants {
		before := s.Blocks()[1].Fragments + s.Blocks()[2].Fragments
		run(t, s.steer.Filter, v.edit(segment(flow.Make(v.id.Remote, v.id.Local))), 0)
		counted := s.Blocks()[1].Fragments + s.Blocks()[2].Fragments - before
		if counted != 0 != slices.Contains(firsts, v.name) {
			t.Errorf("%v, %s: %d counted", v.id, v.name, counted)
		}
	}
}
