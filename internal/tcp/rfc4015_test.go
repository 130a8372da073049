package tcp_test

import "testing"

// The response to a reduction that was for nothing: Linux's, which gives back
// all at once.
func TestRFC4015(t *testing.T) {
	const lateSegment = `
			conn sack ts mss=1000 srtt=100 cwnd=10 ssthresh=30 cc=reno
			wait ms=50
			send n=10000
			wait ms=100
			recv sack=1000-4000 tsval=101 tsecr=50`
	checkRules(t, []rule{
		{"2", "If the Eifel response algorithm is implemented at the TCP sender, it MUST be implemented together with a detection algorithm that is specified in a standards track or experimental RFC.", lateSegment + `
			recv ack=10000 tsval=102 tsecr=50
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=0 undone=1
			conn sack mss=1000 srtt=100 cwnd=10 ssthresh=30 cc=reno
			send n=10000
			wait ms=100
			recv sack=1000-4000
			recv ack=10000
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=0 undone=0`},
		{"3.2 (0)", "Before the variables cwnd and ssthresh get updated when loss recovery is initiated, set ... (What was set is what both are again; in slow start the window grows on.)", lateSegment + `
			show => established una=0 nxt=10000 end=10000 edge=64000 rcv=0 acked=0 cwnd=7 ssthresh=5 recovery=1 rto=300ms held=10000/0
			recv ack=10000 tsval=102 tsecr=50
			show => established una=10000 nxt=10000 end=10000 edge=74000 rcv=0 acked=0 cwnd=20 ssthresh=30 recovery=0 rto=300ms held=0/0`},
		{"3.2 (ReCC)", "(An acknowledgment with ECE says that the network is congested indeed: nothing is given back.)", `
			conn sack ts ecn mss=1000 srtt=100 cwnd=10 ssthresh=30 cc=reno
			wait ms=50
			send n=10000
			wait ms=100
			recv sack=1000-4000 tsval=101 tsecr=50
			recv ack=10000 tsval=102 tsecr=50 ece
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=0 undone=0
			show => established una=10000 nxt=10000 end=10000 edge=74000 rcv=0 acked=0 cwnd=5 ssthresh=5 recovery=0 rto=300ms held=0/0`},
	})
}
