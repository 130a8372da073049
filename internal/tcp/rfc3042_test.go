package tcp_test

import "testing"

func TestRFC3042(t *testing.T) {
	checkRules(t, []rule{
		{"2", "The TCP sender should transmit new data upon the arrival of the first two consecutive duplicate ACKs ... The congestion window must not be changed.", `
			conn mss=1000 srtt=100 cwnd=4 cc=reno
			send n=10000
			recv ack=0 => 0s: seq=4000 len=1000 ack=0 win=65535
			recv ack=0 => 0s: seq=5000 len=1000 ack=0 win=65535
			show => established una=0 nxt=6000 end=10000 edge=64000 rcv=0 acked=0 cwnd=4 ssthresh=2147483647 recovery=0 rto=300ms held=10000/0`},
		{"2 SACK", "If SACK is used, the sender must not send new data unless the incoming duplicate acknowledgment contains new SACK information.", `
			conn sack mss=1000 srtt=100 cwnd=4 cc=reno
			send n=10000
			recv ack=0                => nothing
			recv ack=0 sack=1000-2000 => 0s: seq=4000 len=1000 ack=0 win=65535
			recv ack=0 sack=1000-2000 => nothing`},
	})
}
