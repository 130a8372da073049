package tcp

import "toehold/internal/tcb"

// Stats counts what a Conn did since Restore. A segment is one on the wire: a
// super-segment counts as many as it stands for.
type Stats struct {
	SegsIn, SegsOut   uint64
	BytesIn           uint64 // payload received in order
	BytesOut          uint64 // payload sent for the first time
	Retransmits       uint64 // segments
	RTOs              uint64
	FastRecoveries    uint64
	TailProbes        uint64 // tail loss probes sent (RFC 8985, section 7)
	BlackHoles        uint64 // times that the path was taken to drop large segments
	PathProbes        uint64 // segments sent to see whether the path carries larger ones
	DSACKs            uint64 // reports of octets received twice
	Undos             uint64 // reductions of the window taken back
	Probes            uint64 // window probes and keepalives sent
	OutOfOrder        uint64 // segments received after a gap
	DupIn             uint64 // segments received that held nothing new
	PAWSDrops         uint64
	OOODropped        uint64 // octets of out-of-order payload dropped at a limit
	Challenges        uint64 // challenge ACKs sent (RFC 5961)
	ChallengesLimited uint64 // challenge ACKs not sent because of their limit
	SACKIgnored       uint64 // SACK blocks received that no range was free for
	MarkedIn          uint64 // segments with new payload that came with CE (RFC 3168)
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
}
