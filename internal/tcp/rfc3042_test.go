package tcp_test

import "testing"

func TestRFC3042(t *testing.T) {
	checkRules(t, []rule{
		{"2", "... the Limited Transmit algorithm, which calls for a TCP sender to transmit new data upon the arrival of the first two consecutive duplicate ACKs ...", `
			conn mss=1000 srtt=100 cwnd=4 cc=reno
			send n=10000
			recv ack=0 => 0s: seq=4000 len=1000 ack=0 win=65535
			recv ack=0 => 0s: seq=5000 len=1000 ack=0 win=65535
			show => established una=0 nxt=6000 end=10000 edge=64000 rcv=0 acked=0 cwnd=4 ssthresh=2147483647 recovery=0 rto=300ms held=10000/0`},
		{"2 SACK", "If the connection is using selective acknowledgments [RFC2018], the data sender MUST NOT send new segments in response to duplicate ACKs that contain no new SACK information ...", `
			conn sack mss=1000 srtt=100 cwnd=4 cc=reno
			send n=10000
			recv ack=0                => nothing
			recv ack=0 sack=1000-2000 => 0s: seq=4000 len=1000 ack=0 win=65535
			recv ack=0 sack=1000-2000 => nothing`},
	})
}
