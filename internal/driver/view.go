package driver

import (
	"net/netip"
	"time"

	"toehold/internal/flow"
)

// A Connection is one TCP connection of the namespace, as `toehold list`
// shows it. Sizes are in octets, cwnd and ssthresh in segments, times in
// microseconds.
type Connection struct {
	ID            string         `json:"id"`         // hardware id, "" in the kernel
	Place         string         `json:"place"`      // kernel, device or moving
	Attachment    string         `json:"attachment"` // "", shadow or bypass
	Local         netip.AddrPort `json:"local"`
	Remote        netip.AddrPort `json:"remote"`
	State         string         `json:"state"`
	PID           int            `json:"pid"` // 0: no process was found that holds it
	Comm          string         `json:"comm"`
	FD            int            `json:"fd"`
	Device        string         `json:"device"` // the uplink's name, "" in the kernel
	BytesSent     uint64         `json:"bytes_sent"`
	BytesReceived uint64         `json:"bytes_received"`
	RTT           uint32         `json:"rtt_us"`
	Cwnd          uint32         `json:"cwnd"`
	Ssthresh      uint32         `json:"ssthresh"`
	Retransmits   uint64         `json:"retransmits"`
	Offloads      int            `json:"offloads"`
	Uploads       int            `json:"uploads"`
	Reason        string         `json:"reason"` // of the last move or refusal
}

// Flow is the connection's four-tuple.
func (c *Connection) Flow() flow.ID { return flow.ID{Local: c.Local, Remote: c.Remote} }

// Places of a connection.
const (
	InKernel = "kernel"
	OnDevice = "device"
	OnTheWay = "moving"
)

// Shadow is the attachment in which the program's socket goes on living in
// step with the wire.
const Shadow = "shadow"

// Bypass is the attachment in which the kernel's TCP is not run for the
// program's socket: octets cross between it and the device by a channel.
const Bypass = "bypass"

// A Detail is one connection with the three parts of its state and its
// history.
type Detail struct {
	Connection
	Kernel   KernelPart    `json:"kernel"`
	Socket   SocketPart    `json:"socket"`
	Hardware *HardwarePart `json:"hardware"` // null in the kernel
	History  []Move        `json:"history"`  // oldest first
}

// A KernelPart is the software stack's view. In shadow it goes on living.
type KernelPart struct {
	State             string `json:"state"`
	CongestionControl string `json:"congestion_control"`
	SndUna            uint32 `json:"snd_una"`
	SndNxt            uint32 `json:"snd_nxt"`
	SndWnd            uint32 `json:"snd_wnd"`
	RcvNxt            uint32 `json:"rcv_nxt"`
	RcvWnd            uint32 `json:"rcv_wnd"`
	SndWscale         uint8  `json:"snd_wscale"`
	RcvWscale         uint8  `json:"rcv_wscale"`
	MSS               uint32 `json:"mss"`
	RTT               uint32 `json:"rtt_us"`
	RTTVar            uint32 `json:"rttvar_us"`
	RTO               uint32 `json:"rto_us"`
	Cwnd              uint32 `json:"cwnd"`
	Ssthresh          uint32 `json:"ssthresh"`
	Retransmits       uint32 `json:"retransmits"`
	BytesSent         uint64 `json:"bytes_sent"`
	BytesReceived     uint64 `json:"bytes_received"`
	Timestamps        bool   `json:"timestamps"`
	SACK              bool   `json:"sack"`
	ECN               bool   `json:"ecn"`
	PathMTU           uint32 `json:"path_mtu"` // as the device was told, 0 in the kernel
	Model
}

// A Model is what a congestion control knows of the path beside its window:
// CUBIC's W_max, or what BBR has measured. 0: not known, or not its concern.
type Model struct {
	WMax      uint32 `json:"w_max,omitempty"`     // segments
	Bandwidth uint64 `json:"bandwidth,omitempty"` // octets a second
	MinRTT    uint32 `json:"min_rtt_us,omitempty"`
}

// A SocketPart is the socket layer's view: who holds the socket, and what its
// program has set.
type SocketPart struct {
	PID          int    `json:"pid"`
	Comm         string `json:"comm"`
	FD           int    `json:"fd"`
	UID          uint32 `json:"uid"`
	Cookie       uint64 `json:"cookie"`
	Queued       uint32 `json:"queued"`        // written by the program and not acknowledged
	Unread       uint32 `json:"unread"`        // received and not read by the program
	SndBuf       uint32 `json:"sndbuf"`        // octets of memory at most
	RcvBuf       uint32 `json:"rcvbuf"`        //
	SendMemory   uint32 `json:"send_memory"`   // octets of memory in the send queue
	RcvLowat     uint32 `json:"rcvlowat"`      // octets that wake a reader
	NotSentLowat int64  `json:"notsent_lowat"` // -1: no limit
	Shutdown     string `json:"shutdown"`      // none, read, write or both
	NoDelay      bool   `json:"nodelay"`       //
	Cork         bool   `json:"cork"`          //
	Keepalive    bool   `json:"keepalive"`     //
	KeepTime     uint32 `json:"keep_time_ms"`  // those of the namespace where it has none of its own
	KeepInterval uint32 `json:"keep_interval_ms"`
	KeepProbes   uint8  `json:"keep_probes"`
	UserTimeout  uint32 `json:"user_timeout_ms"` // 0: none
	Linger       int64  `json:"linger_ms"`       // -1: off
	TTL          uint8  `json:"ttl"`             // or hop limit; 0: the route's
	TOS          uint8  `json:"tos"`             // or traffic class
	Priority     uint32 `json:"priority"`
	Mark         uint32 `json:"mark"`
}

// A HardwarePart is the device's view.
type HardwarePart struct {
	Place             string `json:"place"` // passing, owned or leaving
	State             string `json:"state"`
	Recovery          string `json:"recovery"` // open, recovery or loss
	CongestionControl string `json:"congestion_control"`
	SndUna            uint32 `json:"snd_una"`
	SndNxt            uint32 `json:"snd_nxt"`
	SndWnd            uint32 `json:"snd_wnd"`
	RcvNxt            uint32 `json:"rcv_nxt"`
	RcvAcked          uint32 `json:"rcv_acked"`
	RcvWnd            uint32 `json:"rcv_wnd"`
	RTT               uint32 `json:"rtt_us"`
	RTTVar            uint32 `json:"rttvar_us"`
	RTO               uint32 `json:"rto_us"`
	Cwnd              uint32 `json:"cwnd"`
	Ssthresh          uint32 `json:"ssthresh"`
	HeldOut           uint32 `json:"held_out"`   // octets of the program's that the device holds copies of
	HeldIn            uint32 `json:"held_in"`    // octets of the peer's
	BytesSent         uint64 `json:"bytes_sent"` // since the offload
	BytesReceived     uint64 `json:"bytes_received"`
	SegsSent          uint64 `json:"segs_sent"`
	SegsReceived      uint64 `json:"segs_received"`
	Retransmits       uint64 `json:"retransmits"`
	OutOfOrder        uint64 `json:"out_of_order"`
	Reason            string `json:"reason"`
	Model
}

// A Move is one entry of a connection's history.
type Move struct {
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"` // as of an Event
	ID     string    `json:"id"`
	Device string    `json:"device"`
	Reason string    `json:"reason"`
	Detail string    `json:"detail,omitempty"`
	// Elapsed is from the start of the request until this connection had moved;
	// what a Moved has as Took is shared out among all of its request.
	Elapsed int64 `json:"elapsed_us"`
}

// A Result is what became of a request to move connections.
type Result struct {
	Moved   []Moved   `json:"moved"`
	Refused []Refusal `json:"refused"`
	// Wall is from the start of the first admission to the end of the last
	// move.
	Wall int64 `json:"wall_us"`
}

// A Moved is one connection that was moved.
type Moved struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	ID     string         `json:"id"`
	// Took is from the start of the admission until the device owned it, or
	// from the start of the upload until the kernel had it. For several
	// connections in one request, whose moves overlap, it is the time from the
	// start to the end of the last, divided by their number.
	Took  int64  `json:"took_us"`
	Stall int64  `json:"stall_us"` // how long neither stack could send
	Bytes uint64 `json:"bytes_moved"`

	Attachment string `json:"attachment"`       // shadow or bypass; "" at home
	Reason     string `json:"reason,omitempty"` // why it is in shadow when bypass was asked for
	Detail     string `json:"detail,omitempty"`
}

// A Refusal is one connection that was not moved.
type Refusal struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	Reason string         `json:"reason"`
	Detail string         `json:"detail"`
}

// A Device is the state of one uplink's device.
type Device struct {
	Device       string         `json:"device"` // the uplink's name
	State        string         `json:"state"`  // running, starting, draining, down
	Detail       string         `json:"detail,omitempty"`
	Paused       bool           `json:"paused"` // takes nobody new
	PID          int            `json:"pid"`
	RunsAs       string         `json:"runs_as"` // what the kernel lets the process do
	HostPort     string         `json:"host_port"`
	Capacity     int            `json:"capacity"`     // connections
	Memory       int64          `json:"memory"`       // octets of buffers
	Connections  int            `json:"connections"`  // those that move included
	Moving       int            `json:"moving"`       //
	Uptime       int64          `json:"uptime_us"`    // of the device process
	HeartbeatAge int64          `json:"heartbeat_us"` // since its last heartbeat
	Restarts     int            `json:"restarts"`
	Offloads     uint64         `json:"offloads"`
	Uploads      uint64         `json:"uploads"`
	Refused      map[string]int `json:"refused"` // count by reason
	ToDevice     uint64         `json:"frames_to_device"`
	Injected     uint64         `json:"frames_injected"`
	Kept         uint64         `json:"frames_kept"`     // wire frames that the kernel was not given
	Bypassed     uint64         `json:"frames_bypassed"` // of steered flows, let through since the device was stale or fenced
	Fences       uint64         `json:"fences"`          // times that a stale heartbeat fenced it
	Waiting      int            `json:"waiting"`         // connections that wait for others to make room
	Requests     int            `json:"requests"`        // of the API that wait for moves
	Messages     int            `json:"messages"`        // of the device that wait for the driver
	Load         *Load          `json:"load"`            // null while no device serves
}

// A Load is what a device says of its work, since its process was started.
type Load struct {
	BusyShare     float64  `json:"busy_share"` // of the last second or so that its loop did not sleep
	Busy          int64    `json:"busy_us"`    // of its time in all
	PoolUsed      uint64   `json:"pool_used"`  // octets of buffers
	Frames        uint64   `json:"frames"`     // received, of both ports
	Unknown       uint64   `json:"frames_unknown"`
	Bad           uint64   `json:"frames_bad"`
	Untaken       uint64   `json:"frames_untaken"` // that a port did not take
	BytesSent     uint64   `json:"bytes_sent"`     // payload, first transmissions only
	BytesReceived uint64   `json:"bytes_received"`
	SegsSent      uint64   `json:"segs_sent"`
	SegsReceived  uint64   `json:"segs_received"`
	Retransmits   uint64   `json:"retransmits"`
	OutOfOrder    uint64   `json:"out_of_order"`
	Uplink        PortLoad `json:"uplink"`
	Host          PortLoad `json:"host"`
}

// A PortLoad is what went through one port of a device.
type PortLoad struct {
	RxFrames   uint64 `json:"rx_frames"`
	RxBytes    uint64 `json:"rx_bytes"`
	RxDropped  uint64 `json:"rx_dropped"` // the queue in the kernel being full
	RxNoBuffer uint64 `json:"rx_no_buffer"`
	RxTooLarge uint64 `json:"rx_too_large"`
	TxFrames   uint64 `json:"tx_frames"`
	TxBytes    uint64 `json:"tx_bytes"`
	TxErrors   uint64 `json:"tx_errors"`
	TxBlocked  uint64 `json:"tx_blocked"` // times that the port took no more for a while
	TxPending  uint64 `json:"tx_pending"` // frames that wait now
}

// Dropped are the frames that a port lost.
func (p *PortLoad) Dropped() uint64 { return p.RxDropped + p.RxNoBuffer + p.RxTooLarge + p.TxErrors }

// stateNames are the kernel's TCP states (include/net/tcp_states.h) by number.
var stateNames = [...]string{"", "established", "syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "time-wait",
	"closed", "close-wait", "last-ack", "listen", "closing", "new-syn-recv"}

func stateName(s uint8) string {
	if int(s) >= len(stateNames) {
		return "unknown"
	}
	return stateNames[s]
}
