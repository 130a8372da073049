package tcp

import (
	"testing"
	"time"

	"toehold/internal/seqnum"
)

// A starter drives the first slow start in rounds of whole windows.
type starter struct {
	*congestion
	h        *hystart
	una, nxt seqnum.Value
}

func newStarter() *starter {
	q := new(cubic)
	return &starter{congestion: windowOf(q, 20, 0), h: &q.hystart}
}

// round has n samples of rtt, and acknowledges what is in flight with the last.
func (s *starter) round(n int, rtt time.Duration) {
	s.una++
	s.nxt = s.una.Add(s.cwnd)
	for range n - 1 {
		s.feed(testMSS, rtt)
	}
	s.una = s.nxt
	s.feed(testMSS, rtt)
}

func (s *starter) feed(acked uint32, rtt time.Duration) {
	one := sample{now: noon, una: s.una, nxt: s.nxt, acked: acked, rtt: rtt, srtt: rtt}
	s.observe(one)
	s.limited = true
	s.onAck(one)
}

func TestRFC9406(t *testing.T) {
	const ms = time.Millisecond
	checkSentences(t, []sentence{
		{"4.2-round", "When windowEnd is ACKed, the current round ends and windowEnd is set to SND.NXT.", func(t *testing.T) {
			s := newStarter()
			s.round(10, 50*ms)
			end := s.h.end
			s.una, s.nxt = s.una+1, s.nxt+9*testMSS
			s.feed(testMSS, 50*ms)
			if end == s.h.end || s.h.end != s.nxt {
				t.Errorf("windowEnd %d after %d, snd.nxt %d", s.h.end, end, s.nxt)
			}
		}},
		{"4.2-init", "At the start of each round during standard slow start [RFC5681] and CSS, initialize the variables used to compute the last round's and current round's minimum RTT ...", func(t *testing.T) {
			s := newStarter()
			s.round(10, 50*ms)
			s.round(10, 51*ms)
			s.una++
			s.feed(testMSS, 53*ms)
			if s.h.last != 51000 || s.h.current != 53000 || s.h.samples != 1 {
				t.Errorf("%+v", *s.h)
			}
		}},
		{"4.2-enter", "if (currentRoundMinRTT >= (lastRoundMinRTT + RttThresh)) cssBaselineMinRtt = currentRoundMinRTT exit slow start and enter CSS", func(t *testing.T) {
			for _, tt := range []struct {
				before, after time.Duration
				enters        bool
			}{
				{50 * ms, 56*ms + 249*time.Microsecond, false}, // lastRoundMinRTT / MIN_RTT_DIVISOR
				{50 * ms, 57 * ms, true},
				{10 * ms, 13900 * time.Microsecond, false}, // MIN_RTT_THRESH = 4 msec
				{10 * ms, 14100 * time.Microsecond, true},
				{400 * ms, 415 * ms, false}, // MAX_RTT_THRESH = 16 msec
				{400 * ms, 416 * ms, true},
			} {
				s := newStarter()
				s.round(10, tt.before)
				s.round(10, tt.before)
				s.round(10, tt.after)
				if got := s.h.rounds > 0; got != tt.enters {
					t.Errorf("%v to %v: conservative %v", tt.before, tt.after, got)
				}
			}
		}},
		{"4.2-samples", "For rounds where at least N_RTT_SAMPLE RTT samples have been obtained and currentRoundMinRTT and lastRoundMinRTT are valid, check to see if delay increase triggers slow start exit ...", func(t *testing.T) {
			s := newStarter()
			for range 10 {
				s.round(7, 50*ms)
				s.round(7, 150*ms)
			}
			if s.h.rounds != 0 {
				t.Errorf("%+v", *s.h)
			}
		}},
		{"4.2-growth", "cwnd = cwnd + (min(N, L * SMSS) / CSS_GROWTH_DIVISOR)", func(t *testing.T) {
			s := newStarter()
			s.round(10, 50*ms)
			s.round(10, 50*ms)
			s.round(10, 70*ms)
			before := s.cwnd
			s.feed(4*testMSS, 70*ms)
			if s.h.rounds == 0 || s.cwnd != before+testMSS {
				t.Errorf("cwnd from %d to %d, %+v", before, s.cwnd, *s.h)
			}
		}},
		{"4.2-spurious", "if (currentRoundMinRTT < cssBaselineMinRtt) cssBaselineMinRtt = infinity resume slow start including HyStart++", func(t *testing.T) {
			s := newStarter()
			s.round(10, 50*ms)
			s.round(10, 50*ms)
			s.round(10, 70*ms)
			s.round(10, 52*ms)
			before := s.cwnd
			s.feed(testMSS, 52*ms)
			if s.h.rounds != 0 || s.h.baseline != 0 || s.cwnd != before+testMSS {
				t.Errorf("%+v", *s.h)
			}
		}},
		{"4.2-end", "If CSS_ROUNDS rounds are complete, enter congestion avoidance by setting the ssthresh to the current cwnd.", func(t *testing.T) {
			s := newStarter()
			s.round(10, 50*ms)
			s.round(10, 50*ms)
			s.round(10, 70*ms) // the first of the five
			for i := range hystartRounds {
				if s.ssthresh != unlimited {
					t.Fatalf("ssthresh %d after %d rounds", s.ssthresh, i+1)
				}
				s.round(10, 70*ms)
			}
			if s.ssthresh != s.cwnd && s.ssthresh+testMSS < s.cwnd || s.ssthresh == unlimited {
				t.Errorf("ssthresh %d, cwnd %d, %+v", s.ssthresh, s.cwnd, *s.h)
			}
		}},
		{"4.2-loss", "(Loss or ECN marking ends slow start, conservative or not.)", func(t *testing.T) {
			for _, e := range []happening{beganRecovery, beganCWR} {
				s := newStarter()
				s.round(10, 50*ms)
				s.reduce(noon, s.cwnd, e)
				if s.ssthresh >= s.cwnd {
					t.Errorf("ssthresh %d, cwnd %d", s.ssthresh, s.cwnd)
				}
			}
		}},
		{"4.3", "An implementation SHOULD use HyStart++ only for the initial slow start (when the ssthresh is at its initial value of arbitrarily high per [RFC5681]) and fall back to using standard slow start for the remainder of the connection lifetime.", func(t *testing.T) {
			s := newStarter()
			s.ssthresh = 10000 * testMSS
			s.round(10, 50*ms)
			s.round(10, 50*ms)
			s.round(10, 90*ms)
			if s.h.rounds != 0 {
				t.Errorf("%+v", *s.h)
			}
		}},
	})
}

// On a path with a deep queue the first slow start ends by delay, with much
// less lost than by a loss.
func TestHystartLosesLess(t *testing.T) {
	for _, name := range []string{"cubic", "reno"} {
		lost := [2]int{}
		for i := range lost {
			m := newModel(name)
			m.rtt, m.queue = 100*time.Millisecond, 250000
			if i == 1 {
				m.ssthresh = unlimited - 1 // not the first slow start
			}
			m.run(4 * time.Second)
			lost[i] = m.losses
			between(t, name+": rate", m.run(4*time.Second), 0.95*m.rate, m.rate)
		}
		if lost[0] > lost[1]/2 {
			t.Errorf("%s: %d segments lost, %d without", name, lost[0], lost[1])
		}
	}
}
