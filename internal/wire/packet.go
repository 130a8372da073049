package wire

import "toehold/internal/flow"

// A Packet is a frame that Parse understood. Its slices alias the frame's
// buffer; offsets count from the start of the buffer, where the
// virtio_net_hdr is.
type Packet struct {
	VNet VNet
	// Key names the flow as the frame's sender sees it: Local is the source.
	// So a frame of the program's socket has the flow table's key, one of the
	// peer has its Reverse.
	Key  flow.Key
	Link []byte // link header with its 802.1Q tags; empty where there is none

	TTL       uint8  // hop limit in IPv6
	TOS       uint8  // traffic class in IPv6, with the ECN bits
	DF        bool   // always true in IPv6
	ID        uint16 // IPv4 identification, 0 in IPv6
	FlowLabel uint32 // IPv6, 20 bits

	IPOff, TCPOff, DataOff int
	End                    int // one past the IP packet; link padding follows
	Seg                    Segment
}

// A Verdict says what Parse made of a frame.
type Verdict uint8

// What a frame can be. Only an OK frame has a whole Packet.
const (
	OK          Verdict = iota
	NotTCP              // another protocol, at the link, network or transport layer
	Fragment            // an IP fragment
	IPOptions           // IPv4 options or IPv6 extension headers
	Malformed           // lengths or offload fields that contradict each other
	BadChecksum         // said by callers after VerifyChecksum
)

var verdictNames = [...]string{"ok", "not-tcp", "fragment", "ip-options", "malformed", "bad-checksum"}

// String is the verdict's name, lower-case with hyphens.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "unknown"
}
