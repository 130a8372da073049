package driver_test

import (
	"strings"
	"testing"

	"toehold/internal/driver"
)

// A device of two places that the policy has filled makes room for what an
// operator wants there, and for nothing else of his. All connections work.
func TestRoomForAnother(t *testing.T) {
	r := newRig(t, "--max-connections", "2")
	pairs := r.connect(4, false)
	if _, err := r.client.ApplyPolicy(ctx, "all", []byte("rules: [{name: all, action: offload}]")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the device is full", func() bool {
		d := r.device()
		return d.Connections == 2 && d.Moving == 0 && d.Refused["device-full"] > 0
	})
	var in, out []*pair
	for _, p := range pairs {
		if r.placeOf(p) == driver.OnDevice {
			in = append(in, p)
		} else {
			out = append(out, p)
		}
	}
	if len(in) != 2 || len(out) != 2 {
		t.Fatalf("%d are on the device", len(in))
	}
	r.moved(r.offload(out[0].selector()), 1)
	home := in[0]
	if r.placeOf(home) == driver.OnDevice {
		home = in[1]
	}
	if r.placeOf(home) != driver.InKernel || r.placeOf(out[0]) != driver.OnDevice || r.device().Connections != 2 {
		t.Errorf("%d are on the device", r.device().Connections)
	}
	want := "displaced: it made room for " + out[0].flow()
	if told := r.told(home, driver.EventUploaded); len(told) != 1 || told[0] != want {
		t.Errorf("why it went home: %q, want %q", told, want)
	}
	r.moved(r.offload(out[1].selector()), 1)
	res := r.offload(home.selector())
	if reasons(res) != "device-full" || !strings.HasPrefix(res.Refused[0].Detail, "2 connections are on the device") {
		t.Errorf("a third one that is asked for: %+v", res)
	}
	for _, p := range pairs {
		p.exchange(t, "wherever it is")
	}
}

// A full device keeps what it has when the connection that is to come cannot be
// offloaded, which is what that is told.
func TestNoRoomForWhatCannotCome(t *testing.T) {
	r := newRig(t, "--max-connections", "2", "--without", "ipv6")
	pairs := r.connect(2, false)
	if _, err := r.client.ApplyPolicy(ctx, "all", []byte("rules: [{name: all, action: offload}]")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the device is full", func() bool { d := r.device(); return d.Connections == 2 && d.Moving == 0 })
	other := r.connect(1, true)[0]
	res := r.offload(other.selector())
	if reasons(res) != "protocol-feature" {
		t.Errorf("refused %+v", res.Refused)
	}
	for _, p := range pairs {
		if told := r.told(p, driver.EventUploaded); len(told) != 0 || r.placeOf(p) != driver.OnDevice {
			t.Errorf("%s is %s: %q", p.flow(), r.placeOf(p), told)
		}
	}
	if d := r.device(); d.Refused["protocol-feature"] == 0 || d.Refused["device-full"] != 0 || d.Connections != 2 {
		t.Errorf("the device is %+v", d)
	}
}

// The limits that a daemon is given are kept by driver and device, and each
// connection of a batch has its own answer.
func TestLimitsOfADevice(t *testing.T) {
	r := newRig(t, "--without", "ipv6", "--per-prefix", "2")
	pairs := append(r.connect(3, false), r.connect(2, true)...)
	res := r.offload(driver.Selector{All: true})
	if len(res.Moved) != 2 || reasons(res) != "prefix-quota protocol-feature protocol-feature" {
		t.Errorf("moved %+v, refused %+v", res.Moved, res.Refused)
	}
	for _, f := range res.Refused {
		if f.Detail == "" {
			t.Errorf("refused without a detail: %+v", f)
		}
	}
	for _, p := range pairs {
		p.exchange(t, "wherever it is")
	}
}
