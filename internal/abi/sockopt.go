package abi

// OffloadOption is the number of the socket option TOEHOLD_OFFLOAD at level
// SOL_TCP, which Linux does not use. To set it takes a Wish as an int; to get
// it gives a SocketOffload, or as many fields of it as there is room for.
// docs/SOCKET-OPTION.md is about it.
const OffloadOption = 0x7061

// A Wish is what a program wants for its connection.
type Wish uint32

// The wishes.
const (
	WishAuto  Wish = iota // as the daemon and its policy decide
	WishNever             // not to be on a device: it goes home, and is refused from then on
	WishNow               // to be on a device at once; the policy leaves it there
)

// A SeatPlace is where a connection is, as its program is told.
type SeatPlace uint32

// The places.
const (
	SeatKernel SeatPlace = iota
	SeatMoving
	SeatDevice
)

// A SocketOffload is what a program is told of its connection.
type SocketOffload struct {
	Place  SeatPlace
	Wish   Wish
	HWID   HWID     // 0 in the kernel
	Reason [40]byte // name of the Reason of the last move or refusal
}
