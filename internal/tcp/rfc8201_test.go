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
		{"4 increase", "An attempt to detect an increase (by sending a packet larger than the current estimate) must not be done less than 5 minutes after a Packet Too Big message has been received for the given path.", `
			conn sack mss=1400 srtt=100 cc=none
			send n=1400
			too-big size=1000
			recv ack=1400
			wait ms=599000
			send n=8000 => 9m59s: seq=1400 len=8000 size=1000 psh ack=0 win=65535
			recv ack=9400
			wait ms=2000
			send n=8000 => 10m1s: seq=9400 len=1400 ack=0 win=65535; 10m1s: seq=10800 len=6600 size=1000 psh ack=0 win=65535`},
		{"3 of RFC 1191", "A host MUST not increase its estimate of the Path MTU in response to the contents of a Datagram Too Big message.", `
			conn sack mss=1400 srtt=100 cc=none
			send n=1400
			too-big size=1000
			too-big size=1300
			recv ack=1400
			send n=2000 => 0s: seq=1400 len=2000 size=1000 psh ack=0 win=65535`},
		{"6.4 of RFC 1191", "Unlike a retransmission caused by a TCP retransmission timeout, a retransmission caused by a Datagram Too Big message should not change the congestion window.", `
			conn sack mss=1400 srtt=100 cwnd=10 ssthresh=8
			send n=14000
			too-big size=700
			show => established una=0 nxt=14000 end=14000 edge=64000 rcv=0 acked=0 cwnd=20 ssthresh=16 recovery=2 rto=300ms held=14000/0`},
	})
}
