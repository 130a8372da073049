package metrics

import "github.com/prometheus/client_golang/prometheus"

// all are the descriptions, in the order in which they are made.
var all []*prometheus.Desc

// name describes a metric. The labels have few values each: places,
// directions, the typed reasons, and the uplinks' names.
func name(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("toehold_"+name, help, labels, nil)
	all = append(all, d)
	return d
}

var (
	build = name("build_info", "The version that runs; always 1.", "version")

	connections = name("connections", "TCP connections of the namespace, by where they are.", "place", "attachment", "device")
	moves       = name("moves_total", "Connections moved to the device (offload) and home to the kernel (upload), by reason.", "direction", "device", "reason")
	refusals    = name("refusals_total", "Connections that were not moved, by reason; those that no device was asked about have an empty device.", "device", "reason")
	ended       = name("connections_ended_total", "Connections that closed while the device had them, by reason.", "device", "reason")
	duration    = name("move_duration_seconds", "From the request until a connection had moved; what the loss of a device sends home is not in it.", "direction", "device")
	stall       = name("move_stall_seconds", "How long neither stack could send, of each move.", "direction", "device")

	payload = name("payload_bytes_total", "Payload of connections by where they were: of a device all, first transmissions only; of the kernel what was seen from one scrape to the next.",
		"place", "device", "direction")
	retransmits = name("retransmitted_segments_total", "Segments sent again to the peers, by where the connections were.", "place", "device")
	segments    = name("device_segments_total", "Segments on the wire of a device's connections.", "device", "direction")
	disorder    = name("device_out_of_order_segments_total", "Segments of the peers that came after a gap.", "device")

	up        = name("device_up", "1 while the device serves.", "device")
	paused    = name("device_paused", "1 while an operator has paused the device: it takes nobody new.", "device")
	capacity  = name("device_capacity_connections", "Connections that the device takes at most.", "device")
	held      = name("device_connections", "Connections that the device has, those on their way included.", "device")
	pool      = name("device_pool_bytes", "Buffers of the device in use.", "device")
	poolLimit = name("device_pool_limit_bytes", "Buffers that the device uses at most.", "device")
	busy      = name("device_busy_seconds_total", "Time that the device's loop did not sleep; its rate is the load.", "device")
	share     = name("device_busy_ratio", "Part of the last second or so that the device's loop did not sleep.", "device")
	heartbeat = name("device_heartbeat_age_seconds", "Since the device's last heartbeat.", "device")
	restarts  = name("device_restarts_total", "Device processes that ended and were replaced.", "device")
	losses    = name("device_losses_total", "Devices that died, hung or were cut off, by reason.", "device", "reason")
	fences    = name("device_fences_total", "Times that a steering program found the heartbeat stale and shut the device off.", "device")

	frames     = name("device_frames_total", "Frames through a port of the device.", "device", "port", "direction")
	frameBytes = name("device_frame_bytes_total", "Octets of frames through a port of the device.", "device", "port", "direction")
	dropped    = name("device_dropped_frames_total", "Frames that a port of the device lost, by cause.", "device", "port", "cause")
	unused     = name("device_unused_frames_total", "Frames that the device had no use for (unknown flow, bad) or could not send (untaken).", "device", "cause")
	blocked    = name("device_port_blocked_total", "Times that a port took no more for a while.", "device", "port")
	queued     = name("device_port_queued_frames", "Frames that wait in a port of the device.", "device", "port")
	steered    = name("steered_frames_total", "Frames of steered flows by what became of them: to-device, injected, kept from the kernel, bypassed.", "device", "way")

	waiting   = name("driver_queue_length", "What waits in a queue of the driver: requests, connections until others make room, messages of a device, congestion windows.", "device", "queue")
	histories = name("driver_histories", "Connections that a history is kept of.")
	events    = name("events_total", "Everything that toehold events tells, by kind.", "kind", "device")
)
