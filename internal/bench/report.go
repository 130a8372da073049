package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"toehold/internal/rig"
)

// A Report is everything that was measured, as --json prints it. Parts that
// were not asked for are left out.
type Report struct {
	Kernel  string   `json:"kernel"` // release
	CPUs    int      `json:"cpus"`
	Bulk    []Bulk   `json:"bulk,omitempty"`
	Request *Request `json:"request,omitempty"`
	Moves   []Moves  `json:"moves,omitempty"`
	Batch   *Batch   `json:"batch,omitempty"`
	Paths   []Path   `json:"paths,omitempty"`
	CPU     *CPU     `json:"cpu,omitempty"`
	Attach  *Attach  `json:"attach,omitempty"`
	Idle    float64  `json:"paths_idle,omitempty"` // share of the processors' time meanwhile
}

// A Bulk is the bulk traffic of some connections in one direction.
type Bulk struct {
	Connections int       `json:"connections"`
	Direction   string    `json:"direction"` // the program's: send or receive
	Kernel      BulkPlace `json:"kernel"`
	Device      BulkPlace `json:"device"`
	Ratio       float64   `json:"ratio"` // device by kernel, median of the rounds' ratios
}

// A BulkPlace is the traffic in one place, medians of the rounds.
type BulkPlace struct {
	Gbits      float64 `json:"gbit_per_second"`
	MachineCPU float64 `json:"machine_cpu_s_per_gb"`
	DeviceCPU  float64 `json:"device_cpu_s_per_gb"`
}

func newBulk(n int, direction string, kernel, device []rate) Bulk {
	var ratios []float64
	for i := range kernel {
		ratios = append(ratios, device[i].gbits/kernel[i].gbits)
	}
	return Bulk{n, direction, medianRate(kernel), medianRate(device), rig.Quantile(ratios, 0.5)}
}

func medianRate(rates []rate) BulkPlace {
	return BulkPlace{
		Gbits:      median(rates, func(r rate) float64 { return r.gbits }),
		MachineCPU: median(rates, func(r rate) float64 { return r.machine }),
		DeviceCPU:  median(rates, func(r rate) float64 { return r.device }),
	}
}

// median of one figure of many.
func median[T any](all []T, figure func(T) float64) float64 {
	return rig.Quantile(figures(all, figure), 0.5)
}

// A Request is the latency of requests over one connection in both places.
type Request struct {
	Kernel latency `json:"kernel"`
	Device latency `json:"device"`
}

// A latency is what requests took, in microseconds.
type latency struct {
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	PerSecond float64 `json:"per_second"`
}

func newLatency(ns []int64) latency {
	var sum int64
	for _, n := range ns {
		sum += n
	}
	if sum == 0 {
		return latency{}
	}
	return latency{
		P50: float64(rig.Quantile(ns, 0.5)) / 1e3, P99: float64(rig.Quantile(ns, 0.99)) / 1e3,
		PerSecond: float64(len(ns)) / (float64(sum) / 1e9),
	}
}

func medianLatency(all []latency) latency {
	return latency{
		P50:       median(all, func(l latency) float64 { return l.P50 }),
		P99:       median(all, func(l latency) float64 { return l.P99 }),
		PerSecond: median(all, func(l latency) float64 { return l.PerSecond }),
	}
}

// Moves are the moves of one connection under one load.
type Moves struct {
	Load    string `json:"load"` // idle, bulk send, bulk receive
	Offload Move   `json:"offload"`
	Upload  Move   `json:"upload"`
}

// A Move is what moves one way took, in microseconds.
type Move struct {
	Count int       `json:"count"`
	Took  quantiles `json:"took_us"`
	Stall quantiles `json:"stall_us"`
}

type quantiles struct {
	P50 int64 `json:"p50"`
	P99 int64 `json:"p99"`
}

func quantilesOf(us []int64) quantiles {
	return quantiles{rig.Quantile(us, 0.5), rig.Quantile(us, 0.99)}
}

// A Batch is the move of many connections by one request, in microseconds of
// the whole by the number of connections.
type Batch struct {
	Connections int     `json:"connections"`
	Offload     float64 `json:"offload_us_each"`
	Upload      float64 `json:"upload_us_each"`
}

func (r *Report) print(out io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	fmt.Fprintf(out, "Linux %s, %d processors; kernel and device by turns, medians\n", r.Kernel, r.CPUs)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, table := range []func(io.Writer){r.bulkTable, r.requestTable, r.movesTable, r.batchTable} {
		table(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return errors.Join(r.pathsTable(out), r.cpuTable(out), r.attachTables(out))
}

func (r *Report) bulkTable(w io.Writer) {
	if len(r.Bulk) == 0 {
		return
	}
	fmt.Fprintf(w, "\nbulk\tkernel Gbit/s\tdevice Gbit/s\tratio\tkernel CPU s/GB\tdevice CPU s/GB\tof it the device\t\n")
	for _, b := range r.Bulk {
		fmt.Fprintf(w, "%d %s\t%.2f\t%.2f\t%.2f\t%.3f\t%.3f\t%.3f\t\n", b.Connections, b.Direction,
			b.Kernel.Gbits, b.Device.Gbits, b.Ratio, b.Kernel.MachineCPU, b.Device.MachineCPU, b.Device.DeviceCPU)
	}
}

func (r *Report) requestTable(w io.Writer) {
	if r.Request == nil {
		return
	}
	fmt.Fprintf(w, "\n%d-octet requests\tp50 us\tp99 us\tper second\t\n", requestSize)
	for _, row := range []struct {
		place string
		latency
	}{{"kernel", r.Request.Kernel}, {"device", r.Request.Device}} {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.0f\t\n", row.place, row.P50, row.P99, row.PerSecond)
	}
}

func (r *Report) movesTable(w io.Writer) {
	if len(r.Moves) == 0 {
		return
	}
	fmt.Fprintf(w, "\nmoves of one\tcount\tp50 us\tp99 us\tstall p50\tstall p99\t\n")
	for _, m := range r.Moves {
		for _, row := range []struct {
			verb string
			Move
		}{{"offload", m.Offload}, {"upload", m.Upload}} {
			fmt.Fprintf(w, "%s, %s\t%d\t%d\t%d\t%d\t%d\t\n", row.verb, m.Load, row.Count, row.Took.P50, row.Took.P99, row.Stall.P50, row.Stall.P99)
		}
	}
}

func (r *Report) batchTable(w io.Writer) {
	if r.Batch == nil {
		return
	}
	fmt.Fprintf(w, "\nmoves of %d at once\toffload us each\tupload us each\t\n", r.Batch.Connections)
	fmt.Fprintf(w, "\t%.1f\t%.1f\t\n", r.Batch.Offload, r.Batch.Upload)
}
