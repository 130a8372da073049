package tcp_test

import "testing"

func TestRFC8201(t *testing.T) {
	checkRules(t, []rule{
		{"4 reduce", "The node must reduce the size of the packets it is sending along the path.", `
			conn sack mss=1400 srtt=100
			send n=1400        => 0s: seq=0 len=1400 psh ack=0 win=65535
			too-big size=1000  => 0s: seq=0 len=1400 size=1000 psh ack=0 win=65535
			recv ack=1400
			send n=2000        => 0s: seq=1400 len=2000 size=1000 psh ack=0 win=65535`},
		{"4 increase", "An attempt to detect an increase ... must not be done less than 5 minutes after a Packet Too Big message has been received. The recommended setting for this timer is twice its minimum value (10 minutes).", `
			conn sack mss=1400 srtt=100 cc=none
			send n=1400
			too-big size=1000
			recv ack=1400
			wait ms=599000
			send n=8000 => 9m59s: seq=1400 len=8000 size=1000 psh ack=0 win=65535
			recv ack=9400
			wait ms=2000
			send n=8000 => 10m1s: seq=9400 len=1400 ack=0 win=65535; 10m1s: seq=10800 len=6600 size=1000 psh ack=0 win=65535`},
		{"5.4", "A retransmission caused by a Packet Too Big message should not change the congestion window.", `
			conn sack mss=1400 srtt=100 cwnd=10 ssthresh=8
			send n=14000
			too-big size=700
			show => established una=0 nxt=14000 end=14000 edge=64000 rcv=0 acked=0 cwnd=20 ssthresh=16 recovery=2 rto=300ms held=14000/0`},
	})
}

func TestRFC4821(t *testing.T) {
	checkRules(t, []rule{
		{"7.7", "If ... full-stop timeouts ... the Packetization Layer should reduce its MTU: a path may have become a black hole for large packets.", `
			conn mss=1400 srtt=100 probing cc=reno
			send n=1400
			wait ms=300
			wait ms=600  => 900ms: seq=0 len=1400 psh ack=0 win=65535
			wait ms=1200 => 2.1s: seq=0 len=700 ack=0 win=65535`},
		{"7.5", "The loss of a probe is no indication of congestion: the window is not reduced for it.", `
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
