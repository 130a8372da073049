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
package tcp
