// Package handover decides how connections move between the software stack
// and a device. It is pure: answers of the device and the time come in; calls
// of Hands and outcomes go out.
//
// An offload and its undo, step by step:
//
//	step      what it does                                  undo
//	Probe     read the kernel's state, refuse what cannot   nothing was changed
//	Admit     the device takes a slot and starts to pass    Release
//	Steer     the flow's frames go by the device            Unsteer
//	Probe     read the kernel's state again: every frame    nothing was changed
//	          since Steer has been copied by the device
//	Describe  write the block's kernel-level part           nothing: a block without an owner is not read
//	Own       the device answers for the connection         Pass
//
// An upload: Pass, Unsteer, Inherit, Release. There is no way back from Unsteer, and
// none is needed: the kernel has the connection.
//
// At any of these points both stacks can carry the connection, since the device
// acknowledges nothing that its destination has not. So each undo may be
// skipped when the device does not answer: un-steering alone is always safe,
// it costs a retransmission at worst.
//
// From there a connection goes into bypass and comes back: see bypass.go. In bypass
// the kernel alone cannot carry it, and what un-steering is above is done by Rebuild,
// with the device's help or without it.
package handover
