package tcp_test

import "testing"

// Urgent data stays what it is: nothing of a segment that has some is taken in,
// and the connection goes home with it.
func TestRFC6093(t *testing.T) {
	checkRules(t, []rule{
		{"3", "... urgent data is not 'out-of-band': the octets stay in the stream, where the urgent pointer means a place in it. (So they are left to the kernel.)", `
			conn
			recv len=10 urg => event: urgent
			show => established una=0 nxt=0 end=0 edge=64000 rcv=0 acked=0 cwnd=10 ssthresh=2147483647 recovery=0 rto=1s held=0/0
			conn through
			recv len=10 urg => event: urgent`},
		{"RFC 5961", "(Only in the window: who cannot see the connection cannot easily send it home.)", `
			conn rcvwin=10000 rcvbuf=10000
			recv seq=20000 len=10 urg => event: dropped; 0s: seq=0 ack=0 win=10000`},
	})
}
