package abi

// A Reason says why a connection was moved, refused or lost sight of. It is
// kept per connection and shown by its name.
type Reason uint32

// The reasons. docs/REASONS.md is generated from this list.
const (
	None Reason = iota
	Asked
	NotEstablished
	TCPMD5
	TCPAO
	MPTCP
	ULP
	UrgentData
	IPOptions
	ECN
	NoUplink
	NAT
	XFRM
	Sockmap
	Repair
	NoOwner
	NoConnection
	AlreadyOnDevice
	AlreadyInKernel
	Moving
	DeviceFull
	DeviceMemory
	DeviceDown
	DeviceDied
	DeviceHung
	DeviceStopped
	PeerWindowClosed
	Timeout
	Closed
	ResetByPeer
	ResetByProgram
	OutOfStep
	UplinkGone
	RouteChanged
	InternalError
	CongestionControl
	Policy
	DevicePaused
	ProgramAsked
	ProgramForbids
	PrefixQuota
	UserQuota
	Displaced
	Idle
	Loss
	Reordering
	SmallIO
	DeviceCPU
	DeviceSegments
	ProtocolFeature
	RecoveryTimeout
	Fragments
	BlockingSocket
	LowWaterMark
	ZeroCopy
	IOUring
	Traced
	LeftUnread
	NotDrained
	NotFrozen
	ChannelFailed
	NotRebuilt
	SocketOption
	reasons
)

var reasonTexts = [reasons][2]string{
	None:              {"", "nothing has happened yet"},
	Asked:             {"asked", "an operator asked for it"},
	NotEstablished:    {"not-established", "only connections in ESTABLISHED or CLOSE_WAIT can be offloaded"},
	TCPMD5:            {"tcp-md5", "the socket signs its segments (RFC 2385); the keys stay in the kernel"},
	TCPAO:             {"tcp-ao", "the socket authenticates its segments (RFC 5925); the keys stay in the kernel"},
	MPTCP:             {"mptcp", "the connection is a subflow of Multipath TCP"},
	ULP:               {"ulp", "an upper-layer protocol such as kTLS is attached to the socket"},
	UrgentData:        {"urgent-data", "urgent data is unread or unacknowledged, or came or went while the device had the connection; the kernel handles it"},
	IPOptions:         {"ip-options", "the socket sends IP options"},
	ECN:               {"ecn", "the connection negotiated AccECN (`net.ipv4.tcp_ecn` 3 to 5, in kernels that have it), which the device does not do; ECN of RFC 3168 it does"},
	NoUplink:          {"no-uplink", "the route to the peer does not leave by an uplink of a device"},
	NAT:               {"nat", "this host rewrites the flow's addresses or ports"},
	XFRM:              {"xfrm", "an IPsec policy applies to the flow"},
	Sockmap:           {"sockmap", "the socket is already in a sockmap"},
	Repair:            {"repair", "the socket is in repair mode"},
	NoOwner:           {"no-owner", "no process was found that holds the socket"},
	NoConnection:      {"no-connection", "there is no such connection any more"},
	AlreadyOnDevice:   {"already-on-device", "the connection is on the device already"},
	AlreadyInKernel:   {"already-in-kernel", "the connection is in the kernel already"},
	Moving:            {"moving", "another move of the same connection is under way"},
	DeviceFull:        {"device-full", "the device has no free connection slot"},
	DeviceMemory:      {"device-memory", "the device is at its limit of buffer memory"},
	DeviceDown:        {"device-down", "no device is running for the uplink"},
	DeviceDied:        {"device-died", "the device process ended; the kernel took over"},
	DeviceHung:        {"device-hung", "the device's heartbeat went stale; the kernel took over"},
	DeviceStopped:     {"device-stopped", "the device or the daemon was stopped"},
	PeerWindowClosed:  {"peer-window-closed", "the peer's window stayed closed for the time allowed"},
	Timeout:           {"timeout", "the move did not end in the time allowed and was undone"},
	Closed:            {"closed", "the connection has ended"},
	ResetByPeer:       {"reset-by-peer", "the peer reset the connection"},
	ResetByProgram:    {"reset-by-program", "the program, or the kernel for it, reset the connection"},
	OutOfStep:         {"out-of-step", "the device saw the connection move without it and gave it back"},
	UplinkGone:        {"uplink-gone", "the uplink vanished or went down"},
	RouteChanged:      {"route-changed", "the route to the peer no longer leaves by the uplink"},
	InternalError:     {"internal-error", "a step failed in a way that should not happen; see the log"},
	CongestionControl: {"congestion-control", "the device does not have the connection's congestion control; toehold daemon --congestion-control can name another"},
	Policy:            {"policy", "a rule of the policy asked for it, or forbids what a program asked for; the detail names the rule"},
	DevicePaused:      {"device-paused", "an operator has paused the device: it keeps what it has and takes nobody new"},
	ProgramAsked:      {"program-asked", "the program asked for it (socket option TOEHOLD_OFFLOAD)"},
	ProgramForbids:    {"program-forbids", "the program does not want its connection on a device (socket option TOEHOLD_OFFLOAD)"},
	PrefixQuota:       {"prefix-quota", "the device has as many connections with the peer's prefix as `toehold daemon --per-prefix` allows, none much less useful"},
	UserQuota:         {"user-quota", "the device has as many connections of the socket's user as `toehold daemon --per-user` allows, none much less useful"},
	Displaced:         {"displaced", "the connection made room on a full device for a more useful one"},
	Idle:              {"idle", "the connection carried nothing for the time that idle ones are kept on the device"},
	Loss:              {"loss", "more of what the connection sent had to be sent again than is put up with on the device"},
	Reordering:        {"reordering", "more of the peer's segments came out of order than is put up with on the device"},
	SmallIO:           {"small-io", "the connection's segments carry so little that the device gains nothing"},
	DeviceCPU:         {"device-cpu", "the device's loop has no time left: it uses as much of a processor as `toehold daemon --max-busy` allows"},
	DeviceSegments:    {"device-segments", "the device handles as many segments a second as `toehold daemon --max-segments` allows"},
	ProtocolFeature:   {"protocol-feature", "the connection uses a protocol feature that the device does not have, or is to leave to the kernel (`toehold daemon --without`)"},
	RecoveryTimeout:   {"recovery-timeout", "the peer has not answered retransmissions for long (RFC 1122, section 4.2.3.5: R2); the kernel decides what becomes of the connection"},
	Fragments:         {"fragments", "the peer's segments come as IP fragments, more of them than is put up with or so that the device cannot keep in step; the kernel alone puts them together"},
	BlockingSocket:    {"blocking-socket", "bypass is for sockets with O_NONBLOCK: a signal would show in a blocking read"},
	LowWaterMark:      {"low-water-mark", "the program has set SO_RCVLOWAT or TCP_NOTSENT_LOWAT, which a bypassed socket does not obey"},
	ZeroCopy:          {"zero-copy", "the program has set SO_ZEROCOPY; a bypassed socket reports no completions"},
	IOUring:           {"io-uring", "a process that holds the socket uses io_uring, and cannot be frozen for the way home from bypass"},
	Traced:            {"traced", "a process that holds the socket is being traced, so that it could not be frozen for the way home from bypass"},
	LeftUnread:        {"left-unread", "the program leaves what it was sent unread; the kernel's own queue serves whatever it waits for"},
	NotDrained:        {"not-drained", "the program did not read in time what the kernel had received before"},
	NotFrozen:         {"not-frozen", "a process that holds the socket could not be frozen for the way home from bypass in time"},
	ChannelFailed:     {"channel-failed", "the channel of a bypass could not be made, or failed; the detail says how"},
	NotRebuilt:        {"not-rebuilt", "the socket could not be rebuilt from what the host keeps; the connection was reset to both sides"},
	SocketOption:      {"socket-option", "the program has set TCP_CORK, TCP_USER_TIMEOUT, SO_SNDBUF or an option of the IP header, or unset TCP_NODELAY, which a bypassed socket does not obey"},
}

// Lasting says that a refusal for this reason will be repeated as long as the
// connection lives.
func (r Reason) Lasting() bool {
	switch r {
	case TCPMD5, TCPAO, MPTCP, ULP, ECN, IPOptions, ProtocolFeature:
		return true
	}
	return false
}

// String is the reason's name, lower-case words joined by hyphens; "" for
// None and "unknown" for a number outside the list.
func (r Reason) String() string {
	if r >= reasons {
		return "unknown"
	}
	return reasonTexts[r][0]
}

// Text is one sentence for a person.
func (r Reason) Text() string {
	if r >= reasons {
		return "a reason of a later version"
	}
	return reasonTexts[r][1]
}

// Reasons lists every reason but None.
func Reasons() []Reason {
	all := make([]Reason, 0, reasons-1)
	for r := None + 1; r < reasons; r++ {
		all = append(all, r)
	}
	return all
}

// ParseReason finds a reason by its name.
func ParseReason(name string) (Reason, bool) {
	for r := None; r < reasons; r++ {
		if reasonTexts[r][0] == name {
			return r, true
		}
	}
	return 0, false
}
