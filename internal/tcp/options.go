package tcp

import "time"

// Options are what an engine is told at Restore beside the connection's state.
type Options struct {
	Through bool   // acknowledge and advertise only what Permit allowed
	CC      string // "cubic" (also ""), "reno", "dctcp", "bbr", or "none": no congestion window, for the hop to the program's socket
	RcvBuf  uint32 // not Through: octets of receive buffer that the window is made of (0: 1 MiB)
	MaxOOO  uint32 // octets of memory that out-of-order payload holds at most, whole buffers counted (0: 4 MiB); beyond it the furthest is dropped
	// MTUProbing lets timeouts in a row be taken for a path that drops large
	// segments, and probes find out what it carries (RFC 4821; as Linux's
	// sysctl tcp_mtu_probing of 1).
	MTUProbing bool
	SndBuf     uint32 // octets of memory that who sends has for what is not acknowledged, the most that SendRoom lets the caller queue (0: 4 MiB)
	// Not Through, as there the program's socket has them:
	RcvBufMax   uint32        // RcvBuf grows up to it as the program takes octets (0: it stays)
	NoDelay     bool          // SetNoDelay
	Keepalive   Keepalive     // SetKeepalive
	UserTimeout time.Duration // SetUserTimeout

	TSTold bool // timestamps are told by SetTimestamp, not taken from the clock and ts_recent
}

// An Event is a set of things that a call brought about.
type Event uint32

// The events.
const (
	Readable    Event = 1 << iota // Next has something
	Acked                         // snd.una advanced
	WindowMoved                   // the peer's right window edge moved
	PeerFIN                       // the peer's FIN was received in order; reported once
	Reset                         // an acceptable RST came; the connection is closed
	Urgent                        // a segment with URG came; it was not processed
	OutOfStep                     // the peer acknowledged what was never sent here; dropped
	Probed                        // a zero-length segment before what is acknowledged or, with Through, payload next after a closed window; with Through the caller answers it, by AckNow
	Dropped                       // unacceptable: PAWS, out of window, no ACK flag, SYN; or no room in memory
	DupData                       // payload wholly before rcv.nxt
	TimedOut                      // keepalive or the user timeout gave the connection up; it is closed
	Marked                        // new payload came with the codepoint CE (RFC 3168)
	Reduced                       // new payload came with CWR: the peer reduced its congestion window
)
