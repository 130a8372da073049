package tcp_test

import "testing"

func TestRFC8985(t *testing.T) {
	checkRules(t, []rule{
		{"3.3.2 small", "The reordering window SHOULD be set to zero if no reordering has been observed on the connection so far, and either (a) three segments have been SACKed since the last recovery or (b) the sender is already in fast or RTO recovery.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=10000
			wait ms=100
			recv sack=1000-3000
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535
			recv sack=5000-10000,1000-4000 => 100ms: seq=4000 len=1000 ack=0 win=65535`},
		{"6.2 step 3", "If a never-retransmitted segment that's below RACK.fack is (selectively or cumulatively) acknowledged, it has been delivered out of order.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=5000
			wait ms=100
			recv sack=1000-2000
			recv ack=5000
			send n=5000
			wait ms=100
			recv sack=6000-10000 => nothing
			wait ms=25           => 225ms: seq=5000 len=1000 ack=0 win=65535`},
		{"6.2 step 5", "For timely loss detection, it is RECOMMENDED that the sender install a reordering timer.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=2000
			wait ms=100
			recv sack=1000-2000 => nothing
			wait ms=24          => nothing
			wait ms=1           => 125ms: seq=0 len=1000 ack=0 win=65535`},
		{"6.2 lost retransmission", "If RACK_sent_after(RACK.xmit_ts, RACK.end_seq, Segment.xmit_ts, Segment.end_seq): remaining = Segment.xmit_ts + RACK.rtt + RACK.reo_wnd - Now()", `
			conn sack mss=1000 srtt=100 cc=none
			send n=4000
			wait ms=100
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535
			wait ms=1
			send n=1000
			wait ms=100
			recv sack=1000-5000 => 201ms: seq=0 len=1000 ack=0 win=65535`},
		{"6.2 one time", "If Segment.xmit_ts equals RACK.xmit_ts (e.g., due to clock granularity limits), then compare Segment.end_seq and RACK.end_seq to break the tie ...", `
			conn sack mss=1000 srtt=100 cc=none
			send n=20000
			wait ms=100
			recv sack=10000-20000 => 100ms: seq=0 len=10000 size=1000 ack=0 win=65535
			wait ms=100
			recv sack=5000-20000  => nothing
			wait ms=25            => 225ms: seq=0 len=5000 size=1000 ack=0 win=65535`},
		{"6.3", "Upon RTO timer expiration, RACK marks the first outstanding segment as lost (since it was sent an RTO ago); for all the other segments, RACK only marks the segment as lost if the time elapsed since the segment was transmitted is at least the sum of the recent RTT and the reordering window.", `
			conn sack mss=1000 srtt=100 cc=none
			send n=1000
			wait ms=100
			recv ack=1000
			send n=1000
			wait ms=550
			send n=1000
			wait ms=100
			show stats => again=2 recoveries=0 probes=1 timeouts=1 dsacks=0 undone=0`},
		{"7.2", "Third, when the FlightSize is one segment, the sender MAY inflate the PTO by TLP.max_ack_delay to accommodate a potentially delayed acknowledgment and reduce the risk of spurious retransmissions.", `
			conn sack mss=1000 srtt=100 cwnd=10
			send n=2000
			wait ms=201 => nothing
			wait ms=1   => 202ms: seq=1000 len=1000 psh ack=0 win=65535
			conn sack mss=1000 srtt=100 cwnd=10
			send n=1000
			wait ms=299 => nothing
			wait ms=1   => 502ms: seq=0 len=1000 psh ack=0 win=65535`},
		{"4 (1)", "The connection MUST use selective acknowledgment (SACK) options [RFC2018], and the sender MUST keep SACK scoreboard information on a per-connection basis ...", `
			conn mss=1000 srtt=100 cwnd=10
			send n=2000
			wait ms=299 => nothing`},
		{"7.3 new", "(New data goes first, if there is some and the peer's window has room, whatever cwnd says.)", `
			conn sack mss=1000 srtt=100 cwnd=2
			send n=4000
			wait ms=202 => 202ms: seq=2000 len=1000 ack=0 win=65535`},
		{"7.3 one", "If either one of these two conditions is not met, then the sender MUST skip sending a loss probe and MUST proceed to re-arm the RTO timer. (The one is that no probe is in flight; the other is not looked at, as in Linux.)", `
			conn sack mss=1000 srtt=100 cwnd=2
			send n=4000
			wait ms=202 => 202ms: seq=2000 len=1000 ack=0 win=65535
			wait ms=299 => nothing
			show stats  => again=0 recoveries=0 probes=1 timeouts=0 dsacks=0 undone=0`},
		{"7.3 again", "If such an unsent segment is not available, then the sender SHOULD retransmit the highest-sequence segment sent so far and set TLP.is_retrans to true.", `
			conn sack mss=1000 srtt=100 cwnd=10
			send n=2500
			wait ms=202 => 202ms: seq=1500 len=1000 psh ack=0 win=65535`},
		{"7.3 FIN", "(The highest-sequence segment may be a FIN.)", `
			conn sack mss=1000 srtt=100 cwnd=10
			send n=2000
			close
			wait ms=202 => 202ms: seq=1001 len=999 fin psh ack=0 win=65535`},
		{"7.4.2 D-SACK", "Else if ACK has a DSACK option matching TLP.end_seq: TLP.end_seq = None /* Case 1, above */", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=2000
			wait ms=202
			recv ack=2000
			recv ack=2000 sack=1000-2000
			send n=1000
			recv ack=3000
			show => established una=3000 nxt=3000 end=3000 edge=67000 rcv=0 acked=0 cwnd=10 ssthresh=2147483647 recovery=0 rto=287.5ms held=0/0`},
		{"7.4.2 repaired", "The sender then SHOULD invoke a congestion control response equivalent to a fast recovery.", `
			conn sack mss=1000 srtt=100 cwnd=10 cc=reno
			send n=2000
			wait ms=202
			recv ack=2000
			send n=1000
			recv ack=3000
			show => established una=3000 nxt=3000 end=3000 edge=67000 rcv=0 acked=0 cwnd=2 ssthresh=2 recovery=0 rto=287.5ms held=0/0`},
	})
}
