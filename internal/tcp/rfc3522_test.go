package tcp_test

import "testing"

func TestRFC3522(t *testing.T) {
	checkRules(t, []rule{
		{"3.2 (4)", "If the timestamp of the first acceptable ACK is smaller than that of the first retransmission, it is for the original: the loss recovery was spurious.", `
			conn sack ts mss=1000 srtt=100 cwnd=10 cc=reno
			wait ms=50
			send n=10000
			wait ms=100
			recv sack=1000-4000 tsval=101 tsecr=50
			recv ack=10000 tsval=102 tsecr=50
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=0 undone=1`},
		{"3.2 (4), not smaller", "Else proceed with the loss recovery.", `
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
