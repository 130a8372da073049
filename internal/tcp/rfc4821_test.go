package tcp_test

import "testing"

func TestRFC4821(t *testing.T) {
	checkRules(t, []rule{
		{"7.7", "Upon additional successive timeouts, search_low and eff_pmtu SHOULD be halved, with a lower bound of 68 bytes for IPv4 and 1280 bytes for IPv6.", `
			conn mss=1400 srtt=100 probing cc=reno
			send n=1400
			wait ms=300
			wait ms=600  => 900ms: seq=0 len=1400 psh ack=0 win=65535
			wait ms=1200 => 2.1s: seq=0 len=700 ack=0 win=65535`},
		{"7.6.2", "In this case alone, the loss SHOULD NOT be interpreted as congestion signal.", `
			conn sack mss=1400 srtt=100 probing cwnd=100
			send n=1400
			too-big size=700
			recv ack=1400
			wait ms=600000
			send n=14000
			wait ms=100
			recv ack=1400 sack=2800-15400 => 10m0.1s: seq=1400 len=1400 size=700 ack=0 win=65535
			show => established una=1400 nxt=15400 end=15400 edge=65400 rcv=0 acked=0 cwnd=200 ssthresh=2147483647 recovery=2 rto=300ms held=14000/0`},
	})
}
