package bpf

import (
	"slices"
	"sync/atomic"
	"testing"

	"toehold/internal/flow"
)

const shot = 2 // TCX_DROP

// Of a flow whose socket is behind the wire nothing reaches the kernel that its
// TCP could take for its own, whatever options, extensions and fragments it
// has, and whether the device lives or not.
func TestNothingOfTheWireReachesSocketBehindIt(t *testing.T) {
	s := bench(t, 14)
	never := []string{"last fragment", "fragment at a great offset", "header length that cannot be", "UDP", "other port", "other peer", "other protocol", "tag of a VLAN in the frame", "cut in the ports"}
	for _, fenced := range []uint32{0, 1} {
		for _, behind := range []bool{false, true, false} {
			for _, id := range []flow.ID{steered4, steered6} {
				if err := s.Bypass(id.Key(), behind); err != nil {
					t.Fatal(err)
				}
			}
			atomic.StoreUint32(&s.Control().Fenced, fenced)
			for _, v := range variants {
				frame := v.edit(segment(flow.Make(v.id.Remote, v.id.Local)))
				if v.name == "other port" {
					frame = segment(flow.Make(v.id.Remote, v.id.Local))
					frame[14+20]++ // the peer's
				}
				want := uint32(next)
				if behind && !slices.Contains(never, v.name) {
					want = shot
				}
				if got, _, _ := run(t, s.steer.Ingress, frame, 0); got != want {
					t.Errorf("behind %v, fenced %d, %v, %s: ingress says %d, want %d", behind, fenced, v.id, v.name, int32(got), int32(want))
				}
				if got, _, _ := run(t, s.steer.Ingress, frame, 0x70e40002); got != next {
					t.Errorf("behind %v, %s: what the device injects is kept out", behind, v.name)
				}
				verdict, _, _ := run(t, s.steer.Egress, v.edit(segment(v.id)), 0)
				if fenced == 1 && v.ours && (verdict == shot) != behind {
					t.Errorf("behind %v, fenced, %v, %s: egress says %d", behind, v.id, v.name, int32(verdict))
				}
			}
		}
	}
}

// What is un-steered is not behind any more, and nobody looks for it.
func TestUnsteeredFlowsAreNotBehind(t *testing.T) {
	s := bench(t, 14)
	both := []flow.Key{steered4.Key(), steered6.Key()}
	for i, k := range both {
		if err := s.Bypass(k, true); err != nil {
			t.Fatal(err)
		}
		if n := s.Control().Bypassing; n != uint32(i+1) {
			t.Errorf("%d flows said to be behind, want %d", n, i+1)
		}
	}
	if err := s.Unsteer(both); err != nil {
		t.Fatal(err)
	}
	if n := s.Control().Bypassing; n != 0 {
		t.Errorf("%d flows said to be behind, all un-steered", n)
	}
	if err := s.Bypass(both[0], true); err == nil {
		t.Error("a flow that is not steered is said to be behind")
	}
}
