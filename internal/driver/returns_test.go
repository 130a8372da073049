package driver_test

import (
	"testing"

	"toehold/internal/driver"
)

// A connection that carries nothing is given back by the device, with its
// reason, and may be offloaded again.
func TestIdleComesHome(t *testing.T) {
	r := newRig(t, "--return-idle", "200ms")
	p := r.connect(1, false)[0]
	for range 2 {
		r.moved(r.offload(p.selector()), 1)
		p.exchange(t, "on the device or at home")
		var c driver.Connection
		eventually(t, "it is home", func() bool {
			c = r.list(p.selector())[0]
			return c.Place == driver.InKernel
		})
		if c.Reason != "idle" {
			t.Errorf("it came home for %q", c.Reason)
		}
		p.exchange(t, "at home")
	}
}
