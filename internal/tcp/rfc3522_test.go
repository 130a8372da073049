package tcp_test

import "testing"

func TestRFC3522(t *testing.T) {
	checkRules(t, []rule{
		{"3.2 (4)", "If the value of the Timestamp Echo Reply field of the acceptable ACK's Timestamps option is smaller than the value of RetransmitTS, then proceed to next step ...", `
			conn sack ts mss=1000 srtt=100 cwnd=10 cc=reno
			wait ms=50
			send n=10000
			wait ms=100
			recv sack=1000-4000 tsval=101 tsecr=50
			recv ack=10000 tsval=102 tsecr=50
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=0 undone=1`},
		{"3.2 (4), not smaller", "(Else nothing is known, and the recovery goes on.)", `
			conn sack ts mss=1000 srtt=100 cwnd=10 cc=reno
			wait ms=50
			send n=10000
			wait ms=100
			recv sack=1000-4000 tsval=101 tsecr=50
			wait ms=100
			recv ack=10000 tsval=102 tsecr=150
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=0 undone=0`},
	})
}
