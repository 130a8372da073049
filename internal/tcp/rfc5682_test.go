package tcp_test

import "testing"

func TestRFC5682(t *testing.T) {
	checkRules(t, []rule{
		{"3.1 (1)", "If RecoveryPoint is larger than or equal to SND.UNA, do not enter step 2 of this algorithm.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			wait ms=502
			recv ack=1000
			wait ms=700
			recv ack=1000 sack=8000-9000
			show stats => again=5 recoveries=0 probes=1 timeouts=2 dsacks=0 undone=0`},
		{"3.1 (2b)", "If the Cumulative Acknowledgment field does not cover RecoveryPoint but is larger than SND.UNA, transmit up to two new (previously unsent) segments and proceed to step 3.", `
			conn mss=1000 srtt=100 cwnd=4 cc=reno
			send n=10000
			wait ms=300   => 300ms: seq=0 len=1000 ack=0 win=65535
			recv ack=1000 => event: acked window; 300ms: seq=4000 len=2000 size=1000 ack=0 win=65535`},
		{"3.1 (2b) nothing new", "If the TCP sender is not able to transmit any previously unsent data ... continue with slow-start retransmissions following the conventional RTO recovery algorithm.", `
			conn mss=1000 srtt=100 cwnd=4 cc=reno
			send n=4000
			wait ms=300
			recv ack=1000 => event: acked window; 300ms: seq=1000 len=2000 size=1000 ack=0 win=65535`},
		{"3.1 (3a)", "Take this branch also when the acknowledgment is a duplicate ACK and it does not acknowledge any new, previously unacknowledged data: proceed with the conventional RTO recovery, retransmitting unacknowledged segments.", `
			conn mss=1000 srtt=100 cwnd=4 cc=reno
			send n=10000
			wait ms=300
			recv ack=1000
			recv ack=1000 => 300ms: seq=1000 len=1000 ack=0 win=65535`},
		{"3.1 (3b)", "If the ACK acknowledges data that was not acknowledged earlier, declare the timeout spurious.", `
			conn mss=1000 srtt=100 cwnd=4 cc=reno
			send n=10000
			wait ms=300
			recv ack=1000
			recv ack=2000
			show stats => again=1 recoveries=0 probes=0 timeouts=1 dsacks=0 undone=1`},
	})
}

// TestRFC3522 is Eifel detection with timestamps, TestRFC4015 the response.
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

func TestRFC3708(t *testing.T) {
	checkRules(t, []rule{
		{"3 all", "If all segments sent again in a window were reported by D-SACK, no loss of it was real.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			wait ms=100
			recv sack=1000-4000
			recv ack=10000
			recv ack=10000 sack=0-1000
			show stats => again=1 recoveries=1 probes=0 timeouts=0 dsacks=1 undone=1`},
		{"3 not all", "One that was not reported was lost.", `
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

func TestRFC9937(t *testing.T) {
	checkRules(t, []rule{
		{"6 forced", "If prr_out is 0 and sndcnt is 0: force a fast retransmit upon entering recovery.", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=60000
			wait ms=100
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535`},
		{"6 proportional", "While inflight > ssthresh: sndcnt = CEIL(prr_delivered * ssthresh / RecoverFS) - prr_out.", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=60000
			wait ms=100
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535
			recv sack=1000-5000 => 100ms: seq=20000 len=1000 ack=0 win=65535
			recv sack=1000-6000 => nothing
			recv sack=1000-7000 => 100ms: seq=21000 len=1000 ack=0 win=65535
			recv sack=1000-8000 => nothing`},
		{"6 SafeACK", "Below ssthresh: sndcnt = MAX(prr_delivered - prr_out, DeliveredData), and one SMSS more when snd.una advances and no further loss is indicated.", `
			conn sack mss=1000 srtt=100 cwnd=20 cc=reno
			send n=60000
			wait ms=100
			recv sack=11000-20000 => 100ms: seq=0 len=9000 size=1000 ack=0 win=65535
			wait ms=100
			recv ack=1000 sack=11000-20000 => event: acked window; 200ms: seq=9000 len=2000 size=1000 ack=0 win=65535`},
	})
}
