// Package tcp is the device's TCP engine, one end of a connection, without
// I/O: segments, user bytes and the time go in; segments, user bytes and the
// next deadline come out. It has no clock, no goroutine, no lock and no log,
// and allocates nothing per segment.
//
// # How it is driven
//
//	var c tcp.Conn
//	err := c.Restore(now, &snapshot, options)
//	events := c.Receive(now, &segment)  // from the wire
//	for c.Next(&span) { … }             // in-order bytes; the caller now owns the reference
//	c.Send(span)                        // bytes to send; the engine takes over the reference
//	c.CloseSend()                       // FIN after them
//	c.Advance(now)                      // when c.Deadline() has passed
//	for c.Output(now, &out) { … }       // segments to transmit, until there is none
//
// # Acknowledging through
//
// With Options.Through the engine acknowledges and opens its window only as
// Permit tells it: the device joins two engines, one towards the peer, one
// towards the program's socket, in one sequence space, and each may
// acknowledge only what the other one's correspondent has acknowledged.
// Without it the engine is an ordinary TCP endpoint with a receive buffer.
//
// Acknowledging through, nothing of the engine's own opens a window again that
// the other end closed: when its window update is lost, only a probe that is
// passed on brings it back. So who joins two engines answers Probed at one of
// them with AckNow there and Probe at the other.
//
// # What it does
//
// RFC 9293, with 2018 and 2883 (SACK), 5681, 6582 and 6675 (recovery), 3042
// (limited transmit), 5961 (blind attacks), 6298 (timeout; Linux's floor of
// 200 ms), 7323 (timestamps, scaling), 3168 and 8257 (ECN, DCTCP), 7661 (window
// validation), 9406 (HyStart++) and 9438 (CUBIC). A file holds a mechanism:
// send and queue, recv, reasm and ranges, accept, ack, sack, recovery, rto, rtt,
// congestion with cubic, hystart, reno, dctcp, bbr and cwv, ecn, window,
// through, close, timestamp, timer, output; and of what a program sets delack,
// nagle, keepalive, autotune.
//
// Without Through it is a whole endpoint and also does what a program sets of
// a socket: Nagle and TCP_CORK, delayed acknowledgments and TCP_QUICKACK,
// keepalive, the user timeout, buffers that tune themselves. With Through the
// program's own socket does, and its setters here do nothing.
//
// It gives a connection up by keepalive or by the user timeout (TimedOut) and
// by nothing else: while nobody acknowledges, it backs off to two minutes and
// goes on. Whether a connection is worth that is for the program's own socket,
// whose octets are not acknowledged either, or for who drives the engine.
//
// # What it costs
//
// A Conn is about 1000 octets, of which 170 are counters. Spans wait in rings
// that grow as needed and are given back when the connection has been idle for
// a second. One segment causes work in proportion to its own spans, and to at
// most maxRanges SACK ranges or, after a gap, maxPending spans to move.
// What is received holds memory within Options.MaxOOO after a gap and RcvBuf
// with MaxOOO in order, whole buffers counted. What Send queued is the
// caller's to bound.
package tcp
