package tcp_test

import "testing"

func TestRFC1337(t *testing.T) {
	checkRules(t, []rule{
		{"3 (F1)", "Ignore RST segments in TIME-WAIT state. If the 2 minute MSL is enforced, this fix avoids all three hazards.", `
			conn
			close
			recv fin ack=1
			recv seq=1 ack=1 rst => event: dropped
			show => time-wait una=1 nxt=1 end=0 edge=64001 rcv=1 acked=1 cwnd=10 ssthresh=2147483647 recovery=0 rto=200.001ms held=0/0`},
		{"3 (F1), through", "(Acknowledging through, that is for the program's socket to say: it gets the RST.)", `
			conn through
			close
			recv fin ack=1
			recv seq=1 ack=1 rst => event: reset`},
		{"2", "(An old duplicate of data in TIME-WAIT is answered and not taken in.)", `
			conn
			recv len=100
			close
			recv fin ack=1
			recv seq=0 len=100 ack=1 => event: duplicate; 0s: seq=1 ack=101 win=65535
			read => read: 100`},
	})
}

// What RFC 6191 lets a SYN do in TIME-WAIT is for who listens; the engine has
// no listener and says which connection is still there.
func TestRFC6191(t *testing.T) {
	checkRules(t, []rule{
		{"2", "Otherwise, silently drop the incoming SYN segment, thus leaving the previous incarnation of the connection in the TIME-WAIT state. (Here with an acknowledgment, as RFC 5961 has it.)", `
			conn ts
			close
			recv fin ack=1 tsval=100
			recv syn seq=70000 tsval=5000 => event: dropped; 0s: seq=1 ack=1 win=65535 ts=0,100
			show => time-wait una=1 nxt=1 end=0 edge=64001 rcv=1 acked=1 cwnd=10 ssthresh=2147483647 recovery=0 rto=200.001ms held=0/0`},
	})
}
