package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"
	"time"

	"toehold/internal/rig"
)

// minMoves is how often every connection must have gone each way.
const minMoves = 5

// A report is what the demo found, as --json prints it.
type report struct {
	OK          bool      `json:"ok"`
	Bytes       int64     `json:"bytes"` // that both ends agree on
	Lost        int       `json:"lost"`  // connections that failed or whose ends disagree
	Moves       int       `json:"moves"`
	DeviceKills int       `json:"device_kills"`
	OffloadUS   quantiles `json:"offload_us"`
	UploadUS    quantiles `json:"upload_us"`

	StallUS     quantiles  `json:"stall_us"` // both ways: how long neither stack could send
	KillStallUS int64      `json:"kill_stall_us"`
	Connections int        `json:"connections"`
	Transfers   int64      `json:"transfers"`
	Kernel      throughput `json:"kernel"`
	Device      throughput `json:"device"`
	Error       string     `json:"error,omitempty"`

	took   map[string][]int64 // verb: us
	stalls map[string][]int64
	ways   map[way]int
}

// A way is one connection's way to the device or home.
type way struct {
	verb       string
	connection netip.AddrPort
}

type quantiles struct {
	P50 int64 `json:"p50"`
	P99 int64 `json:"p99"`
}

func quantilesOf(us []int64) quantiles {
	return quantiles{rig.Quantile(us, 0.5), rig.Quantile(us, 0.99)}
}

// A throughput is what all connections carried in one of the places.
type throughput struct {
	octets, requests int64
	time             time.Duration
}

func (t *throughput) add(u throughput) {
	t.octets += u.octets
	t.requests += u.requests
	t.time += u.time
}

// rates are bits and requests a second.
func (t throughput) rates() (bits, requests float64) {
	if t.time <= 0 {
		return 0, 0
	}
	return 8 * float64(t.octets) / t.time.Seconds(), float64(t.requests) / t.time.Seconds()
}

func (t throughput) String() string {
	bits, requests := t.rates()
	return fmt.Sprintf("%.2f Gbit/s, %.0f requests/s", bits/1e9, requests)
}

// MarshalJSON gives bits and requests a second.
func (t throughput) MarshalJSON() ([]byte, error) {
	bits, requests := t.rates()
	return json.Marshal(map[string]float64{"bits_per_second": bits, "requests_per_second": requests})
}

// moved records one move of one connection.
func (r *report) moved(verb string, connection netip.AddrPort, took, stall int64) {
	if r.took == nil {
		r.took, r.stalls, r.ways = map[string][]int64{}, map[string][]int64{}, map[way]int{}
	}
	r.took[verb] = append(r.took[verb], took)
	r.stalls[verb] = append(r.stalls[verb], stall)
	r.ways[way{verb, connection}]++
	r.Moves++
}

// lastMove describes the last n moves of a verb.
func (r *report) lastMove(verb string, n int) string {
	all := r.took[verb]
	if len(all) < n {
		return ""
	}
	last := append([]int64(nil), all[len(all)-n:]...)
	q := quantilesOf(last)
	return fmt.Sprintf(", p50 %d us, p99 %d us each", q.P50, q.P99)
}

// finish draws the conclusions; err is what went wrong.
func (r *report) finish(err error) {
	if err == nil {
		err = r.check()
	}
	if err != nil {
		r.Error = err.Error()
	}
	r.OK = err == nil
	r.OffloadUS, r.UploadUS = quantilesOf(r.took["offload"]), quantilesOf(r.took["upload"])
	r.StallUS = quantilesOf(append(append([]int64(nil), r.stalls["offload"]...), r.stalls["upload"]...))
}

// check says whether what the demo is to show was really done.
func (r *report) check() error {
	for _, verb := range []string{"offload", "upload"} {
		full := 0
		for w, n := range r.ways {
			if w.verb == verb && n >= minMoves {
				full++
			}
		}
		if full < r.Connections {
			return fmt.Errorf("only %d of %d connections did %d %ss", full, r.Connections, minMoves, verb)
		}
	}
	if r.DeviceKills == 0 {
		return fmt.Errorf("the device was not killed")
	}
	return nil
}

func (r *report) print(out io.Writer, asJSON bool) {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		e.Encode(r) // an error means that nobody reads
		return
	}
	r.table(out)
	if r.OK {
		fmt.Fprintf(out, "\nOK: %.2f GB in %d transfers over %d connections, %d moves, %d device killed;\nSHA-256 of all sent and received agree: nothing lost, doubled or reordered\n",
			float64(r.Bytes)/1e9, r.Transfers, r.Connections, r.Moves, r.DeviceKills)
		return
	}
	fmt.Fprintf(out, "\nFAILED: %s\n", r.Error)
}

func (r *report) table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\nmove\tcount\tp50 us\tp99 us\tstall p50\tstall p99\t\n")
	for _, verb := range []string{"offload", "upload"} {
		took, stall := quantilesOf(r.took[verb]), quantilesOf(r.stalls[verb])
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t\n", verb, len(r.took[verb]), took.P50, took.P99, stall.P50, stall.P99)
	}
	w.Flush()
	fmt.Fprintf(out, "\nthroughput, both ends hashing all: kernel %s; device %s\n", r.Kernel, r.Device)
}
