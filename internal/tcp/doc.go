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
// RFC 9293 with its extensions; docs/RFC.md has each rule, where it is and the
// test of it. What is in flight is a scoreboard of transmissions (flights): from
// it RACK-TLP (rack, tlp) tells losses by time, PRR (prr) brings the window
// down, F-RTO, Eifel and D-SACK (rto, undo) take back what was for nothing, and
// the delivery rate (rate) is measured. Congestion control is an interface with
// CUBIC and HyStart++, Reno, DCTCP and BBR behind it; pacing, window
// validation (cwv), ECN and path MTU (pmtu) stand beside.
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
// A Conn is 840 octets, of which 120 are counters, and its congestion control
// has 24 to 184 more. Spans wait in rings that grow as needed and are given back
// when the connection has been idle for a second. One segment causes work in proportion
// to its own spans, and at most maxFlights transmissions to look at, maxRanges
// ranges or, after a gap, maxPending spans to move. What is received holds
// memory within Options.MaxOOO after a gap and RcvBuf with MaxOOO in order, whole
// buffers counted. What Send queued is the caller's to bound.
package tcp
