package tcp_test

import "testing"

func TestRFC3708(t *testing.T) {
	checkRules(t, []rule{
		{"3 all", "(If all that was sent again in a window was reported by D-SACK, no loss of it was real.)", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			wait ms=100
			recv sack=1000-4000
			recv ack=10000
			recv ack=10000 sack=0-1000
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=1 undone=1`},
		{"3 not all", "(What was not reported was lost.)", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			wait ms=100
			recv sack=2000-10000 => 100ms: seq=0 len=2000 size=1000 ack=0 win=65535
			recv ack=10000
			recv ack=10000 sack=0-1000
			show stats => again=2 recoveries=1 probes=0 timeouts=0 dsacks=1 undone=0
			recv ack=10000 sack=1000-2000
			show stats => again=2 recoveries=1 probes=0 timeouts=0 dsacks=2 undone=1`},
	})
}
