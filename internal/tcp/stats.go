package tcp

import "toehold/internal/tcb"

// Stats counts what a Conn did since Restore. A segment is one on the wire: a
// super-segment counts as many as it stands for. What is rare has 32 bits, as in
// Linux's tcp_info.
type Stats struct {
	SegsIn, SegsOut uint64
	BytesIn         uint64 // payload received in order
	BytesOut        uint64 // payload sent for the first time
	Retransmits     uint64 // segments
	BytesResent     uint64 // payload sent again
	OutOfOrder      uint64 // segments received after a gap
	OOODropped      uint64 // octets of out-of-order payload dropped at a limit

	DupIn             uint32 // segments received that held nothing new
	MarkedIn          uint32 // segments with new payload that came with CE (RFC 3168)
	RTOs              uint32
	FastRecoveries    uint32
	TailProbes        uint32 // tail loss probes sent (RFC 8985, section 7)
	BlackHoles        uint32 // times that the path was taken to drop large segments
	PathProbes        uint32 // segments sent to see whether the path carries larger ones
	DSACKs            uint32 // reports of octets received twice
	Undos             uint32 // reductions of the window taken back
	Probes            uint32 // window probes and keepalives sent
	PAWSDrops         uint32
	Challenges        uint32 // challenge ACKs sent (RFC 5961)
	ChallengesLimited uint32 // challenge ACKs not sent because of their limit
	SACKIgnored       uint32 // SACK blocks received that no range was free for
}

// Metrics is the state that tools show.
type Metrics struct {
	SRTT, RTTVar, RTO uint32 // us
	Cwnd, Ssthresh    uint32 // segments; tcb.NoThreshold when never set
	Recovery          uint8  // 0 open, 1 fast recovery, 2 loss (after a retransmission timeout), 3 reduction for ECN
	State             tcb.State
	SndWnd, RcvWnd    uint32 // octets: from snd.una to the peer's edge, from what is acknowledged to ours
	HeldOut, HeldIn   uint32 // octets held to be sent or acknowledged, octets received and not handed out
	MSS               uint32

	MinRTT     uint32 // us, 0: not measured
	Unacked    uint32 // segments in flight, and of these
	Sacked     uint32 // those that the peer has all the same,
	Lost       uint32 // those held for lost,
	Resent     uint32 // and those of them sent again
	PacingRate uint64 // octets/s that leave at the most, 0: no limit

	// Octets/s that were delivered the last time that it was not the program
	// which limited them, or more than that since (Linux tcpi_delivery_rate); 0: not known.
	DeliveryRate uint64
}
