package tcp_test

import "testing"

func TestRFC8257Receiver(t *testing.T) {
	checkRules(t, []rule{
		{"3.2 rule 1", "If the CE codepoint is set and DCTCP.CE is false, set DCTCP.CE to true and send an immediate ACK.", `
			conn ecn mss=1000 cc=dctcp
			recv len=10 ect0 times=16
			recv len=10 ect0 => event: readable
			recv len=10 ce   => event: readable marked; 0s: seq=0 ect0 ack=170 win=65535; 0s: seq=0 ece ect0 ack=180 win=65535`},
		{"3.2 rule 2", "If the CE codepoint is not set and DCTCP.CE is true, set DCTCP.CE to false and send an immediate ACK.", `
			conn ecn mss=1000 cc=dctcp
			recv len=10 ce times=17
			recv len=10 ce   => event: readable marked
			recv len=10 ect0 => event: readable; 0s: seq=0 ece ect0 ack=180 win=65535; 0s: seq=0 ect0 ack=190 win=65535`},
		{"3.2 rule 3", "Otherwise, ignore the CE codepoint.", `
			conn ecn mss=1000 cc=dctcp
			recv len=10 ce times=17
			recv len=10 ce => event: readable marked
			wait ms=40     => 40ms: seq=0 ece ect0 ack=180 win=65535`},
		{"3.2, through", "(Acknowledging through, an acknowledgment of octets of both kinds becomes two.)", `
			conn ecn mss=1000 cc=dctcp through
			recv len=1000 ect0
			recv len=1000 ce
			permit ack=2000 => 0s: seq=0 ect0 ack=1000 win=65000; 0s: seq=0 ece ect0 ack=2000 win=64000`},
		{"3", "(DCTCP needs ECN: without it nothing of that is done.)", `
			conn mss=1000 cc=dctcp
			recv len=1000 ce => event: readable; 0s: seq=0 ack=1000 win=65535`},
	})
}
