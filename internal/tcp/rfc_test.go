package tcp_test

import (
	"strings"
	"testing"

	"toehold/internal/tcptest"
)

// A rule is a sentence of an RFC and what follows from it: lines of a script,
// each with the whole answer after "=>" (lines of it joined by "; ", "" when it
// does not matter).
type rule struct {
	section string
	says    string
	script  string
}

func checkRules(t *testing.T, rules []rule) {
	t.Helper()
	for _, r := range rules {
		t.Run(r.section, func(t *testing.T) { checkRule(t, r) })
	}
}

func checkRule(t *testing.T, r rule) {
	s := tcptest.NewScript()
	for line := range strings.Lines(r.script) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		do, want, check := strings.Cut(line, "=>")
		words := strings.Fields(do)
		args := tcptest.Args{}
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			args[key] = value
		}
		said, err := s.Do(words[0], args)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got := strings.ReplaceAll(strings.TrimSpace(said), "\n", "; ")
		if check && got != strings.TrimSpace(want) {
			t.Errorf("%q\n%s\nhas %s", r.says, line, got)
		}
	}
}

func TestRFC9293(t *testing.T) {
	checkRules(t, []rule{
		{"3.4", "Since the space is finite, all arithmetic dealing with sequence numbers must be performed modulo 2^32.", `
			conn mss=1000
			recv len=8000 size=1000 => event: readable; 0s: seq=0 ack=8000 win=65535
			recv len=1000           => event: readable; 0s: seq=0 ack=9000 win=65535
			send n=5000             => 0s: seq=0 len=5000 size=1000 psh ack=9000 win=65535
			recv ack=4500           => event: acked window`},
		{"3.5.2", "... any unacceptable segment (out-of-window sequence number or unacceptable acknowledgment number) must be responded to with an empty acknowledgment segment (without any user data) ...", `
			conn rcvwin=1000 rcvbuf=1000
			recv seq=2000 len=10 => event: dropped; 0s: seq=0 ack=0 win=1000`},
		{"3.6.1", "... it is possible for a connection to be \"half closed\", i.e., closed in only one direction, and a host is permitted to continue sending data in the open direction on a half-closed connection.", `
			conn
			recv fin     => event: peer-fin; 0s: seq=0 ack=1 win=65535
			send n=10    => 0s: seq=0 len=10 psh ack=1 win=65535`},
		{"3.8.6", "However, a sending TCP peer MUST be robust against window shrinking, which may cause the \"usable window\" (see Section 3.8.6.2.1) to become negative (MUST-34).", `
			conn win=10000 mss=1000
			send n=9000           => 0s: seq=0 len=9000 size=1000 psh ack=0 win=65535
			recv len=1
			recv len=1 win=500    => event: readable window; 0s: seq=500 ack=2 win=65535
			send n=1000           => nothing`},
		{"3.8.6.1", "The transmitting host SHOULD send the first zero-window probe when a zero window has existed for the retransmission timeout period (SHLD-29) (Section 3.8.1), and SHOULD increase exponentially the interval between successive probes (SHLD-30).", `
			conn win=0 srtt=100
			send n=1     => nothing
			wait ms=299  => nothing
			wait ms=1    => 300ms: seq=-1 ack=0 win=65535
			wait ms=599  => nothing
			wait ms=1    => 900ms: seq=-1 ack=0 win=65535
			wait ms=1200 => 2.1s: seq=-1 ack=0 win=65535`},
		{"3.8.6.2.1", "A TCP implementation MUST include a SWS avoidance algorithm in the sender (MUST-38).", `
			conn win=5000 mss=1000
			send n=4500         => 0s: seq=0 len=4500 size=1000 psh ack=0 win=65535
			send n=1000         => nothing
			recv ack=1000 win=4000 => event: acked
			recv ack=4500 win=5000 => event: acked window; 0s: seq=4500 len=1000 psh ack=0 win=65535`},
		{"3.8.6.2.2", "A TCP implementation MUST include a SWS avoidance algorithm in the receiver (MUST-39).", `
			conn mss=1000 rcvwin=4000 rcvbuf=4000
			recv len=500 => event: readable; 0s: seq=0 ack=500 win=3500
			read         => read: 500
			recv len=400 => event: readable; 0s: seq=0 ack=900 win=3100
			read         => read: 400
			recv len=200 => event: readable; 0s: seq=0 ack=1100 win=2900
			read         => read: 200
			recv len=1   => event: readable; 0s: seq=0 ack=1101 win=3999`},
		{"3.8.6.3", "An ACK SHOULD be generated for at least every second full-sized segment or 2*RMSS bytes of new data ...", `
			conn mss=1000
			recv len=16000 size=1000 => event: readable; 0s: seq=0 ack=16000 win=65535
			recv len=2000 size=1000  => event: readable; 0s: seq=0 ack=18000 win=65535`},
		{"3.10.4", "Queue this until all preceding SENDs have been segmentized, then form a FIN segment and send it.", `
			conn win=0
			send n=10
			close
			show => fin-wait-1 una=0 nxt=0 end=10 edge=0 rcv=0 acked=0 cwnd=10 ssthresh=2147483647 recovery=0 rto=1s held=10/0
			recv win=100 => event: window; 0s: seq=0 len=10 fin psh ack=0 win=65535`},
		{"3.10.7.4 fifth", "If the ACK acks something not yet sent (SEG.ACK > SND.NXT), then send an ACK, drop the segment, and return.", `
			conn
			recv ack=1 len=5 => event: out-of-step; 0s: seq=0 ack=0 win=65535
			show => established una=0 nxt=0 end=0 edge=64000 rcv=0 acked=0 cwnd=10 ssthresh=2147483647 recovery=0 rto=1s held=0/0`},
		{"3.10.7.4 eighth", "If the FIN bit is set, signal the user \"connection closing\" and return any pending RECEIVEs with same message, advance RCV.NXT over the FIN, and send an acknowledgment for the FIN.", `
			conn
			recv len=3 fin => event: readable peer-fin; 0s: seq=0 ack=4 win=65535
			recv seq=0 len=3 fin => event: duplicate; 0s: seq=0 ack=4 win=65535`},
	})
}

func TestRFC5681(t *testing.T) {
	checkRules(t, []rule{
		{"3.2", "After receiving 3 duplicate ACKs, TCP performs a retransmission of what appears to be the missing segment, without waiting for the retransmission timer to expire.", `
			conn mss=1000 srtt=100 cc=reno
			send n=5000
			recv ack=0 => nothing
			recv ack=0 => nothing
			recv ack=0 => 0s: seq=0 len=1000 ack=0 win=65535`},
		{"2", "An acknowledgment is considered a \"duplicate\" in the following algorithms when ... (b) the incoming acknowledgment carries no data ... (e) the advertised window in the incoming acknowledgment equals the advertised window in the last incoming acknowledgment.", `
			conn mss=1000 srtt=100 cc=reno
			send n=5000
			recv ack=0 len=1
			recv ack=0 len=1
			recv ack=0 len=1
			recv ack=0 win=64001 => event: window
			recv ack=0 win=64002 => event: window
			recv ack=0 win=64003 => event: window`},
		{"3.1", "Furthermore, upon a timeout (as specified in [RFC2988]) cwnd MUST be set to no more than the loss window, LW, which equals 1 full-sized segment (regardless of the value of IW).", `
			conn mss=1000 srtt=100 cc=reno
			send n=8000
			wait ms=300 => 300ms: seq=0 len=1000 ack=0 win=65535
			show => established una=0 nxt=8000 end=8000 edge=64000 rcv=0 acked=0 cwnd=1 ssthresh=4 recovery=2 rto=300ms held=8000/0`},
		{"3.1 constant", "On the other hand, when a TCP sender detects segment loss using the retransmission timer and the given segment has already been retransmitted by way of the retransmission timer at least once, the value of ssthresh is held constant.", `
			conn mss=1000 srtt=100 cc=reno
			send n=8000
			wait ms=300
			wait ms=600 => 900ms: seq=0 len=1000 ack=0 win=65535
			show => established una=0 nxt=8000 end=8000 edge=64000 rcv=0 acked=0 cwnd=1 ssthresh=4 recovery=2 rto=300ms held=8000/0`},
		{"4.2", "Out-of-order data segments SHOULD be acknowledged immediately, in order to accelerate loss recovery.", `
			conn mss=1000
			recv len=1000 times=16
			recv seq=16001 len=1 => 0s: seq=0 ack=16000 win=65535
			recv seq=16000 len=1 => event: readable; 0s: seq=0 ack=16002 win=65535`},
	})
}

func TestRFC6298(t *testing.T) {
	checkRules(t, []rule{
		{"5 (5.1)", "Every time a packet containing data is sent (including a retransmission), if the timer is not running, start it running so that it will expire after RTO seconds (for the current value of RTO).", `
			conn mss=1000 srtt=100
			send n=1
			wait ms=100
			send n=1
			wait ms=199 => nothing
			wait ms=1   => 300ms: seq=0 len=2 pieces=2 psh ack=0 win=65535`},
		{"5 (5.2)", "When all outstanding data has been acknowledged, turn off the retransmission timer.", `
			conn mss=1000 srtt=100
			send n=1
			recv ack=1
			wait ms=10000 => nothing`},
		{"5 (5.5)", "The host MUST set RTO <- RTO * 2 (\"back off the timer\").", `
			conn mss=1000 srtt=100
			send n=1
			wait ms=300 => 300ms: seq=0 len=1 psh ack=0 win=65535
			wait ms=599 => nothing
			wait ms=1   => 900ms: seq=0 len=1 psh ack=0 win=65535`},
		{"5, end", "Note that after retransmitting, once a new RTT measurement is obtained (which can only happen when new data has been sent and acknowledged), the computations outlined in Section 2 are performed, including the computation of RTO, which may result in \"collapsing\" RTO back down after it has been subject to exponential back off (rule 5.5).", `
			conn mss=1000 srtt=100
			send n=1
			wait ms=300
			recv ack=1
			send n=1
			wait ms=599 => nothing
			wait ms=1   => 900ms: seq=1 len=1 psh ack=0 win=65535
			recv ack=2
			send n=1
			wait ms=100
			recv ack=3
			send n=1
			wait ms=299 => nothing
			wait ms=1   => 1.3s: seq=3 len=1 psh ack=0 win=65535`},
		{"3", "That is, RTT samples MUST NOT be made using segments that were retransmitted (and thus for which it is ambiguous whether the reply was for the first instance of the packet or a later instance).", `
			conn mss=1000 srtt=100
			send n=1
			wait ms=5000
			recv ack=1
			show => established una=1 nxt=1 end=1 edge=64001 rcv=0 acked=0 cwnd=1 ssthresh=7 recovery=0 rto=300ms held=0/0`},
	})
}

func TestRFC2018(t *testing.T) {
	checkRules(t, []rule{
		{"4", "The first SACK block (i.e., the one immediately following the kind and length fields in the option) MUST specify the contiguous block of data containing the segment which triggered this ACK, unless that segment advanced the Acknowledgment Number field in the header.", `
			conn sack mss=1000
			recv seq=5000 len=10 => 0s: seq=0 ack=0 win=65535 sack=5000-5010
			recv seq=1000 len=10 => 0s: seq=0 ack=0 win=65535 sack=1000-1010,5000-5010
			recv seq=5010 len=10 => 0s: seq=0 ack=0 win=65535 sack=5000-5020,1000-1010`},
		{"3", "It is expected that SACK will often be used in conjunction with the Timestamp option ... thus a maximum of 3 SACK blocks will be allowed in this case.", `
			conn sack ts mss=1000
			recv seq=1000 len=10 tsval=100
			recv seq=2000 len=10 tsval=100
			recv seq=3000 len=10 tsval=100
			recv seq=4000 len=10 tsval=100 => 0s: seq=0 ack=0 win=65535 ts=0,100 sack=4000-4010,3000-3010,2000-2010`},
		{"5 skipped", "After the SACKed bit is turned on (as the result of processing a received SACK option), the data sender will skip that segment during any later retransmission.", `
			conn sack mss=1000 srtt=100 cc=none
			send n=10000
			recv sack=1000-4000          => 0s: seq=0 len=1000 ack=0 win=65535
			recv sack=6000-9000,1000-4000 => 0s: seq=4000 len=2000 size=1000 ack=0 win=65535`},
		{"5", "The data sender MUST retransmit the segment at the left edge of the window after a retransmit timeout, whether or not the SACKed bit is on for that segment.", `
			conn sack mss=1000 srtt=100 cc=none
			send n=4000
			recv sack=1000-4000
			wait ms=100
			recv ack=1000 => event: acked window
			wait ms=43 => nothing
			wait ms=1  => 143.750062ms: seq=1000 len=3000 size=1000 psh ack=0 win=65535`},
	})
}

func TestRFC2883(t *testing.T) {
	checkRules(t, []rule{
		{"4 (1), (2)", "A D-SACK block is only used to report a duplicate contiguous sequence of data received by the receiver in the most recent packet.", `
			conn sack mss=1000
			recv len=1000
			recv seq=0 len=1000 => event: duplicate; 0s: seq=0 ack=1000 win=65535 sack=0-1000
			recv seq=2000 len=9  => 0s: seq=0 ack=1000 win=65535 sack=2000-2009`},
		{"4 (4)", "If the D-SACK block reports a duplicate contiguous sequence from a (possibly larger) block of data in the receiver's data queue above the cumulative acknowledgement, then the second SACK block in that SACK option should specify that (possibly larger) block of data.", `
			conn sack mss=1000
			recv seq=1000 len=3000 size=1000
			recv seq=2000 len=1000 => event: duplicate; 0s: seq=0 ack=0 win=65535 sack=2000-3000,1000-4000`},
		{"5", "If the SACK sequence space is less than this cumulative ACK, it is an indication that the segment identified by the SACK block has been received more than once by the receiver.", `
			conn sack mss=1000 srtt=100
			send n=3000
			wait ms=100
			recv ack=2000 sack=0-1000 => event: acked window
			recv ack=2000 sack=500-1500 => nothing
			show => established una=2000 nxt=3000 end=3000 edge=66000 rcv=0 acked=0 cwnd=10 ssthresh=2147483647 recovery=0 rto=300ms held=1000/0`},
	})
}

func TestRFC5961(t *testing.T) {
	checkRules(t, []rule{
		{"3.2 (2)", "If the RST bit is set and the sequence number exactly matches the next expected sequence number (RCV.NXT), then TCP MUST reset the connection.", `
			conn
			recv len=5
			recv seq=5 rst => event: reset`},
		{"3.2 (3)", "If the RST bit is set and the sequence number does not exactly match the next expected sequence value, yet is within the current receive window ... TCP MUST send an acknowledgment (challenge ACK) ...", `
			conn
			recv seq=77 rst => event: dropped; 0s: seq=0 ack=0 win=65535`},
		{"3.2 (1)", "If the RST bit is set and the sequence number is outside the current receive window, silently drop the segment.", `
			conn
			recv seq=70000 rst => event: dropped`},
		{"4.2", "If the SYN bit is set, irrespective of the sequence number, TCP MUST send an ACK (also referred to as challenge ACK) to the remote peer ...", `
			conn
			recv seq=-5000 syn => event: dropped; 0s: seq=0 ack=0 win=65535`},
		{"5.2", "The ACK value is considered acceptable only if it is in the range of ((SND.UNA - MAX.SND.WND) <= SEG.ACK <= SND.NXT).", `
			conn
			recv ack=-70000 len=5 => event: dropped; 0s: seq=0 ack=0 win=65535
			recv ack=-10 len=5 => event: readable; 0s: seq=0 ack=5 win=65535`},
		{"7", "... in any 5 second window, no more than 10 challenge ACKs should be sent.", `
			conn
			recv syn seq=5 times=9
			recv syn seq=5 => event: dropped; 0s: seq=0 ack=0 win=65535
			recv syn seq=5 => event: dropped
			recv rst seq=5 => event: dropped
			wait ms=5000
			recv rst seq=5 => event: dropped; 5s: seq=0 ack=0 win=65535`},
		{"7 and data", "(Data, which no loop of acknowledgments is made of, is answered beyond that: the peer may have lost our acknowledgments.)", `
			conn rcvwin=100 rcvbuf=100
			recv syn seq=5 times=11
			recv seq=1000 len=5 => event: dropped; 0s: seq=0 ack=0 win=100`},
		{"3.2, through", "(Acknowledging through, a peer without state resets with what it last saw acknowledged.)", `
			conn through
			recv len=10
			recv seq=0 rst => event: reset
			conn through
			recv len=10
			recv seq=10 rst => event: reset
			conn through
			recv len=10
			recv seq=5 rst => event: dropped; 0s: seq=0 ack=0 win=64000`},
	})
}

func TestRFC7323(t *testing.T) {
	checkRules(t, []rule{
		{"4.3 (2)", "If: SEG.TSval >= TS.Recent and SEG.SEQ <= Last.ACK.sent then SEG.TSval is copied to TS.Recent; otherwise, it is ignored.", `
			conn ts mss=1000
			recv len=1000 times=16 tsval=101
			recv len=10 tsval=102 => event: readable
			recv len=10 tsval=103 => event: readable
			wait ms=40 => 40ms: seq=0 ack=16020 win=65535 ts=40,102`},
		{"5.3 R1", "If there is a Timestamps option in the arriving segment, SEG.TSval < TS.Recent, TS.Recent is valid (see later discussion), and if the RST bit is not set, then treat the arriving segment as not acceptable ...", `
			conn ts
			recv len=10 tsval=99 => event: dropped; 0s: seq=0 ack=0 win=65535 ts=0,100`},
		{"2.3", "The window field (SEG.WND) of every outgoing segment, with the exception of <SYN> segments, MUST be right-shifted by Rcv.Wind.Shift bits ...", `
			conn shift=4 rcvwin=100000 rcvbuf=100000
			recv len=16 win=500000 => event: readable window; 0s: seq=0 ack=16 win=99984
			show => established una=0 nxt=0 end=0 edge=500000 rcv=16 acked=16 cwnd=10 ssthresh=2147483647 recovery=0 rto=1s held=0/16`},
	})
}

func TestRFC6675(t *testing.T) {
	checkRules(t, []rule{
		{"4 IsLost", "The routine returns true when either DupThresh discontiguous SACKed sequences have arrived above 'SeqNum' or more than (DupThresh - 1) * SMSS bytes with sequence numbers greater than 'SeqNum' have been SACKed.", `
			conn sack mss=1000 srtt=100 cc=none
			send n=10000
			recv sack=5000-7000 => nothing
			recv sack=5000-7001 => 0s: seq=0 len=5000 size=1000 ack=0 win=65535`},
		{"5 (4.2)", "ssthresh = cwnd = (FlightSize / 2)", `
			conn sack mss=1000 srtt=100 cc=reno
			send n=10000
			wait ms=100
			recv sack=1000-4000 => 100ms: seq=0 len=1000 ack=0 win=65535
			wait ms=100
			recv ack=10000
			show => established una=10000 nxt=10000 end=10000 edge=74000 rcv=0 acked=0 cwnd=5 ssthresh=5 recovery=0 rto=300ms held=0/0`},
		{"4 NextSeg (1)", "(1.a) S2 is greater than HighRxt.", `
			conn sack mss=1000 srtt=100 cc=none
			send n=10000
			recv sack=1000-4000 => 0s: seq=0 len=1000 ack=0 win=65535
			recv sack=1000-5000 => nothing
			recv sack=6000-9000,1000-5000 => 0s: seq=5000 len=1000 ack=0 win=65535
			recv sack=6000-10000,1000-5000 => nothing`},
		{"4 NextSeg (4)", "If the conditions for (1), (2), and (3) fail, but there exists outstanding unSACKed data, we provide the opportunity for a single \"rescue\" retransmission per entry into loss recovery.", `
			conn sack mss=1000 srtt=100 cc=reno
			send n=10000
			wait ms=100
			recv sack=1000-9000 => 100ms: seq=0 len=1000 ack=0 win=65535
			wait ms=100
			recv ack=9000 => event: acked window; 200ms: seq=9000 len=1000 psh ack=0 win=65535`},
		{"5 (A)", "An incoming cumulative ACK for a sequence number greater than RecoveryPoint signals the end of loss recovery, and the loss recovery phase MUST be terminated.", `
			conn sack mss=1000 srtt=100 cc=reno
			send n=10000
			wait ms=100
			recv sack=1000-4000
			wait ms=100
			recv ack=9999
			show => established una=9999 nxt=10000 end=10000 edge=73999 rcv=0 acked=0 cwnd=5 ssthresh=5 recovery=1 rto=300ms held=1/0
			wait ms=100
			recv ack=10000
			show => established una=10000 nxt=10000 end=10000 edge=74000 rcv=0 acked=0 cwnd=5 ssthresh=5 recovery=0 rto=300ms held=0/0`},
	})
}

func TestRFC6582(t *testing.T) {
	checkRules(t, []rule{
		{"3.2 (3)", "If this ACK does *not* acknowledge all of the data up to and including recover, then this is a partial ACK.", `
			conn mss=1000 srtt=100 cc=reno
			send n=10000
			recv ack=0
			recv ack=0
			recv ack=0
			recv ack=3000 => event: acked window; 0s: seq=3000 len=1000 ack=0 win=65535`},
		{"3.2 (4)", "After a retransmit timeout, record the highest sequence number transmitted in the variable recover, and exit the fast recovery procedure if applicable.", `
			conn mss=1000 srtt=100 cc=reno
			send n=3000
			wait ms=300
			recv ack=3000
			send n=5000
			recv ack=3000
			recv ack=3000
			recv ack=3000 => nothing`},
	})
}
