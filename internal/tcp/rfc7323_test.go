package tcp_test

import "testing"

func TestRFC7323Timestamps(t *testing.T) {
	checkRules(t, []rule{
		{"3.2", "Once TSopt has been successfully negotiated ... the TSopt MUST be sent in every non-<RST> segment for the duration of the connection ...", `
			conn ts
			recv len=10 tsval=100 => event: readable; 0s: seq=0 ack=10 win=65535 ts=0,100
			send n=10             => 0s: seq=0 len=10 psh ack=10 win=65535 ts=0,100
			wait ms=1000          => 1s: seq=0 len=10 psh ack=10 win=65535 ts=1000,100
			abort                 => 1s: seq=10 rst ack=10 win=65535 ts=1000,100`},
		{"3.2 none", "If a TSopt is received on a connection where TSopt was not negotiated in the initial three-way handshake, the TSopt MUST be ignored and the packet processed normally.", `
			conn
			recv len=10 tsval=1 => event: readable; 0s: seq=0 ack=10 win=65535
			recv len=10 tsval=0 => event: readable; 0s: seq=0 ack=20 win=65535`},
		{"3.2 missing", "If a non-<RST> segment is received without a TSopt, a TCP SHOULD silently drop the segment. (Here it passes, as in Linux: middleboxes take options away.)", `
			conn ts
			recv len=10 => event: readable; 0s: seq=0 ack=10 win=65535 ts=0,100`},
		{"4.3 (A)", "... when delayed ACKs are in use, the receiver SHOULD reply with the TSval field from the earliest unacknowledged segment.", `
			conn ts mss=1000
			recv len=10 times=16 tsval=101
			recv len=10 tsval=102
			recv len=10 tsval=103
			wait ms=40 => 40ms: seq=0 ack=180 win=65535 ts=40,102`},
		{"4.3 (B)", "An <ACK> for an out-of-order segment SHOULD, therefore, contain the timestamp from the most recent segment that advanced RCV.NXT.", `
			conn ts
			recv len=10 tsval=101
			recv seq=20 len=10 tsval=102 => 0s: seq=0 ack=10 win=65535 ts=0,101`},
		{"4.3 (C)", "(The segment that fills a gap: its timestamp is echoed, though later ones have come.)", `
			conn ts
			recv len=10 tsval=101
			recv seq=20 len=10 tsval=105
			recv seq=10 len=10 tsval=103 => event: readable; 0s: seq=0 ack=30 win=65535 ts=0,103`},
		{"5.2 RST", "When an <RST> segment is received, it MUST NOT be subjected to the PAWS check by verifying an acceptable value in SEG.TSval, and information from the Timestamps option MUST NOT be used to update connection state information.", `
			conn ts
			recv rst tsval=1 => event: reset`},
		{"5.3 R1", "If there is a Timestamps option in the arriving segment, SEG.TSval < TS.Recent, TS.Recent is valid (see later discussion), and if the RST bit is not set, then treat the arriving segment as not acceptable ...", `
			conn ts
			recv len=10 tsval=101
			recv len=10 tsval=100    => event: dropped; 0s: seq=0 ack=10 win=65535 ts=0,101
			recv seq=5 len=10 tsval=100 => event: dropped; 0s: seq=0 ack=10 win=65535 ts=0,101`},
		{"5.2 wraps", "(A timestamp s is before t if 0 < t - s < 2^31, modulo 2^32.)", `
			conn ts
			recv len=10 tsval=0x7fffff00
			recv len=10 tsval=0xfffffe00 => event: readable; 0s: seq=0 ack=20 win=65535 ts=0,4294966784
			recv len=10 tsval=5          => event: readable; 0s: seq=0 ack=30 win=65535 ts=0,5`},
		{"5.3 R3", "If an arriving segment satisfies SEG.TSval >= TS.Recent and SEG.SEQ <= Last.ACK.sent (see Section 4.3), then record its timestamp in TS.Recent.", `
			conn ts
			recv len=10 tsval=101
			recv tsval=200        => nothing
			recv seq=9 len=1 tsval=199 => event: dropped; 0s: seq=0 ack=10 win=65535 ts=0,200`},
		{"5.5", "We therefore require that an implementation of PAWS include a mechanism to \"invalidate\" the TS.Recent value when a connection is idle for more than 24 days.", `
			conn ts
			recv len=10 tsval=101
			wait ms=2073599000
			recv len=10 tsval=90 => event: dropped; 575h59m59s: seq=0 ack=10 win=65535 ts=2073599000,101
			wait ms=1000
			recv len=10 tsval=90 => event: readable; 576h0m0s: seq=0 ack=20 win=65535 ts=2073600000,90`},
		{"5.5, at rest", "(The age of TS.Recent crosses with the connection.)", `
			conn ts
			recv len=10 tsval=101
			read
			wait ms=2073599000
			move
			wait ms=1000
			recv len=10 tsval=90 => event: readable; 576h0m0s: seq=0 ack=20 win=65535 ts=2073600000,90`},
	})
}
