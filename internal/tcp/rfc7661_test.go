package tcp

import (
	"testing"
	"time"

	"toehold/internal/mono"
)

// A user sends rounds of n octets a round trip, and has them acknowledged.
type user struct {
	*congestion
	now mono.Time
	s   sample
}

const userRTT = 100 * time.Millisecond

func newUser(cwnd uint32) *user {
	return &user{congestion: windowOf(new(reno), cwnd, cwnd), now: noon, s: sample{srtt: userRTT, rtt: userRTT}}
}

// round sends n segments at once and has each acknowledged a round trip later.
func (u *user) round(n uint32) {
	u.s.nxt = u.s.una.Add(n * testMSS)
	u.now = u.now.Add(userRTT)
	for range n {
		u.s.una, u.s.acked, u.s.now = u.s.una.Add(testMSS), testMSS, u.now
		u.observe(u.s)
		u.onAck(u.s)
	}
}

func (u *user) rounds(n int, segments uint32) {
	for range n {
		u.round(segments)
	}
}

func (u *user) validated() bool { return u.use.since == 0 }

// The sentences could not be compared with the text: docs/RFC.md, "Not compared".
func TestRFC7661(t *testing.T) {
	checkSentences(t, []sentence{
		{"4.1", "A sender starts a TCP connection in the validated phase and initializes pipeACK to the undefined value", func(t *testing.T) {
			u := newUser(100)
			if u.use.known || !u.validated() {
				t.Errorf("%+v", u.use)
			}
		}},
		{"4.2", "The pipeACK variable ... the maximum of the pipeACK samples taken over the last pipeACK Sampling Period ... max(3*RTT, 1 second)", func(t *testing.T) {
			u := newUser(100)
			u.rounds(3, 80)
			u.rounds(4, 20)
			between(t, "pipeACK in the period", float64(u.use.pipeACK()), 80*testMSS, 80*testMSS)
			u.rounds(10, 20)
			between(t, "pipeACK after it", float64(u.use.pipeACK()), 19*testMSS, 20*testMSS)
		}},
		{"4.3-validated", "Validated phase: pipeACK >= (1/2)*cwnd, or pipeACK is undefined", func(t *testing.T) {
			u := newUser(100)
			u.rounds(20, 51)
			if !u.validated() {
				t.Errorf("pipeACK %d, cwnd %d", u.use.pipeACK(), u.cwnd)
			}
		}},
		{"4.3-nonvalidated", "Nonvalidated phase: pipeACK < (1/2)*cwnd. ... preserves cwnd", func(t *testing.T) {
			u := newUser(100)
			u.rounds(100, 10)
			if u.validated() || segs(u.congestion) != 100 {
				t.Errorf("pipeACK %d, cwnd %d", u.use.pipeACK(), u.cwnd)
			}
			u.rounds(10, 60)
			if !u.validated() {
				t.Errorf("pipeACK %d, cwnd %d, still not validated", u.use.pipeACK(), u.cwnd)
			}
		}},
		{"4.4.1-begin", "a safe cwnd ... Max(pipeACK, LossFlightSize)", func(t *testing.T) {
			u := newUser(100)
			u.rounds(30, 10)
			u.reduce(u.now, 12*testMSS, beganRecovery)
			if u.cwnd != 12*testMSS || u.ssthresh != 6*testMSS {
				t.Errorf("cwnd %d, ssthresh %d with 12 segments in flight", u.cwnd, u.ssthresh)
			}
			if u.priorCwnd != 100*testMSS {
				t.Errorf("%d is what an undo comes back to", u.priorCwnd)
			}
		}},
		{"4.4.1-end", "cwnd = (Max(pipeACK, LossFlightSize) - R) / 2 ... R is the volume of data that was retransmitted. ... re-initialize the pipeACK variable to the undefined value", func(t *testing.T) {
			u := newUser(100)
			u.rounds(30, 10)
			u.s.lost = 2 * testMSS
			u.reduce(u.now, 20*testMSS, beganRecovery)
			u.control(u.s)
			u.cwnd = u.ssthresh
			u.s.recovering, u.s.lost = true, 4*testMSS
			u.control(u.s)
			u.tell(u.now, ended)
			if u.cwnd != (20-6)/2*testMSS || u.use.known {
				t.Errorf("cwnd %d, %+v", u.cwnd, u.use)
			}
		}},
		{"4.4.1-validated", "(In the validated phase the response to loss is RFC 5681's.)", func(t *testing.T) {
			u := newUser(100)
			u.rounds(10, 100)
			cwnd := u.cwnd
			u.reduce(u.now, 100*testMSS, beganRecovery)
			if u.cwnd != cwnd || u.ssthresh != 50*testMSS || u.use.lossy != 0 {
				t.Errorf("cwnd %d of %d, ssthresh %d", u.cwnd, cwnd, u.ssthresh)
			}
		}},
		{"4.4.2", "remains in the nonvalidated phase for a period greater than the NVP ... ssthresh = max(ssthresh, 3*cwnd/4), cwnd = max(cwnd/2, IW)", func(t *testing.T) {
			u := newUser(100)
			u.rounds(2990, 10)
			if segs(u.congestion) != 100 {
				t.Fatalf("cwnd %d before five minutes", u.cwnd)
			}
			u.rounds(20, 10)
			if segs(u.congestion) != 50 || u.ssthresh != 100*testMSS {
				t.Errorf("cwnd %d, ssthresh %d after five minutes", u.cwnd, u.ssthresh)
			}
			u.rounds(20000, 10)
			if segs(u.congestion) > 21 || segs(u.congestion) < initialWindow {
				t.Errorf("cwnd %d after half an hour", u.cwnd)
			}
		}},
		{"4.4-idle", "(Idleness is the nonvalidated phase too: cwnd is kept for the NVP, and halved with each.)", func(t *testing.T) {
			for idle, want := range map[time.Duration]float64{4 * time.Minute: 100, 6 * time.Minute: 50, 11 * time.Minute: 25, 24 * time.Hour: 10} {
				u := newUser(100)
				u.rounds(10, 90)
				u.idle(u.now.Add(idle), idle, 300*time.Millisecond)
				if segs(u.congestion) != want {
					t.Errorf("%v idle: %v segments, want %v", idle, segs(u.congestion), want)
				}
			}
		}},
		{"4.4.3", "SHOULD control the maximum number of segments sent in a burst", func(t *testing.T) {
			u := newUser(100)
			u.rounds(10, 90)
			at := u.now.Add(time.Minute)
			u.idle(at, time.Minute, 300*time.Millisecond)
			if u.pacing != uint64(u.cwnd)*10 {
				t.Errorf("%d octets a second for %d octets in 100 ms", u.pacing, u.cwnd)
			}
			u.s.now = at.Add(userRTT)
			u.observe(u.s)
			if u.pacing != 0 {
				t.Errorf("%d octets a second after a round trip", u.pacing)
			}
		}},
	})
}

// A window that grows in slow start is never taken for one that is not in use.
func TestSlowStartIsValidated(t *testing.T) {
	m := newModel("cubic")
	m.rtt = 200 * time.Millisecond
	bad := 0
	m.acks = func(s sample) {
		if m.use.since != 0 {
			bad++
		}
	}
	m.run(5 * time.Second)
	if bad > 0 {
		t.Errorf("not validated at %d acknowledgments of a bulk transfer", bad)
	}
}
