package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"toehold/internal/driver"
)

// An emitter makes metrics of figures.
type emitter struct{ out chan<- prometheus.Metric }

func (e emitter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (e emitter) count(d *prometheus.Desc, v uint64, labels ...string) {
	e.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (e emitter) driver(f *driver.Figures) {
	for _, p := range f.Connections {
		e.gauge(connections, float64(p.Count), p.Place, p.Attachment, p.Device)
	}
	e.count(payload, f.Kernel.BytesSent, driver.InKernel, "", "sent")
	e.count(payload, f.Kernel.BytesReceived, driver.InKernel, "", "received")
	e.count(retransmits, f.Kernel.Retransmits, driver.InKernel, "")
	e.gauge(waiting, float64(f.Windows), "", "windows")
	e.gauge(histories, float64(f.Histories))
	for key, n := range byKind(f.Tallies) {
		e.count(events, n, key[0], key[1])
	}
}

// byKind adds up the events of each kind and device.
func byKind(tallies []driver.Tally) map[[2]string]uint64 {
	sums := make(map[[2]string]uint64)
	for i := range tallies {
		t := &tallies[i]
		sums[[2]string{t.Kind, t.Device}] += t.Count
	}
	return sums
}

// directions are how moves are named here.
var directions = map[string]string{driver.EventOffloaded: "offload", driver.EventUploaded: "upload"}

func (e emitter) tally(t *driver.Tally) {
	switch t.Kind {
	case driver.EventOffloaded, driver.EventUploaded:
		e.count(moves, t.Count, directions[t.Kind], t.Device, t.Reason)
	case driver.EventRefused:
		e.count(refusals, t.Count, t.Device, t.Reason)
	case driver.EventEnded:
		e.count(ended, t.Count, t.Device, t.Reason)
	case driver.EventDeviceLost:
		e.count(losses, t.Count, t.Device, t.Reason)
	}
}

func (e emitter) timing(t *driver.Timing) {
	e.histogram(duration, &t.Took, directions[t.Kind], t.Device)
	e.histogram(stall, &t.Stall, directions[t.Kind], t.Device)
}

// histogram adds up the classes, as Prometheus wants them.
func (e emitter) histogram(d *prometheus.Desc, h *driver.Histogram, labels ...string) {
	buckets := make(map[float64]uint64, len(driver.Bounds))
	sum := uint64(0)
	for i, b := range driver.Bounds {
		sum += h.Count[i]
		buckets[b.Seconds()] = sum
	}
	sum += h.Count[len(driver.Bounds)]
	e.out <- prometheus.MustNewConstHistogram(d, sum, h.Sum.Seconds(), buckets, labels...)
}

func (e emitter) device(d *driver.Device) {
	e.gauge(up, truth(d.State == "running"), d.Device)
	e.gauge(paused, truth(d.Paused), d.Device)
	e.gauge(capacity, float64(d.Capacity), d.Device)
	e.gauge(held, float64(d.Connections), d.Device)
	e.gauge(poolLimit, float64(d.Memory), d.Device)
	e.gauge(heartbeat, seconds(d.HeartbeatAge), d.Device)
	e.count(restarts, uint64(d.Restarts), d.Device)
	e.count(fences, d.Fences, d.Device)
	e.count(steered, d.ToDevice, d.Device, "to-device")
	e.count(steered, d.Injected, d.Device, "injected")
	e.count(steered, d.Kept, d.Device, "kept")
	e.count(steered, d.Bypassed, d.Device, "bypassed")
	e.gauge(waiting, float64(d.Requests), d.Device, "requests")
	e.gauge(waiting, float64(d.Waiting), d.Device, "room")
	e.gauge(waiting, float64(d.Messages), d.Device, "messages")
	if d.Load != nil {
		e.load(d.Device, d.Load)
	}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// load is what only a device that serves can tell. Its counters start anew
// with its process.
func (e emitter) load(device string, l *driver.Load) {
	e.gauge(pool, float64(l.PoolUsed), device)
	e.gauge(share, l.BusyShare, device)
	e.out <- prometheus.MustNewConstMetric(busy, prometheus.CounterValue, seconds(l.Busy), device)
	e.count(payload, l.BytesSent, driver.OnDevice, device, "sent")
	e.count(payload, l.BytesReceived, driver.OnDevice, device, "received")
	e.count(retransmits, l.Retransmits, driver.OnDevice, device)
	e.count(segments, l.SegsSent, device, "sent")
	e.count(segments, l.SegsReceived, device, "received")
	e.count(disorder, l.OutOfOrder, device)
	e.count(unused, l.Unknown, device, "unknown")
	e.count(unused, l.Bad, device, "bad")
	e.count(unused, l.Untaken, device, "untaken")
	e.port(device, "uplink", &l.Uplink)
	e.port(device, "host", &l.Host)
}

func (e emitter) port(device, port string, p *driver.PortLoad) {
	e.count(frames, p.RxFrames, device, port, "received")
	e.count(frames, p.TxFrames, device, port, "sent")
	e.count(frameBytes, p.RxBytes, device, port, "received")
	e.count(frameBytes, p.TxBytes, device, port, "sent")
	e.count(dropped, p.RxDropped, device, port, "queue-full")
	e.count(dropped, p.RxNoBuffer, device, port, "no-buffer")
	e.count(dropped, p.RxTooLarge, device, port, "too-large")
	e.count(dropped, p.TxErrors, device, port, "send-error")
	e.count(blocked, p.TxBlocked, device, port)
	e.gauge(queued, float64(p.TxPending), device, port)
}

func seconds(us int64) float64 { return (time.Duration(us) * time.Microsecond).Seconds() }
