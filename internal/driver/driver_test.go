package driver_test

import (
	"testing"

	"toehold/internal/driver"
)

// Idle connections go to the device and come home, and work in both places.
func TestMoveIdle(t *testing.T) {
	r := newRig(t)
	for _, six := range []bool{false, true} {
		for _, p := range r.connect(3, six) {
			p.exchange(t, "in the kernel")
			for range 3 {
				res := r.offload(p.selector())
				r.moved(res, 1)
				t.Logf("offload took %dus, stall %dus", res.Moved[0].Took, res.Moved[0].Stall)
				p.exchange(t, "on the device")
				if c := r.list(p.selector()); len(c) != 1 || c[0].Place != driver.OnDevice || c[0].ID == "" {
					t.Errorf("it is listed as %+v", c)
				}
				res = r.upload(p.selector())
				r.moved(res, 1)
				t.Logf("upload took %dus, stall %dus", res.Moved[0].Took, res.Moved[0].Stall)
				p.exchange(t, "in the kernel again")
				if c := r.list(p.selector()); len(c) != 1 || c[0].Place != driver.InKernel || c[0].ID != "" {
					t.Errorf("it is listed as %+v", c)
				}
			}
		}
	}
}
