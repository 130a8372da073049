// Package abi is what driver, device and BPF programs agree on: the layout of
// the memory they share and the messages between driver and device. The
// layout is pinned by a golden file; internal/bpf/c/toehold.h says the same
// in C.
package abi

import (
	"fmt"
	"strconv"
	"strings"

	"toehold/internal/flow"
)

// Version is the version of everything in this package. Driver and device
// refuse each other when theirs differ.
const Version = 14

// HWID is a hardware connection identifier: index into the device's table in
// the lower 32 bits, generation of that slot in the upper ones. Generations
// start at 1, so 0 names no connection, and a stale id never names a new one:
// the driver gives every device that it starts Generations of its own.
type HWID uint64

// MakeHWID builds an identifier.
func MakeHWID(index, generation uint32) HWID {
	return HWID(uint64(generation)<<32 | uint64(index))
}

// Index is the slot in the device's table and in the block table.
func (h HWID) Index() uint32 { return uint32(h) }

// Generation counts the uses of the slot.
func (h HWID) Generation() uint32 { return uint32(h >> 32) }

// Generations are those that a device gives to its slots: First, First+Step
// and so on. The devices of one driver have the same Step, which is their
// number, and a First of their own, later than all of their predecessors'.
type Generations struct {
	First, Step uint32
}

// After returns the generations from the first one on that is later than
// latest.
func (g Generations) After(latest uint32) Generations {
	g.Step = max(g.Step, 1)
	if g.First <= latest {
		g.First += ((latest-g.First)/g.Step + 1) * g.Step
	}
	return g
}

// String is "index-generation", and "" for no connection.
func (h HWID) String() string {
	if h == 0 {
		return ""
	}
	return fmt.Sprintf("%d-%d", h.Index(), h.Generation())
}

// ParseHWID reads what String writes.
func ParseHWID(s string) (HWID, error) {
	i, g, ok := strings.Cut(s, "-")
	index, err1 := strconv.ParseUint(i, 10, 32)
	generation, err2 := strconv.ParseUint(g, 10, 32)
	if !ok || err1 != nil || err2 != nil || generation == 0 {
		return 0, fmt.Errorf("hardware id %q is not of the form INDEX-GENERATION", s)
	}
	return MakeHWID(uint32(index), uint32(generation)), nil
}

// Marks that tell the project's own frames from others at the uplink's tcx
// programs, which clear them.
const (
	MarkWire   = 0x70e40001 // device to peer
	MarkInject = 0x70e40002 // device to the program's socket
)

// MaxDeadHops is how many next hops of an uplink the driver may name dead at a
// time. Connections of more go on sending to nobody, which does no harm.
const MaxDeadHops = 7

// DeadHop is a link address as it stands in Control.DeadHops.
func DeadHop(link [6]byte) uint64 {
	return uint64(link[0])<<40 | uint64(link[1])<<32 | uint64(link[2])<<24 | uint64(link[3])<<16 | uint64(link[4])<<8 | uint64(link[5])
}

// A Pulse is what a device says of itself: element 0 of the BPF array "pulse". It alone
// writes it.
type Pulse struct {
	Heartbeat uint64 // CLOCK_MONOTONIC ns
	Load      Load
}

// A Control is the memory that the steering programs and the driver share
// about one device: element 0 of the BPF array "control". The device may read it.
type Control struct {
	StaleAfter uint64 // ns after which a heartbeat is stale; written by the driver
	Fenced     uint32 // not 0: the device is shut off; set by driver and BPF, cleared by the driver alone
	HostPort   uint32 // interface index of the host port; written by the driver
	Uplink     uint32 // interface index of the uplink; written by the driver
	LinkHeader uint32 // octets of the uplink's link header, 14 or 0; written by the driver
	ToDevice   uint64 // frames of S turned to the device; written by BPF
	Injected   uint64 // frames from the device handed to the kernel; written by BPF
	Dropped    uint64 // wire frames kept from the kernel since the device has them; written by BPF
	Bypassed   uint64 // frames of steered flows let through to the kernel because the device is stale or fenced; written by BPF
	Fences     uint64 // times a stale heartbeat fenced the device; written by BPF
	// Link addresses of next hops that do not answer, as DeadHop has them; 0: none. What
	// would go there waits; written by the driver.
	DeadHops  [MaxDeadHops]uint64
	Bypassing uint32 // flows that are Bypassed, so that nobody looks for them while there are none; written by the driver
	_         [4]byte
}

// A FlowEntry is the value of the BPF hash "flows", keyed by flow.Key.
type FlowEntry struct {
	HWID           HWID
	Mark, Priority uint32 // of S's last frame, with Seen; written by BPF
	Seen           uint32 // not 0: a frame of S has come
	Bypassed       uint32 // not 0: S is behind the wire, and gets none of its frames whoever is alive; written by the driver
}

// Flags of a connection that its options were negotiated with, and its state.
const (
	FlagTimestamps  = 1 << iota // RFC 7323 timestamps on every segment
	FlagSACK                    // RFC 2018 permitted
	FlagWindowScale             // RFC 7323 scaling negotiated
	FlagECN                     // RFC 3168 negotiated
	FlagPeerFIN                 // the peer's FIN has been received in order
	FlagLocalFIN                // S has sent its FIN
	FlagEchoCE                  // S says ECE until the peer says CWR
	FlagCWRDue                  // S has reduced its window and is yet to say CWR
)

// A KernelState is kernel-level state of a connection as the software stack
// has it. All 8- and 16-octet fields come first so that there is no padding.
type KernelState struct {
	Cookie                    uint64
	BytesSent                 uint64 // acknowledged by the peer (tcpi_bytes_acked)
	BytesReceived             uint64
	CongestionControl         [16]byte // name, zero padded
	SndUna, SndNxt, WriteSeq  uint32
	RcvNxt, CopiedSeq, RcvWup uint32
	SndWnd, RcvWnd            uint32 // octets, scaled
	ISS, IRS                  uint32 // 0: the kernel does not keep it
	SRTT                      uint32 // us
	RTTVar                    uint32 // us
	MinRTT                    uint32 // us
	RTO                       uint32 // us, before back-off
	SndCwnd                   uint32 // segments
	SndSsthresh               uint32 // segments
	MSS                       uint32 // octets of payload a segment carries now (mss_cache)
	TSOffset                  uint32 // ms, added to the monotonic clock
	TSRecent                  uint32
	Retransmits               uint32 // segments retransmitted in all
	BoundIf                   uint32 // interface index S is bound to, 0 none
	UID                       uint32
	Inode                     uint64
	SndWscale, RcvWscale      uint8  // shifts: of the peer's window, of ours
	State                     uint8  // TCP_ESTABLISHED ...
	Flags                     uint8  // Flag...
	Special                   uint32 // Special...: what makes a socket not offloadable
	PacingRate, MaxPacingRate uint64 // octets/s; all ones: no limit
	TSRecentAge               uint32 // s since TSRecent was set
	Sacked, Lost, Resent      uint32 // segments in flight: SACKed, held for lost, retransmitted
	Delivered, DeliveredCE    uint32 // segments in all; of them reported as marked
	RcvSsthresh               uint32 // octets, up to which the window may grow now
	Reordering                uint32 // segments, the largest distance taken for reordering
	ReorderingSeen            uint32 // times that it was seen
	Idle                      uint32 // ms since the peer was last heard
	UserTimeout               uint32 // ms, 0: none of its own
	KeepTime, KeepInterval    uint32 // ms, the namespace's where the socket has none of its own
	KeepProbes                uint8  // unanswered ones that end the connection
	ProbesOut                 uint8  // window and keepalive probes without an answer
	Timeouts                  uint8  // retransmission timeouts in a row
	Backoff                   uint8  // times that RTO is doubled now
	CAState                   uint8  // TCP_CA_Open 0, Disorder, CWR, Recovery, Loss
	Keepalive                 uint8  // not 0: SO_KEEPALIVE is on
	ReoWndSteps               uint8  // RACK's reordering window, in quarters of the least RTT
	_                         [5]byte
	Cubic                     CubicState // zero unless CongestionControl is cubic
	DCTCP                     DCTCPState // dctcp
	BBR                       BBRState   // bbr
	Socket                    SocketState
}

// A SocketState is socket-level state of a connection: what its program has
// set.
type SocketState struct {
	SndBuf, RcvBuf uint32 // octets of memory at most
	SendMemory     uint32 // octets of memory that the send queue takes
	RcvLowat       uint32 // octets that wake a reader; 0: one
	NotSentLowat   uint32 // octets not sent up to which a writer is woken; all ones: no limit
	Priority, Mark uint32
	Linger         uint32 // ms, with SocketLinger
	TTL            uint8  // or hop limit; 0: the route's
	TOS            uint8  // or traffic class
	Shutdown       uint8  // Shutdown...
	Flags          uint8  // Socket...
	SndBufMost     uint32 // octets that SndBuf may grow to
}

// Options of a socket.
const (
	SocketNoDelay   = 1 << iota // TCP_NODELAY
	SocketCork                  // TCP_CORK
	SocketKeepalive             // SO_KEEPALIVE
	SocketLinger                // SO_LINGER
	SocketSndBuf                // SO_SNDBUF was set: the kernel does not tune it
	SocketRcvBuf                // SO_RCVBUF
)

// Sides of a socket that are shut down.
const (
	ShutdownRead = 1 << iota
	ShutdownWrite
)

// A CubicState is the private state of cubic (struct bictcp). Windows are in
// segments.
type CubicState struct {
	LastMaxCwnd, Origin, TCPCwnd uint32
	K                            uint32 // us
	EpochAge                     uint32 // ms since the epoch began
	DelayMin                     uint32 // us
	InEpoch                      uint8  // not 0: Origin, K, EpochAge, TCPCwnd mean something
	Found                        uint8  // not 0: HyStart has found the end of slow start
	_                            [2]byte
}

// A DCTCPState is the private state of dctcp (struct dctcp).
type DCTCPState struct {
	Alpha    uint32 // 1/1024
	LossCwnd uint32 // segments
	CE       uint32 // not 0: the last data segment was marked
}

// A BBRState is the private state of bbr (struct bbr of version 1).
type BBRState struct {
	Bandwidth     uint64 // octets/s, maximum of ten rounds
	FullBandwidth uint64 // octets/s, the last that counted as growth
	LongTerm      uint64 // octets/s, of a policer; 0: not in use
	MinRTT        uint32 // us
	MinRTTAge     uint32 // ms
	CycleAge      uint32 // us since the phase began
	PriorCwnd     uint32 // segments
	ExtraAcked    uint32 // segments
	PacingGain    uint16 // 1/256
	CwndGain      uint16 // 1/256
	Mode          uint8  // tcb.BBRMode
	CycleIndex    uint8
	FullCount     uint8
	Filled        uint8 // not 0: the pipe is full
	_             [4]byte
}

// What a socket may be that keeps it from being offloaded.
const (
	SpecialMD5 = 1 << iota
	SpecialAO
	SpecialMPTCP
	SpecialULP
	SpecialUrgent
	SpecialIPOptions
	SpecialRepair
	SpecialSockmap
	SpecialMissing // the kernel has no full socket for the flow
	SpecialAccECN
)

// A KernelPart is the kernel-level part of a block. Its writer is the driver.
type KernelPart struct {
	Sequence uint64 // odd while it is written
	HWID     HWID
	Key      flow.Key
	State    KernelState
	NextHop  [6]byte  // link address of the next hop, as the neighbour table has it
	Source   [6]byte  // link address of the uplink
	PathMTU  uint32   // octets of IP packet
	Control  [16]byte // congestion control that the device is to use; zero: the one it was offered with
}

// A SocketPart is the socket-level part of a block. Its writer is the driver.
type SocketPart struct {
	Sequence       uint64
	HWID           HWID
	Queued, Unread uint32 // octets written and not acknowledged; received and not read
	State          SocketState
}

// A HardwarePart is the hardware-level part of a block. Its writer is the
// device.
type HardwarePart struct {
	Sequence                         uint64
	HWID                             HWID
	Place                            uint8 // Place...
	State                            uint8 // tcb.State
	Recovery                         uint8 // 0 open, 1 recovery, 2 loss
	Attachment                       uint8 // Attach...
	SndUna, SndNxt, RcvNxt, RcvAcked uint32
	SndWnd, RcvWnd                   uint32 // octets
	SRTT, RTTVar, RTO                uint32 // us
	Cwnd, Ssthresh                   uint32 // segments
	HeldOut, HeldIn                  uint32 // octets of the program's and of the peer's held by the device
	Reason                           uint32 // Reason, last
	MinRTT                           uint32 // us, 0: not measured
	BytesSent, BytesReceived         uint64 // since the offload, first transmissions only
	SegsSent, SegsReceived           uint64
	Retransmits                      uint64 // segments
	OutOfOrder                       uint64 // segments
	CongestionControl                [16]byte
	BytesResent                      uint64     // octets of Retransmits
	DeliveryRate, PacingRate         uint64     // octets/s, 0: not known
	Unacked, Sacked, Lost, Resent    uint32     // segments in flight, and of these SACKed, held for lost, sent again
	MSS                              uint32     // octets of payload a segment carries now
	Cubic                            CubicState // means something if CongestionControl is cubic
	PrivateAt                        uint64     // CLOCK_MONOTONIC ns at which Cubic and BBR were so, 0: not known
	BBR                              BBRState   // bbr
	_                                [32]byte
}

// How the device is joined to the program's socket S.
const (
	AttachShadow = iota // S's TCP speaks with the device's
	AttachBypass        // octets cross by a channel; S's TCP stands still
)

// A ChannelPart is about the channel of a bypassed connection: a kernel socket
// C that is tied to S by a sockmap. BPF programs count in it; Open and Limit are
// the driver's. Counts begin at 0 when S and C are tied.
type ChannelPart struct {
	Out    uint64 // octets that the program sent which went to C
	In     uint64 // octets sent on C which went to S
	Read   uint64 // of In, read by the program
	ReadAt uint64 // CLOCK_MONOTONIC ns of its last read, 0: none yet
	Passed uint64 // times that something the program sent stayed with S's TCP
	Open   uint32 // not 0: what the program sends goes to C
	Limit  uint32 // octets that may wait in C
	Flags  uint32 // Channel...
	OutAt  uint32 // CLOCK_MONOTONIC ms, modulo 2^32, at which Out last grew
	Taken  uint64 // of Out, received from C
}

// What a program did with its socket.
const (
	ChannelLeftUnread   = 1 << iota // it closed the socket with octets of In unread
	ChannelRcvLowat                 // it set SO_RCVLOWAT
	ChannelZeroCopy                 // SO_ZEROCOPY
	ChannelNotSentLowat             // TCP_NOTSENT_LOWAT
	ChannelClosed                   // nobody has the socket any more
	ChannelOption                   // another option that S's TCP alone obeys
)

// RingSize is the memory, in octets, that the host keeps for what a bypassed
// connection has sent and the peer has not acknowledged: the octet with sequence
// number q is at q modulo RingSize of the ring at the hardware id's index.
const RingSize = 4 << 20

// A LedgerPart says what of a bypassed connection the device has in its care; the
// host rebuilds S from it (docs/CRASH.md). Its writer is the device. Sequence
// numbers are the wire's, but for HostNxt.
type LedgerPart struct {
	Sequence  uint64 // odd while it is written
	HWID      HWID
	Taken     uint64 // octets received from C, all of them in the ring
	Delivered uint64 // octets sent on C
	SndUna    uint32 // nothing from here on is overwritten in the ring
	SndStart  uint32 // the ring has what is from here on,
	SndEnd    uint32 // and before this
	RcvStart  uint32 // of the first octet delivered by C
	HostNxt   uint32 // S's TCP has been taken from up to here, in its own sequence numbers
	_         [12]byte
}

// BlockSize is the size of a Block in octets.
const BlockSize = 960

// A Block is one connection in the block table (BPF array "blocks", mmapped
// by driver and device), at its hardware id's index.
type Block struct {
	Kernel   KernelPart
	Socket   SocketPart
	Hardware HardwarePart
	Ledger   LedgerPart
	Channel  ChannelPart
	// The peer's segments that came as IP fragments, ever, of all that the block was used
	// for; written by BPF.
	Fragments uint64
}

// Places of a connection, as the device sees it.
const (
	PlaceFree = iota
	PlacePassing
	PlaceOwned
	PlaceLeaving // passing, on the way home
)
