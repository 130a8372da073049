package tcp_test

import "testing"

func TestRFC5682(t *testing.T) {
	checkRules(t, []rule{
		{"3.1 (1)", "If \"RecoveryPoint\" is larger than or equal to SND.UNA, do not enter step 2 of this algorithm.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			wait ms=502
			recv ack=1000
			wait ms=700
			recv ack=1000 sack=8000-9000
			show stats => again=5 recoveries=0 probes=1 timeouts=2 dsacks=0 undone=0`},
		{"3.1 (2b)", "Else, if the Cumulative Acknowledgment field does not cover \"RecoveryPoint\" but is larger than SND.UNA, transmit up to two new (previously unsent) segments and proceed to step 3.", `
			conn mss=1000 srtt=100 cwnd=4 cc=reno
			send n=10000
			wait ms=300   => 300ms: seq=0 len=1000 ack=0 win=65535
			recv ack=1000 => event: acked window; 300ms: seq=4000 len=2000 size=1000 ack=0 win=65535`},
		{"3.1 (2b) nothing new", "Rather, continue with slow-start retransmissions following the conventional RTO recovery algorithm.", `
			conn mss=1000 srtt=100 cwnd=4 cc=reno
			send n=4000
			wait ms=300
			recv ack=1000 => event: acked window; 300ms: seq=1000 len=2000 size=1000 ack=0 win=65535`},
		{"3.1 (3a)", "Take this branch also when the acknowledgment is a duplicate ACK and it does not acknowledge any new, previously unacknowledged data below \"RecoveryPoint\" in the SACK information.", `
			conn mss=1000 srtt=100 cwnd=4 cc=reno
			send n=10000
			wait ms=300
			recv ack=1000
			recv ack=1000 => 300ms: seq=1000 len=1000 ack=0 win=65535`},
		{"3.1 (3b)", "If the Cumulative Acknowledgment field or a SACK information in the ACK does not cover more than \"RecoveryPoint\" AND it acknowledges data that was not acknowledged earlier (either with cumulative acknowledgment or using SACK information), declare the timeout spurious and set SpuriousRecovery to SPUR_TO.", `
			conn mss=1000 srtt=100 cwnd=4 cc=reno
			send n=10000
			wait ms=300
			recv ack=1000
			recv ack=2000
			show stats => again=1 recoveries=0 probes=0 timeouts=1 dsacks=0 undone=1`},
	})
}
