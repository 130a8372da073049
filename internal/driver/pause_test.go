package driver_test

import (
	"errors"
	"testing"

	"toehold/internal/control"
	"toehold/internal/driver"
)

// A paused device keeps what it has and takes nobody new, and so does the one
// that takes its place; one that goes on is as before.
func TestPause(t *testing.T) {
	r := newRig(t)
	pairs := r.connect(2, false)
	r.moved(r.offload(pairs[0].selector()), 1)
	pause := func(paused bool) {
		t.Helper()
		d, err := r.client.PauseDevices(ctx, r.HostIf, paused)
		if err != nil || len(d) != 1 || d[0].Paused != paused || d[0].State != "running" {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	pause(true)
	pause(true) // is no other event
	if res := r.offload(pairs[1].selector()); reasons(res) != "device-paused" {
		t.Errorf("offload to a paused device: %+v", res)
	}
	pairs[0].exchange(t, "on the paused device")
	if c := r.list(pairs[0].selector())[0]; c.Place != driver.OnDevice {
		t.Errorf("the pause sent it home: %+v", c)
	}
	if _, err := r.client.RestartDevices(ctx); err != nil {
		t.Fatal(err)
	}
	if res := r.offload(driver.Selector{All: true}); reasons(res) != "device-paused device-paused" {
		t.Errorf("offload to its successor: %+v", res)
	}
	pause(false)
	r.moved(r.offload(driver.Selector{All: true}), 2)
	pairs[1].exchange(t, "on the device")
	var kinds []string
	r.client.Events(ctx, false, func(e driver.Event) error {
		if e.Kind == driver.EventDevicePaused || e.Kind == driver.EventDeviceResumed {
			kinds = append(kinds, e.Kind)
		}
		return nil
	})
	if len(kinds) != 2 || kinds[0] != driver.EventDevicePaused || kinds[1] != driver.EventDeviceResumed {
		t.Errorf("events: %v", kinds)
	}
	var usage *control.Error
	if _, err := r.client.PauseDevices(ctx, "nowhere0", true); !errors.As(err, &usage) || usage.Kind != control.Usage {
		t.Errorf("pause of no device: %v", err)
	}
}
