package handover

import (
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// A Phase is how far a connection is on its way. In the phases from Admitting
// on it has a place in the Table.
type Phase uint8

// The phases, in the order of an offload and an upload.
const (
	Admitting Phase = 1 + iota // Admit was sent
	Owning                     // steered and described; Own was sent
	Owned                      // the device has the connection
	Passing                    // Pass was sent; still steered
	Releasing                  // not steered any more; Release was sent

	// Between shadow and bypass; steered.
	Attaching  // a channel is being tied to S
	Joining    // Join was sent
	Draining   // the program reads what S has
	Diverting  // the channel is open; Divert was sent
	Parting    // Part was sent
	Rebuilding // the program is frozen, and S is being brought in step
	Resuming   // Resume was sent
	phases
)

var phaseNames = [phases]string{
	"kernel", "admitting", "owning", "owned", "passing", "releasing",
	"attaching", "joining", "draining", "diverting", "parting", "rebuilding", "resuming",
}

// String is the phase's name in lower case.
func (p Phase) String() string { return phaseNames[p] }

// A Path is the way to the peer, as routes and neighbours had it.
type Path struct {
	NextHop, Source [6]byte // link addresses; zero on an uplink without link header
	MTU             uint32  // octets of IP packet
}

// A Candidate is a connection to offload whose route has been checked.
type Candidate struct {
	Flow    flow.ID
	Path    Path
	Control [16]byte // congestion control on the device; zero: the socket's
	Bypass  bool     // it is to go on from shadow to bypass
}

// A Conn is one connection of a Table.
type Conn struct {
	Flow     flow.ID
	Key      flow.Key
	HWID     abi.HWID // 0 until admitted
	Phase    Phase
	Path     Path
	State    abi.KernelState // as last probed
	Leash    uint32          // the hands': segments of the congestion window that they gave the socket, 0 none
	Loose    mono.Time       // the hands': when they did,
	LooseUna uint32          // and the device's snd.una then

	Given      uint32 // sequence number that S is to receive next, once joined
	Attachment uint8  // abi.Attach...: bypass from Open until S has been rebuilt

	bypass   bool       // it is on its way into bypass,
	promoted bool       // from shadow, where it rested
	stays    bool       // on its way out of bypass, it is to stay in shadow
	undoing  bool       // it could not leave bypass
	orphan   bool       // the device is of no use for its way out of bypass
	recalled abi.Reason // it is to go home as soon as it rests
	short    abi.Reason // why it stayed in shadow

	strays    int   // how often the way into bypass was begun anew
	attaching bool  // a channel is being made
	attached  *Step // how that has ended, while it is yet to be gone on with

	control  [16]byte  // congestion control that the device is to use, zero: the socket's
	ticket   uint64    // of the request that the present move serves, 0 none
	since    mono.Time // start of the present move
	arrived  mono.Time // when the kernel had it again, 0 not yet
	deadline mono.Time // of the answer awaited, 0 none
	allowed  time.Duration
	end      Kind       // what the way home that it is on will have been
	reason   abi.Reason // why it is on its way home
	detail   string
	stall    time.Duration
	bytes    uint64
}

// Reason is why the connection is on its way home, None when it is not.
func (c *Conn) Reason() abi.Reason { return c.reason }

// Control is the congestion control that the device is to use, padded with zeros.
func (c *Conn) Control() [16]byte {
	if c.control != ([16]byte{}) {
		return c.control
	}
	return c.State.CongestionControl
}

// A Kind is what became of a move.
type Kind uint8

// The kinds of outcome.
const (
	Offloaded Kind = 1 + iota // the device has it
	Refused                   // an offload or upload did not take place; the connection is where it was
	Uploaded                  // the kernel has it
	Over                      // it ended while the device had it
	Shadowed                  // the device has it, in shadow again
	Bypassed                  // the device has it, in bypass now
)

var kindNames = [...]string{"", "offloaded", "refused", "uploaded", "over", "shadowed", "bypassed"}

// String is the kind's name in lower case.
func (k Kind) String() string { return kindNames[k] }

// An Outcome is the end of one move of one connection.
type Outcome struct {
	Kind   Kind
	Ticket uint64 // of the request, 0 when it happened by itself
	Flow   flow.ID
	HWID   abi.HWID
	Inode  uint64 // of the program's socket, 0 when it was not seen or not accepted yet
	Reason abi.Reason
	Detail string
	Took   time.Duration // from the start of the move until the device, or the kernel, had the connection
	Stall  time.Duration // how long neither stack could send, as the device says
	Bytes  uint64        // octets that the device held at that moment

	Attachment uint8      // abi.Attach...
	Short      abi.Reason // why an Offloaded one is in shadow when bypass was wanted; the Detail says more
}

// Verdict says what keeps a connection in this state from being offloaded.
func Verdict(s *abi.KernelState) abi.Reason {
	for _, v := range specials {
		if s.Special&v.bit != 0 {
			return v.reason
		}
	}
	if s.State != tcpEstablished && s.State != tcpCloseWait {
		return abi.NotEstablished
	}
	return abi.None
}

// include/net/tcp_states.h
const (
	tcpEstablished = 1
	tcpCloseWait   = 8
)

// specials is in the order of what an operator wants to hear first.
var specials = [...]struct {
	bit    uint32
	reason abi.Reason
}{
	{abi.SpecialMissing, abi.NoConnection},
	{abi.SpecialMPTCP, abi.MPTCP},
	{abi.SpecialMD5, abi.TCPMD5},
	{abi.SpecialAO, abi.TCPAO},
	{abi.SpecialULP, abi.ULP},
	{abi.SpecialSockmap, abi.Sockmap},
	{abi.SpecialRepair, abi.Repair},
	{abi.SpecialIPOptions, abi.IPOptions},
	{abi.SpecialUrgent, abi.UrgentData},
	{abi.SpecialAccECN, abi.ECN},
}
