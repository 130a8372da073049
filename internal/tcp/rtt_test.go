package tcp

import (
	"testing"
	"time"

	"toehold/internal/tcb"
)

const ms = time.Millisecond

// RFC 6298, section 2, with Linux's floor under the variance.
func TestRTTSamples(t *testing.T) {
	for _, tt := range []struct {
		name              string
		samples           []time.Duration
		srtt, rttvar, rto time.Duration
	}{
		{"none", nil, 0, 0, time.Second},
		{"first", []time.Duration{100 * ms}, 100 * ms, 50 * ms, 300 * ms},
		{"first, long", []time.Duration{800 * ms}, 800 * ms, 400 * ms, 2400 * ms},
		{"longer", []time.Duration{100 * ms, 180 * ms}, 110 * ms, 57500 * time.Microsecond, 340 * ms},
		{"a little shorter", []time.Duration{100 * ms, 92 * ms}, 99 * ms, 39500 * time.Microsecond, 299 * ms},
		{"much shorter", []time.Duration{800 * ms, 160 * ms}, 720 * ms, 407500 * time.Microsecond, 2350 * ms},
	} {
		var r rttState
		r.restore(noon, &tcb.Snapshot{})
		for _, m := range tt.samples {
			r.sample(m, 0, 0)
		}
		if r.srtt != tt.srtt || r.rttvar != tt.rttvar || r.rto != tt.rto {
			t.Errorf("%s: srtt %v, rttvar %v, rto %v", tt.name, r.srtt, r.rttvar, r.rto)
		}
	}
}

func TestRTOLimits(t *testing.T) {
	for _, tt := range []struct{ srtt, rttvar, rto, want time.Duration }{
		{0, 0, 0, time.Second},
		{50 * time.Microsecond, 10 * time.Microsecond, 0, 200*ms + 50*time.Microsecond},
		{time.Hour, time.Hour, 0, maxRTO},
		{100 * ms, 10 * ms, 250 * ms, 250 * ms},
		{100 * ms, 10 * ms, ms, minRTO},
		{100 * ms, 10 * ms, time.Hour, maxRTO},
	} {
		var r rttState
		r.restore(noon, &tcb.Snapshot{SRTT: tt.srtt, RTTVar: tt.rttvar, RTO: tt.rto})
		if r.rto != tt.want {
			t.Errorf("%+v: rto %v", tt, r.rto)
		}
	}
}

func TestMicros(t *testing.T) {
	if micros(1500) != 1 || micros(2*time.Hour) != 1<<32-1 {
		t.Errorf("%d, %d", micros(1500), micros(2*time.Hour))
	}
}
