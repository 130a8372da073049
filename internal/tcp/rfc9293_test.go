package tcp_test

import "testing"

// Closing: the states from ESTABLISHED on.
func TestRFC9293Closing(t *testing.T) {
	const rest = "edge=64001 rcv=1 acked=1 cwnd=10 ssthresh=2147483647 recovery=0"
	checkRules(t, []rule{
		{"3.10.7.4 FIN, ESTABLISHED", "Enter the CLOSE-WAIT state.", `
			conn
			recv fin => event: peer-fin; 0s: seq=0 ack=1 win=65535
			show     => close-wait una=0 nxt=0 end=0 edge=64000 rcv=1 acked=1 cwnd=10 ssthresh=2147483647 recovery=0 rto=1s held=0/0`},
		{"3.10.7.4 FIN, FIN-WAIT-1", "If our FIN has been ACKed (perhaps in this segment), then enter TIME-WAIT, start the time-wait timer, turn off the other timers; otherwise, enter the CLOSING state.", `
			conn
			close
			recv fin ack=1
			show     => time-wait una=1 nxt=1 end=0 ` + rest + ` rto=200.001ms held=0/0
			conn
			close
			recv fin ack=0
			show     => closing una=0 nxt=1 end=0 edge=64000 rcv=1 acked=1 cwnd=10 ssthresh=2147483647 recovery=0 rto=1s held=0/0`},
		{"3.10.7.4 FIN, FIN-WAIT-2", "Enter the TIME-WAIT state. Start the time-wait timer, turn off the other timers.", `
			conn
			close
			recv ack=1
			recv fin ack=1
			show     => time-wait una=1 nxt=1 end=0 ` + rest + ` rto=200.001ms held=0/0`},
		{"3.10.7.4 ACK, CLOSING", "In addition to the processing for the ESTABLISHED state, if the ACK acknowledges our FIN, then enter the TIME-WAIT state; otherwise, ignore the segment.", `
			conn
			close
			recv fin ack=0
			recv seq=1 ack=0 => nothing
			recv seq=1 ack=1
			show     => time-wait una=1 nxt=1 end=0 ` + rest + ` rto=200.001ms held=0/0`},
		{"3.10.7.4 ACK, LAST-ACK", "If our FIN is now acknowledged, delete the TCB, enter the CLOSED state, and return.", `
			conn
			recv fin
			close    => 0s: seq=0 fin ack=1 win=65535
			recv seq=1 ack=1
			show     => closed una=1 nxt=1 end=0 ` + rest + ` rto=200.001ms held=0/0`},
		{"3.10.7.4 TIME-WAIT", "The only thing that can arrive in this state is a retransmission of the remote FIN. Acknowledge it, and restart the 2 MSL timeout.", `
			conn
			close
			recv fin ack=1
			wait ms=59000
			recv fin seq=0 ack=1 => event: duplicate; 59s: seq=1 ack=1 win=65535
			wait ms=59999
			show     => time-wait una=1 nxt=1 end=0 ` + rest + ` rto=200.001ms held=0/0
			wait ms=1
			show     => closed una=1 nxt=1 end=0 ` + rest + ` rto=200.001ms held=0/0`},
		{"3.6 half-closed", "The user who CLOSEs may continue to RECEIVE until the TCP receiver is told that the remote peer has CLOSED also.", `
			conn
			close
			recv ack=1
			recv len=50 ack=1     => event: readable; 0s: seq=1 ack=50 win=65535
			recv len=50 fin ack=1 => event: readable peer-fin; 0s: seq=1 ack=101 win=65535
			read                  => read: 100`},
		{"3.6 case 3", "When all segments preceding the FINs have been processed and acknowledged, each TCP peer can ACK the FIN it has received.", `
			conn
			send n=10
			close                 => 0s: seq=10 fin ack=0 win=65535
			recv len=20 fin ack=0 => event: readable peer-fin; 0s: seq=11 ack=21 win=65535
			recv seq=21 ack=11
			wait ms=60000
			show => closed una=11 nxt=11 end=10 edge=64011 rcv=21 acked=21 cwnd=10 ssthresh=2147483647 recovery=0 rto=200.001ms held=0/20`},
		{"3.10.7.4 seventh", "This should not occur since a FIN has been received from the remote side. Ignore the segment text.", `
			conn
			recv len=5 fin
			recv seq=6 len=100
			recv seq=50 len=100
			read => read: 5`},
		{"3.10.7.4 FIN after a gap", "(The FIN is processed when all before it is there.)", `
			conn
			recv seq=10 len=5 fin => 0s: seq=0 ack=0 win=65535
			recv seq=0 len=10     => event: readable peer-fin; 0s: seq=0 ack=16 win=65535`},
	})
}

// What an unacceptable segment is answered with.
func TestRFC9293Unacceptable(t *testing.T) {
	checkRules(t, []rule{
		{"3.10.7.4 first", "If an incoming segment is not acceptable, an acknowledgment should be sent in reply (unless the RST bit is set, if so drop the segment and return).", `
			conn rcvwin=1000 rcvbuf=1000
			recv seq=2000 len=10     => event: dropped; 0s: seq=0 ack=0 win=1000
			recv seq=-10 len=5       => event: duplicate; 0s: seq=0 ack=0 win=1000
			recv seq=2000 len=10 rst => event: dropped`},
		{"3.10.7.4 first, zero window", "If the RCV.WND is zero, no segments will be acceptable, but special allowance should be made to accept valid ACKs, URGs, and RSTs.", `
			conn rcvwin=100 rcvbuf=100
			send n=10
			recv len=100         => event: readable; 0s: seq=10 ack=100 win=0
			recv seq=100 ack=10  => event: acked window
			recv seq=100 len=1 ack=10 => 0s: seq=10 ack=100 win=0
			recv seq=100 rst     => event: reset`},
		{"3.10.7.4 first, trimmed", "One could tailor actual segments to fit this assumption by trimming off any portions that lie outside the window (including SYN and FIN) and only processing further if the segment then begins at RCV.NXT.", `
			conn rcvwin=1000 rcvbuf=1000
			recv seq=-50 len=100   => event: readable; 0s: seq=0 ack=50 win=950
			recv seq=40 len=2000   => event: readable; 0s: seq=0 ack=1000 win=0
			read                   => read: 1000; 0s: seq=0 ack=1000 win=1000`},
		{"3.10.7.4 fifth, no ACK", "if the ACK bit is off, drop the segment and return", `
			conn
			recv len=10 noack => event: dropped`},
	})
}

func TestRFC9293Nagle(t *testing.T) {
	checkRules(t, []rule{
		{"3.7.4", "If there is unacknowledged data (i.e., SND.NXT > SND.UNA), then the sending TCP endpoint buffers all user data (regardless of the PSH bit) until the outstanding data has been acknowledged or until the TCP endpoint can send a full-sized segment (Eff.snd.MSS bytes).", `
			conn nagle mss=1000
			send n=10    => 0s: seq=0 len=10 psh ack=0 win=65535
			send n=500   => nothing
			send n=600   => 0s: seq=10 len=1000 pieces=2 ack=0 win=65535
			recv ack=1010 => event: acked window; 0s: seq=1010 len=100 psh ack=0 win=65535`},
		{"3.7.4 (Minshall)", "(The variant that Linux has: unacknowledged full-sized segments do not count.)", `
			conn nagle mss=1000
			send n=3000  => 0s: seq=0 len=3000 size=1000 psh ack=0 win=65535
			send n=10    => 0s: seq=3000 len=10 psh ack=0 win=65535
			send n=10    => nothing`},
		{"3.7.4 MUST-17", "However, there MUST be a way for an application to disable the Nagle algorithm on an individual connection (MUST-17).", `
			conn nagle mss=1000
			set nodelay=on
			send n=10    => 0s: seq=0 len=10 psh ack=0 win=65535
			send n=10    => 0s: seq=10 len=10 psh ack=0 win=65535`},
		{"3.7.4, through", "(Acknowledging through, the program's own socket has decided what may go.)", `
			conn nagle mss=1000 through
			send n=10    => 0s: seq=0 len=10 psh ack=0 win=64000
			send n=10    => 0s: seq=10 len=10 psh ack=0 win=64000`},
	})
}

// Silly windows (RFC 9293, sections 3.8.6.2.1 and 3.8.6.2.2; RFC 1122, section
// 4.2.3.3 and 4.2.3.4).
func TestRFC9293SillyWindows(t *testing.T) {
	checkRules(t, []rule{
		{"3.8.6.2.1 (1)", "if a maximum-sized segment can be sent, i.e., if: min(D,U) >= Eff.snd.MSS;", `
			conn mss=1000 win=2500
			send n=10000 => 0s: seq=0 len=2000 size=1000 ack=0 win=65535`},
		{"3.8.6.2.1 (2)", "or if the data is pushed and all queued data can be sent now, i.e., if: [SND.NXT = SND.UNA and] PUSHed and D <= U", `
			conn mss=1000 win=2500
			send n=300   => 0s: seq=0 len=300 psh ack=0 win=65535`},
		{"3.8.6.2.1 (3)", "or if at least a fraction Fs of the maximum window can be sent, i.e., if: [SND.NXT = SND.UNA and] min(D,U) >= Fs * Max(SND.WND);", `
			conn mss=1000 win=800
			send n=10000 => 0s: seq=0 len=800 ack=0 win=65535
			recv ack=800 win=399 => event: acked window
			recv ack=800 win=400 => event: window; 0s: seq=800 len=400 ack=0 win=65535`},
		{"3.8.6.2.1 (4)", "The override timeout should be in the range 0.1 - 1.0 seconds.", `
			conn mss=1000 win=5000 srtt=100
			send n=10000
			recv ack=5000 win=10 => event: acked window
			wait ms=287          => nothing
			wait ms=1            => 287.500125ms: seq=5000 len=10 ack=0 win=65535`},
		{"3.8.6.2.2", "The suggested SWS avoidance algorithm for the receiver is to keep RCV.NXT+RCV.WND fixed until the reduction satisfies: RCV.BUFF - RCV.USER - RCV.WND >= min( Fr * RCV.BUFF, Eff.snd.MSS )", `
			conn mss=1000 rcvwin=10000 rcvbuf=10000
			recv len=9500 size=1000 => event: readable; 0s: seq=0 ack=9500 win=500
			recv len=500            => event: readable; 0s: seq=0 ack=10000 win=0
			wait ms=1000            => nothing
			read                    => read: 10000; 1s: seq=0 ack=10000 win=10000`},
		{"3.8.6.2.2, small buffer", "RCV.BUFF - RCV.USER - RCV.WND >= min( Fr * RCV.BUFF, Eff.snd.MSS )", `
			conn mss=1000 rcvwin=600 rcvbuf=600
			recv len=250 => event: readable; 0s: seq=0 ack=250 win=350
			read
			recv len=40  => event: readable; 0s: seq=0 ack=290 win=310
			read
			recv len=20  => event: readable; 0s: seq=0 ack=310 win=290
			read         => read: 20; 0s: seq=0 ack=310 win=600`},
		{"3.8.6 SHLD-14", "A TCP receiver SHOULD NOT shrink the window, i.e., move the right window edge to the left (SHLD-14).", `
			conn mss=1000 rcvwin=10000 rcvbuf=4000
			recv len=1000 => event: readable; 0s: seq=0 ack=1000 win=9000`},
	})
}

func TestRFC9293DelayedACK(t *testing.T) {
	quick := `
			conn mss=1000
			recv len=10 times=16`
	checkRules(t, []rule{
		{"3.8.6.3", "A TCP endpoint SHOULD implement a delayed ACK (SHLD-18), but an ACK should not be excessively delayed; in particular, the delay MUST be less than 0.5 seconds (MUST-40).", quick + `
			recv len=10 => event: readable
			wait ms=40  => 40ms: seq=0 ack=170 win=65535
			recv len=10
			wait ms=80
			recv len=10
			wait ms=200
			recv len=10
			wait ms=400
			recv len=10 => event: readable
			wait ms=200 => 920ms: seq=0 ack=210 win=65535`},
		{"3.8.6.3 SHLD-19", "An ACK SHOULD be generated for at least every second full-sized segment or 2*RMSS bytes of new data (where RMSS is the MSS specified by the TCP endpoint receiving the segments to be acknowledged, or the default value if not specified) (SHLD-19).", quick + `
			recv len=1000 => event: readable
			recv len=1000 => event: readable; 0s: seq=0 ack=2160 win=65535
			recv len=900
			recv len=900  => event: readable; 0s: seq=0 ack=3960 win=65535`},
		{"3.10.7.4 seventh, with data", "This acknowledgment should be piggybacked on a segment being transmitted if possible without incurring undue delay.", quick + `
			recv len=10 => event: readable
			send n=5    => 0s: seq=0 len=5 psh ack=170 win=65535
			wait ms=199 => nothing`},
		{"3.8.6.3, through", "(Acknowledging through, the program's socket delays: as soon as it has acknowledged, so do we.)", `
			conn mss=1000 through
			recv len=10   => event: readable
			wait ms=1000  => nothing
			permit ack=10 => 1s: seq=0 ack=10 win=64000`},
	})
}

func TestRFC9293Keepalive(t *testing.T) {
	checkRules(t, []rule{
		{"3.8.4 MUST-25", "If keep-alives are included, the application MUST be able to turn them on or off for each TCP connection (MUST-24), and they MUST default to off (MUST-25).", `
			conn
			wait ms=100000000 => nothing`},
		{"3.8.4 MUST-24", "If keep-alives are included, the application MUST be able to turn them on or off for each TCP connection (MUST-24), and they MUST default to off (MUST-25).", `
			conn
			set keepalive idle=1000 interval=1000 count=9
			wait ms=1000 => 1s: seq=-1 ack=0 win=65535
			set keepalive idle=0
			wait ms=100000000 => nothing`},
		{"3.8.4 MUST-26 outstanding", "Keep-alive packets MUST only be sent when no sent data is outstanding, and no data or acknowledgment packets have been received for the connection within an interval (MUST-26).", `
			conn srtt=100
			set keepalive idle=500 interval=1000 count=9
			send n=10
			wait ms=800 => 300ms: seq=0 len=10 psh ack=0 win=65535`},
		{"3.8.4 MUST-26 received", "Keep-alive packets MUST only be sent when no sent data is outstanding, and no data or acknowledgment packets have been received for the connection within an interval (MUST-26).", `
			conn
			set keepalive idle=500 interval=1000 count=9
			wait ms=400
			recv len=10
			wait ms=400 => nothing
			recv
			wait ms=499 => nothing
			wait ms=1   => 1.3s: seq=-1 ack=10 win=65535`},
		{"3.8.4 MUST-29", "Consequently, if a keep-alive mechanism is implemented it MUST NOT interpret failure to respond to any specific probe as a dead connection (MUST-29).", `
			conn
			set keepalive idle=1000 interval=1000 count=3
			wait ms=3000 => 1s: seq=-1 ack=0 win=65535; 2s: seq=-1 ack=0 win=65535; 3s: seq=-1 ack=0 win=65535
			recv
			wait ms=1000 => 4s: seq=-1 ack=0 win=65535`},
		{"3.8.4 SHLD-12", "An implementation SHOULD send a keep-alive segment with no data (SHLD-12) ...", `
			conn
			set keepalive idle=1000
			wait ms=1000  => 1s: seq=-1 ack=0 win=65535
			wait ms=74999 => nothing
			wait ms=1     => 1m16s: seq=-1 ack=0 win=65535`},
		{"3.8.4, through", "(Acknowledging through, the program's socket asks; what it asks is passed on.)", `
			conn through
			set keepalive idle=1000
			wait ms=1000000 => nothing
			probe           => 16m40s: seq=-1 ack=0 win=64000`},
	})
}

func TestRFC9293GivingUp(t *testing.T) {
	checkRules(t, []rule{
		{"3.8.3 (d)", "An application MUST (MUST-21) be able to set the value for R2 for a particular connection.", `
			conn srtt=100
			send n=10
			wait ms=86400000
			recv ack=10 => event: acked window
			set user-timeout=1000
			send n=10
			wait ms=999
			wait ms=1   => event: timed-out`},
		{"3.8.3 (c)", "When the number of transmissions of the same segment reaches a threshold R2 greater than R1, close the connection.", `
			conn srtt=100
			set user-timeout=3000
			send n=10
			wait ms=2999 => 300ms: seq=0 len=10 psh ack=0 win=65535; 900ms: seq=0 len=10 psh ack=0 win=65535; 2.1s: seq=0 len=10 psh ack=0 win=65535
			wait ms=1    => event: timed-out
			recv ack=10  => event: dropped`},
		{"3.8.6.1 MUST-37", "As long as the receiving TCP peer continues to send acknowledgments in response to the probe segments, the sending TCP peer MUST allow the connection to stay open (MUST-37).", `
			conn srtt=100 win=0
			send n=10
			wait ms=86400000
			recv win=0   => nothing
			recv win=100 => event: window; 24h0m0s: seq=0 len=10 psh ack=0 win=65535`},
		{"3.8.6.1", "The transmitting host SHOULD send the first zero-window probe when a zero window has existed for the retransmission timeout period (SHLD-29) (Section 3.8.1), and SHOULD increase exponentially the interval between successive probes (SHLD-30).", `
			conn srtt=100 win=0
			send n=10
			wait ms=300  => 300ms: seq=-1 ack=0 win=65535
			recv win=0
			wait ms=599  => nothing
			wait ms=1    => 900ms: seq=-1 ack=0 win=65535
			recv win=0
			wait ms=1200 => 2.1s: seq=-1 ack=0 win=65535`},
	})
}
