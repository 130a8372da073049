package tcp_test

import "testing"

func TestRFC3168Sender(t *testing.T) {
	checkRules(t, []rule{
		{"6.1.2 once a window", "TCP should not react to congestion indications more than once every window of data (or more loosely, more than once every round-trip time).", `
			conn ecn mss=1000 cwnd=20 cc=reno srtt=100
			send n=8000
			recv ack=7000 ece
			send n=500 => 0s: seq=8000 len=500 psh cwr ect0 ack=0 win=65535
			recv ack=7500 ece
			send n=500 => 0s: seq=8500 len=500 psh ect0 ack=0 win=65535
			recv ack=8000 ece
			send n=500 => 0s: seq=9000 len=500 psh ect0 ack=0 win=65535
			recv ack=9500 ece
			send n=500 => 0s: seq=9500 len=500 psh cwr ect0 ack=0 win=65535`},
		{"6.1.2 CWR", "When the TCP data sender is ready to set the CWR bit after reducing the congestion window, it SHOULD set the CWR bit only on the first new data packet that it transmits.", `
			conn ecn mss=1000 cwnd=10 cc=reno
			send n=10000
			recv ack=9000 ece
			send n=100 => 0s: seq=10000 len=100 psh cwr ect0 ack=0 win=65535
			send n=100 => 0s: seq=10100 len=100 psh ect0 ack=0 win=65535`},
		{"6.1.2 for any reason", "When an ECN-Capable TCP sender reduces its congestion window for any reason (because of a retransmit timeout, a Fast Retransmit, or in response to an ECN Notification), the TCP sender sets the CWR flag in the TCP header of the first new data packet sent after the window reduction.", `
			conn ecn mss=1000 cwnd=10 cc=reno srtt=100
			send n=3000
			wait ms=300 => 300ms: seq=0 len=1000 ack=0 win=65535
			recv ack=3000
			send n=1000 => 300ms: seq=3000 len=1000 psh cwr ect0 ack=0 win=65535`},
		{"6.1.2 ECT", "For a TCP connection using ECN, new data packets are transmitted with an ECT codepoint set in the IP header.", `
			conn ecn
			send n=10 => 0s: seq=0 len=10 psh ect0 ack=0 win=65535
			conn
			send n=10 => 0s: seq=0 len=10 psh ack=0 win=65535
			recv ack=10 ece
			send n=10 => 0s: seq=10 len=10 psh ack=0 win=65535`},
		{"6.1.4", "For the current generation of TCP congestion control algorithms, pure acknowledgement packets (e.g., packets that do not contain any accompanying data) MUST be sent with the not-ECT codepoint.", `
			conn ecn
			recv len=10 ect0 => event: readable; 0s: seq=0 ack=10 win=65535
			recv len=10 ce   => event: readable marked; 0s: seq=0 ece ack=20 win=65535`},
		{"6.1.5", "This document specifies ECN-capable TCP implementations MUST NOT set either ECT codepoint (ECT(0) or ECT(1)) in the IP header for retransmitted data packets ...", `
			conn ecn mss=1000 srtt=100
			send n=10
			wait ms=300 => 300ms: seq=0 len=10 psh ack=0 win=65535`},
		{"6.1.6", "Therefore, the TCP data sender MUST NOT set either an ECT codepoint or the CWR bit on window probe packets.", `
			conn ecn cwr-due win=0 srtt=100
			send n=10
			wait ms=300  => 300ms: seq=-1 ack=0 win=65535
			recv win=100 => event: window; 300ms: seq=0 len=10 psh cwr ect0 ack=0 win=65535`},
		{"6.1.2, through", "(Towards the program's socket there is no congestion window: its ECE reduces nothing, and is not answered.)", `
			conn ecn through cc=none
			send n=1000
			recv ece
			send n=1000 => 0s: seq=1000 len=1000 psh ect0 ack=0 win=64000`},
	})
}

func TestRFC3168Receiver(t *testing.T) {
	checkRules(t, []rule{
		{"6.1.3", "After a TCP receiver sends an ACK packet with the ECN-Echo bit set, that TCP receiver continues to set the ECN-Echo flag in all the ACK packets it sends (whether they acknowledge CE data packets or non-CE data packets) until it receives a CWR packet (a packet with the CWR flag set).", `
			conn ecn mss=1000
			recv len=1000 ce   => event: readable marked; 0s: seq=0 ece ack=1000 win=65535
			recv len=1000 ect0 => event: readable; 0s: seq=0 ece ack=2000 win=65535
			send n=10          => 0s: seq=0 len=10 psh ece ect0 ack=2000 win=65535
			recv len=1000 ack=10 cwr ect0 => event: readable acked window reduced; 0s: seq=10 ack=3000 win=65535`},
		{"6.1.3 CWR", "If another CE packet is received by the data receiver, the receiver would once again send ACK packets with the ECN-Echo flag set.", `
			conn ecn mss=1000
			recv len=1000 ce
			recv len=1000 ce cwr   => event: readable marked reduced; 0s: seq=0 ece ack=2000 win=65535
			recv len=1000 ect0 cwr => event: readable reduced; 0s: seq=0 ack=3000 win=65535
			recv len=1000 ect0     => event: readable; 0s: seq=0 ack=4000 win=65535`},
		{"6.1.5", "... and that the TCP data receiver SHOULD ignore the ECN field on arriving data packets that are outside of the receiver's current window.", `
			conn ecn mss=1000 rcvwin=10000 rcvbuf=10000
			recv len=1000            => event: readable; 0s: seq=0 ack=1000 win=9000
			recv seq=0 len=1000 ce   => event: duplicate; 0s: seq=0 ack=1000 win=9000
			recv seq=50000 len=10 ce => event: dropped; 0s: seq=0 ack=1000 win=9000`},
		{"6.1.3, through", "(Acknowledging through it is told at once, whatever the program's socket has yet acknowledged.)", `
			conn ecn through
			recv len=10 ect0 => event: readable
			recv len=10 ce   => event: readable marked
			permit ack=5     => 0s: seq=0 ece ack=5 win=64000`},
	})
}
