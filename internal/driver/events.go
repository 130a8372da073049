package driver

import "time"

// The kinds of event.
const (
	EventOffloaded      = "offloaded"
	EventRefused        = "refused"
	EventUploaded       = "uploaded"
	EventEnded          = "ended"
	EventBypassed       = "bypassed"
	EventShadowed       = "shadowed"
	EventDeviceStarted  = "device-started"
	EventDeviceLost     = "device-lost"
	EventDeviceStopped  = "device-stopped"
	EventDevicePaused   = "device-paused"
	EventDeviceResumed  = "device-resumed"
	EventUplinkGone     = "uplink-gone"
	EventUplinkBack     = "uplink-back"
	EventNextHops       = "next-hops"
	EventPolicyApplied  = "policy-applied"
	EventPolicyRejected = "policy-rejected"
	EventDropped        = "dropped"
)

// An EventKind says what one kind of event tells.
type EventKind struct {
	Name   string
	Text   string
	Fields string // those that it has besides time and kind; optional ones in brackets
}

// ofMove are the fields of what concerns one connection.
const ofMove = "local, remote, reason, [id], [device], [detail]"

// EventKinds lists every kind; docs/EVENTS.md is this list.
func EventKinds() []EventKind {
	return []EventKind{
		{EventOffloaded, "a connection has moved to the device", ofMove + ", elapsed_us, [stall_us], [bytes_moved], attachment"},
		{EventRefused, "a connection was not moved and is where it was; without a device when none was asked", ofMove},
		{EventUploaded, "a connection has come home to the kernel, asked, by the device's own wish, or because the device was lost", ofMove + ", [elapsed_us], [stall_us], [bytes_moved]"},
		{EventEnded, "a connection closed while the device had it", ofMove},
		{EventBypassed, "a connection that was in shadow on the device is bypassed now", ofMove + ", elapsed_us, [bytes_moved], attachment"},
		{EventShadowed, "a connection that was bypassed is in shadow again, on the device", ofMove + ", [elapsed_us], [attachment]"},
		{EventDeviceStarted, "a device serves: at the start of the daemon, and again after each loss or replacement", "device, detail"},
		{EventDeviceLost, "a device died, hung or was cut off; its connections are the kernel's, each with an event of its own", "device, reason, detail, [count]"},
		{EventDeviceStopped, "a device that had nothing left was ended, to be replaced or with the daemon", "device, reason"},
		{EventDevicePaused, "an operator has paused a device: it takes nobody new", "device, reason"},
		{EventDeviceResumed, "a device takes connections again", "device, reason"},
		{EventUplinkGone, "the interface vanished or went down", "device, reason, detail, [count]"},
		{EventUplinkBack, "the interface is there again, and a device is started", "device"},
		{EventNextHops, "a next hop that connections on the device go by does not answer, so that the device sends nothing there, or all answer again", "device, detail"},
		{EventPolicyApplied, "a policy was put in force, at the start, by `toehold policy apply` or by SIGHUP", "detail"},
		{EventPolicyRejected, "a policy that was to be put in force could not be read, or something is wrong in it, the first of which is told: the one before stays", "detail"},
		{EventDropped, "the last event of a follower that did not read fast enough: follow anew, from the events kept", "detail"},
	}
}

// An Event is one thing that happened, as `toehold events` prints it.
type Event struct {
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"`
	Local  string    `json:"local,omitempty"`
	Remote string    `json:"remote,omitempty"`
	ID     string    `json:"id,omitempty"`
	Device string    `json:"device,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Detail string    `json:"detail,omitempty"`
	// Elapsed is as of a Move.
	Elapsed int64  `json:"elapsed_us,omitempty"`
	Stall   int64  `json:"stall_us,omitempty"`
	Bytes   uint64 `json:"bytes_moved,omitempty"`
	Count   int    `json:"count,omitempty"` // connections concerned

	Attachment string `json:"attachment,omitempty"` // shadow or bypass
}
