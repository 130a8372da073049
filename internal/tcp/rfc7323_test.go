package tcp_test

import "testing"

func TestRFC7323Timestamps(t *testing.T) {
	checkRules(t, []rule{
		{"3.2", "Once TSopt has been successfully negotiated ... the TSopt MUST be sent in every non-<RST> segment for the duration of the connection, and SHOULD be sent in an <RST> segment.", `
			conn ts
			recv len=10 tsval=100 => event: readable; 0s: seq=0 ack=10 win=65535 ts=0,100
			send n=10             => 0s: seq=0 len=10 psh ack=10 win=65535 ts=0,100
			wait ms=1000          => 1s: seq=0 len=10 psh ack=10 win=65535 ts=1000,100
			abort                 => 1s: seq=10 rst ack=10 win=65535 ts=1000,100`},
		{"3.2 none", "If a TSopt is not negotiated it is neither sent nor heeded.", `
			conn
			recv len=10 tsval=1 => event: readable; 0s: seq=0 ack=10 win=65535
			recv len=10 tsval=0 => event: readable; 0s: seq=0 ack=20 win=65535`},
		{"4.3 (2), delayed", "(A) If the ACKs are delayed, the TSecr is that of the earliest segment that is acknowledged.", `
			conn ts mss=1000
			recv len=10 times=16 tsval=101
			recv len=10 tsval=102
			recv len=10 tsval=103
			wait ms=40 => 40ms: seq=0 ack=180 win=65535 ts=40,102`},
		{"4.3 (2), gap", "(B) A segment after a gap: its timestamp is not echoed, but that of the last one that advanced the window.", `
			conn ts
			recv len=10 tsval=101
			recv seq=20 len=10 tsval=102 => 0s: seq=0 ack=10 win=65535 ts=0,101`},
		{"4.3 (2), filled", "(C) The segment that fills a gap: its timestamp is echoed, though later ones have come.", `
			conn ts
			recv len=10 tsval=101
			recv seq=20 len=10 tsval=105
			recv seq=10 len=10 tsval=103 => event: readable; 0s: seq=0 ack=30 win=65535 ts=0,103`},
		{"5.2 RST", "It is recommended that ... <RST> segments ... be acceptable regardless of their timestamp.", `
			conn ts
			recv rst tsval=1 => event: reset`},
		{"5.3 R1", "If there is a Timestamps option in the arriving segment, SEG.TSval < TS.Recent, TS.Recent is valid (see later discussion), and if the RST bit is not set, then treat the arriving segment as not acceptable: Send an acknowledgement in reply ... and drop the segment.", `
			conn ts
			recv len=10 tsval=101
			recv len=10 tsval=100    => event: dropped; 0s: seq=0 ack=10 win=65535 ts=0,101
			recv seq=5 len=10 tsval=100 => event: dropped; 0s: seq=0 ack=10 win=65535 ts=0,101`},
		{"5.3 R1 wraps", "A timestamp s is less than a timestamp t if 0 < (t - s) < 2^31, computed in unsigned 32-bit arithmetic.", `
			conn ts
			recv len=10 tsval=0x7fffff00
			recv len=10 tsval=0xfffffe00 => event: readable; 0s: seq=0 ack=20 win=65535 ts=0,4294966784
			recv len=10 tsval=5          => event: readable; 0s: seq=0 ack=30 win=65535 ts=0,5`},
		{"5.3 R3", "If an arriving segment satisfies SEG.TSval >= TS.Recent and SEG.SEQ <= Last.ACK.sent, then record its timestamp in TS.Recent.", `
			conn ts
			recv len=10 tsval=101
			recv tsval=200        => nothing
			recv seq=9 len=1 tsval=199 => event: dropped; 0s: seq=0 ack=10 win=65535 ts=0,200`},
		{"5.5", "... if the connection has been idle for more than 24 days, TS.Recent is invalid: an outdated timestamp must not make every segment unacceptable.", `
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
