package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A Path is the goodput of one direction of the program and one congestion
// control over one path.
type Path struct {
	RTT        float64   `json:"rtt_ms"`
	Path       string    `json:"path"`      // queue and harm
	Direction  string    `json:"direction"` // the program's: send or receive
	Congestion string    `json:"congestion"`
	Kernel     PathPlace `json:"kernel"`
	Device     PathPlace `json:"device"`
	Ratio      float64   `json:"ratio"`  // device by kernel
	Error      float64   `json:"error"`  // standard, of the ratio
	Ratios     []float64 `json:"ratios"` // of each round
}

// A PathPlace is the transfers in one place, all rounds together.
type PathPlace struct {
	Mbits       float64 `json:"mbit_per_second"`
	Retransmits int     `json:"retransmits"` // segments, of the end that sends
	Lost        int     `json:"lost"`        // frames of its direction, by the path
}

func newPath(c cell, kernel, device []transfer) Path {
	p := Path{
		RTT: float64(c.path.rtt) / float64(time.Millisecond), Path: c.path.name,
		Direction: directions[c.direction].name, Congestion: c.congestion,
		Kernel: sumOf(kernel), Device: sumOf(device),
	}
	for i := range kernel {
		p.Ratios = append(p.Ratios, device[i].mbits/kernel[i].mbits)
	}
	p.Ratio, p.Error = p.Device.Mbits/p.Kernel.Mbits, standardError(kernel, device)
	return p
}

// standardError is that of the ratio.
func standardError(kernel, device []transfer) float64 {
	mbits := func(t transfer) float64 { return t.mbits }
	_, deviation := ratioOf(figures(kernel, mbits), figures(device, mbits))
	return deviation
}

func sumOf(all []transfer) (p PathPlace) {
	for _, t := range all {
		p.Mbits += t.mbits / float64(len(all))
		p.Retransmits += t.retransmits
		p.Lost += t.lost
	}
	return p
}

// pathsTable prints Markdown: a row for each path, a column for each direction
// and congestion control, in it the ratio and the kernel's goodput.
func (r *Report) pathsTable(w io.Writer) error {
	if len(r.Paths) == 0 {
		return nil
	}
	columns, rows := []string{"RTT ms", "path"}, [][]string{}
	for _, p := range r.Paths {
		columns = include(columns, p.Congestion+", "+p.Direction)
	}
	for _, p := range r.Paths {
		i := slices.IndexFunc(rows, func(row []string) bool { return row[0] == fmt.Sprint(p.RTT) && row[1] == p.Path })
		if i < 0 {
			i = len(rows)
			rows = append(rows, make([]string, len(columns)))
			rows[i][0], rows[i][1] = fmt.Sprint(p.RTT), p.Path
		}
		rows[i][slices.Index(columns, p.Congestion+", "+p.Direction)] = fmt.Sprintf("%.2f (%.1f)", p.Ratio, p.Kernel.Mbits)
	}
	rounds, worst := 0, 0.0
	for _, p := range r.Paths {
		rounds, worst = rounds+len(p.Ratios), max(worst, p.Error)
	}
	fmt.Fprintf(w, "\nGoodput of the device by the kernel's, in brackets the kernel's in Mbit/s, by the program's direction.\n"+
		"%d rounds; the standard error of a ratio is %.3f at most. The processors were idle for %.0f %% of the time.\n\n", rounds, worst, 100*r.Idle)
	return markdown(w, columns, rows)
}

func include(names []string, name string) []string {
	if slices.Contains(names, name) {
		return names
	}
	return append(names, name)
}

// markdown prints a table whose columns are aligned in plain text too.
func markdown(w io.Writer, columns []string, rows [][]string) error {
	all := append([][]string{columns, make([]string, len(columns))}, rows...)
	for i := range columns {
		width := 3
		for _, row := range all {
			width = max(width, utf8.RuneCountInString(row[i]))
		}
		all[1][i] = strings.Repeat("-", width)
		for _, row := range all {
			row[i] += strings.Repeat(" ", width-utf8.RuneCountInString(row[i]))
		}
	}
	for _, row := range all {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | ")); err != nil {
			return err
		}
	}
	return nil
}
