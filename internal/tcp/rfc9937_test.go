package tcp_test

import "testing"

func TestRFC9937(t *testing.T) {
	checkRules(t, []rule{
		{"6 forced", "If prr_out is 0 and sndcnt is 0: force a fast retransmit upon entering recovery.", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=60000
			wait ms=100
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535`},
		{"6 proportional", "While inflight > ssthresh: sndcnt = CEIL(prr_delivered * ssthresh / RecoverFS) - prr_out.", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=60000
			wait ms=100
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535
			recv sack=1000-5000 => 100ms: seq=20000 len=1000 ack=0 win=65535
			recv sack=1000-6000 => nothing
			recv sack=1000-7000 => 100ms: seq=21000 len=1000 ack=0 win=65535
			recv sack=1000-8000 => nothing`},
		{"6 SafeACK", "Below ssthresh: sndcnt = MAX(prr_delivered - prr_out, DeliveredData), and one SMSS more when snd.una advances and no further loss is indicated.", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=60000
			wait ms=100
			recv sack=11000-20000 => 100ms: seq=0 len=2000 size=1000 ack=0 win=65535; 100ms: seq=2000 len=2000 size=1000 ack=0 win=65535; 100ms: seq=4000 len=2000 size=1000 ack=0 win=65535; 100ms: seq=6000 len=2000 size=1000 ack=0 win=65535; 100ms: seq=8000 len=1000 ack=0 win=65535
			wait ms=100
			recv ack=1000 sack=11000-20000 => event: acked window; 200ms: seq=9000 len=2000 size=1000 ack=0 win=65535`},
	})
}
