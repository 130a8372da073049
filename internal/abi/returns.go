package abi

import "time"

// Returns say when a device gives a connection back that gains nothing there,
// or that costs it too much. What is zero is no reason.
type Returns struct {
	Idle       time.Duration // for so long no segment came or went
	Loss       float64       // part of the segments sent that were sent again
	Reordering float64       // part of the segments received that came after a gap
	Fragments  float64       // part of the peer's segments that came as IP fragments
	SmallIO    float64       // octets of payload that a segment carries on average, at the least
}
