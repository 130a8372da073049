package bench

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"toehold/internal/driver"
)

// A CPU is what requests cost the host's processor.
type CPU struct {
	Requests []CPURequests `json:"requests"`
	Missing  []string      `json:"missing,omitempty"` // programs that are not installed
	Stolen   float64       `json:"stolen"`            // share of the processor that other guests had
}

// CPURequests are the requests of one program, size and number of connections.
type CPURequests struct {
	Program     string  `json:"program"`
	Octets      int     `json:"octets"` // of an answer's content, and of the echo's request
	Connections int     `json:"connections"`
	PerSecond   float64 `json:"per_second"` // that all places were asked for
	// Background is the share of the processor that is busy without requests.
	// It is in the figures.
	Background float64             `json:"background"`
	Places     map[string]CPUPlace `json:"places"`
}

// A CPUPlace is the requests in one place: means of the rounds, by request.
type CPUPlace struct {
	Refused    string    `json:"refused,omitempty"` // why there are no figures
	Busy       float64   `json:"busy_us"`           // of the host's processor
	BusyError  float64   `json:"busy_error_us"`     // standard
	Ratio      float64   `json:"ratio"`             // by the kernel's
	RatioError float64   `json:"ratio_error"`       // standard
	Device     float64   `json:"device_us"`         // of the device's process, on the other processor
	PerSecond  float64   `json:"per_second"`        // that were answered
	P50        float64   `json:"p50_us"`            // from when a request was due until its answer
	P99        float64   `json:"p99_us"`
	Rounds     []float64 `json:"rounds_us"` // busy time of each
}

func newCPURequests(c requestCell, m *costs) CPURequests {
	r := CPURequests{c.name, c.octets, c.conns, m.rate, m.background, map[string]CPUPlace{}}
	for _, place := range places {
		r.Places[place] = newCPUPlace(m.each[driver.InKernel], m.each[place], m.refused[place])
	}
	return r
}

func newCPUPlace(kernel, here []cost, refused string) CPUPlace {
	p := CPUPlace{Refused: refused}
	if refused != "" {
		return p
	}
	busy := func(c cost) float64 { return c.busy }
	p.Rounds = figures(here, busy)
	p.Busy, p.BusyError = meanOf(p.Rounds)
	p.Ratio, p.RatioError = ratioOf(figures(kernel, busy), p.Rounds)
	p.Device, _ = meanOf(figures(here, func(c cost) float64 { return c.device }))
	p.PerSecond, _ = meanOf(figures(here, func(c cost) float64 { return c.perSecond }))
	p.P50, _ = meanOf(figures(here, func(c cost) float64 { return c.p50 }))
	p.P99, _ = meanOf(figures(here, func(c cost) float64 { return c.p99 }))
	return p
}

// figures are one figure of each.
func figures[T any](all []T, figure func(T) float64) (values []float64) {
	for _, a := range all {
		values = append(values, figure(a))
	}
	return values
}

// meanOf is the mean and its standard error, 0 when one value does not tell.
func meanOf(values []float64) (mean, deviation float64) {
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	if n < 2 {
		return mean, 0
	}
	for _, v := range values {
		deviation += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(deviation / (n * (n - 1)))
}

// ratioOf is the ratio of two means whose terms come in pairs, and its standard
// error (Cochran, Sampling Techniques, 3rd edition, section 6.4), 0 when one
// pair does not tell.
func ratioOf(below, above []float64) (ratio, deviation float64) {
	base, _ := meanOf(below)
	top, _ := meanOf(above)
	ratio = top / base
	rest := make([]float64, len(below))
	for i := range below {
		rest[i] = above[i] - ratio*below[i]
	}
	_, deviation = meanOf(rest)
	return ratio, deviation / base
}

// held tells whether as many requests were answered as asked for.
func (r *CPURequests) held(place string) bool {
	p := r.Places[place]
	return p.Refused != "" || math.Abs(p.PerSecond/r.PerSecond-1) < 0.02
}

// cpuTable prints Markdown: a row for each kind of request, a column for each place.
func (r *Report) cpuTable(w io.Writer) error {
	if r.CPU == nil {
		return nil
	}
	fmt.Fprintf(w, "\nCPU of the host's processor by request, in µs, with standard errors; in brackets the ratio to the kernel's.\n")
	columns := append([]string{"program", "octets", "connections", "requests/s"}, places...)
	var rows [][]string
	var notes []string
	background := 0.0
	for _, c := range r.CPU.Requests {
		row := []string{c.Program, strconv.Itoa(c.Octets), strconv.Itoa(c.Connections), fmt.Sprintf("%.0f", c.PerSecond)}
		for _, place := range places {
			row = append(row, c.Places[place].cell(place))
			notes = append(notes, c.notes(place)...)
		}
		rows, background = append(rows, row), max(background, c.Background)
	}
	fmt.Fprintf(w, "Without requests the processor was busy for %.1f %% of the time at most, which is in the figures; other guests had %.1f %%.\n\n", 100*background, 100*r.CPU.Stolen)
	if err := markdown(w, columns, rows); err != nil {
		return err
	}
	return notesUnder(w, append(notes, r.CPU.Missing...))
}

func (p CPUPlace) cell(place string) string {
	switch {
	case p.Refused != "":
		return "refused"
	case place == driver.InKernel:
		return fmt.Sprintf("%.2f ± %.2f", p.Busy, p.BusyError)
	}
	return fmt.Sprintf("%.2f ± %.2f (%.2f ± %.2f)", p.Busy, p.BusyError, p.Ratio, p.RatioError)
}

func (r *CPURequests) notes(place string) (all []string) {
	if why := r.Places[place].Refused; why != "" {
		all = append(all, fmt.Sprintf("%s, %s: refused: %s", place, r.Program, why))
	}
	if !r.held(place) {
		all = append(all, fmt.Sprintf("%s, %s, %d octets, connections: %d: not at equal load: %.0f of %.0f requests a second were answered",
			place, r.Program, r.Octets, r.Connections, r.Places[place].PerSecond, r.PerSecond))
	}
	return all
}

// notesUnder prints each note once.
func notesUnder(w io.Writer, notes []string) error {
	slices.Sort(notes)
	for _, n := range slices.Compact(notes) {
		if _, err := fmt.Fprintf(w, "\n%s\n", n); err != nil {
			return err
		}
	}
	return nil
}

// stolenTime is for how many seconds other guests of the machine had a
// processor, since the start; 0 where that is not told.
func stolenTime(cpu int) float64 {
	b, _ := os.ReadFile("/proc/stat")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 8 && f[0] == "cpu"+strconv.Itoa(cpu) {
			ticks, _ := strconv.ParseUint(f[8], 10, 64)
			return float64(ticks) / ticksPerSecond
		}
	}
	return 0
}
