package tcp_test

import "testing"

// Urgent data stays what it is: nothing of a segment that has some is taken in,
// and the connection goes home with it.
func TestRFC6093(t *testing.T) {
	checkRules(t, []rule{
		{"3.8.5 of RFC 9293", "This mechanism permits a point in the data stream to be designated as the end of urgent information. (It is left to the kernel, octets and all.)", `
			conn
			recv len=10 urg => event: urgent
			show => established una=0 nxt=0 end=0 edge=64000 rcv=0 acked=0 cwnd=10 ssthresh=2147483647 recovery=0 rto=1s held=0/0
			conn through
			recv len=10 urg => event: urgent`},
		{"5.2 of RFC 5961", "(Only in the window: who cannot see the connection cannot easily send it home.)", `
			conn rcvwin=10000 rcvbuf=10000
			recv seq=20000 len=10 urg => event: dropped; 0s: seq=0 ack=0 win=10000`},
	})
}
