package tcp_test

import "testing"

func TestRFC5482(t *testing.T) {
	checkRules(t, []rule{
		{"abstract", "The TCP user timeout controls how long transmitted data may remain unacknowledged before a connection is forcefully closed.", `
			conn srtt=100 mss=1000
			set user-timeout=1000
			send n=2000
			wait ms=500
			recv ack=1000
			wait ms=999
			wait ms=1    => event: timed-out`},
		{"1, nothing waits", "(An idle connection is not closed by it.)", `
			conn
			set user-timeout=1000
			wait ms=1000000 => nothing
			send n=10       => 16m40s: seq=0 len=10 psh ack=0 win=65535
			wait ms=999
			recv ack=10     => event: acked window
			wait ms=1000000 => nothing`},
		{"3", "(The option itself, by which an end tells the other its user timeout, is neither sent nor heeded: as in Linux.)", `
			conn
			set user-timeout=1000
			send n=10 => 0s: seq=0 len=10 psh ack=0 win=65535`},
		{"1, through", "(Acknowledging through, the program's socket gives up.)", `
			conn through srtt=100
			set user-timeout=100
			send n=10
			wait ms=299 => nothing`},
	})
}
