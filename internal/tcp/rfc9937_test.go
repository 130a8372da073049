package tcp_test

import "testing"

func TestRFC9937(t *testing.T) {
	checkRules(t, []rule{
		{"6.2 forced", "if (prr_out is 0 AND SndCnt is 0) { // Force a fast retransmit upon entering recovery SndCnt = SMSS }", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=60000
			wait ms=100
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535`},
		{"6.2 proportional", "out = DIV_ROUND_UP(prr_delivered * ssthresh, RecoverFS) SndCnt = out - prr_out", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=60000
			wait ms=100
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535
			recv sack=1000-5000 => 100ms: seq=20000 len=1000 ack=0 win=65535
			recv sack=1000-6000 => nothing
			recv sack=1000-7000 => 100ms: seq=21000 len=1000 ack=0 win=65535
			recv sack=1000-8000 => nothing`},
		{"6.2 SafeACK", "if (SafeACK) { // PRR-SSRB when recovery is making good progress SndCnt += SMSS }", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=60000
			wait ms=100
			recv sack=11000-20000 => 100ms: seq=0 len=2000 size=1000 ack=0 win=65535; 100ms: seq=2000 len=2000 size=1000 ack=0 win=65535; 100ms: seq=4000 len=2000 size=1000 ack=0 win=65535; 100ms: seq=6000 len=2000 size=1000 ack=0 win=65535; 100ms: seq=8000 len=1000 ack=0 win=65535
			wait ms=100
			recv ack=1000 sack=11000-20000 => event: acked window; 200ms: seq=9000 len=2000 size=1000 ack=0 win=65535`},
		{"6.2 nothing delivered", "if (DeliveredData is 0) Return", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=60000
			wait ms=100
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535
			recv sack=1000-4000 => nothing
			recv sack=1000-4000 => nothing
			recv sack=1000-4000 => nothing`},
		{"6.4", "On the completion of a PRR episode, PRR executes the following: cwnd = ssthresh", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=20000
			wait ms=100
			recv sack=1000-4000
			recv ack=20000
			show => established una=20000 nxt=20000 end=20000 edge=84000 rcv=0 acked=0 cwnd=10 ssthresh=10 recovery=0 rto=300ms held=0/0`},
	})
}
