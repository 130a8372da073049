package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

func addJSON(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print JSON")
}

// printJSON writes one value, indented, as scripts and people read it.
func printJSON(w io.Writer, v any) error {
	enc := encoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// encoder writes JSON in which a policy's && and > stay what they are: it is not
// for web pages.
func encoder(w io.Writer) *json.Encoder {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc
}

// A table is text in columns that line up; numbers stand to the right.
type table struct {
	right []bool
	rows  [][]string
}

// newTable names the columns; one that starts with ">" stands to the right.
func newTable(head ...string) *table {
	t := &table{right: make([]bool, len(head))}
	for i, h := range head {
		head[i], t.right[i] = strings.CutPrefix(h, ">")
	}
	t.rows = append(t.rows, head)
	return t
}

// add appends a row of as many cells as there are columns.
func (t *table) add(cells ...any) {
	row := make([]string, len(t.right))
	for i, c := range cells {
		row[i] = plain(fmt.Sprint(c))
		if row[i] == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

// plain is text that a terminal takes for nothing else: a process may call
// itself what it likes.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}

func (t *table) print(w io.Writer) error {
	widths := make([]int, len(t.right))
	for _, row := range t.rows {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		line := b.Len()
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if t.right[i] {
				c, pad = pad+c, ""
			}
			b.WriteString(c + pad + "  ")
		}
		text := strings.TrimRight(b.String()[line:], " ")
		rest := b.String()[:line]
		b.Reset()
		b.WriteString(rest + text + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// octets is a size as a person reads it.
func octets(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprint(n)
	}
	v, u := float64(n)/1024, 0
	for v >= 999.5 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f%c", v, units[u])
	}
	return fmt.Sprintf("%.0f%c", v, units[u])
}

// micros is a time given in microseconds as a person reads it.
func micros(us int64) string {
	switch d := time.Duration(us) * time.Microsecond; {
	case us == 0:
		return "-"
	case us < 1000:
		return fmt.Sprintf("%dus", us)
	case d < time.Second:
		return fmt.Sprintf("%.1fms", float64(us)/1000)
	default:
		return d.Round(100 * time.Millisecond).String()
	}
}

// infiniteSsthresh is Linux's TCP_INFINITE_SSTHRESH: no loss was seen yet.
const infiniteSsthresh = 0x7fffffff

func ssthresh(n uint32) string {
	if n >= infiniteSsthresh {
		return "-"
	}
	return fmt.Sprint(n)
}

// several is a number of things: 1 upload, 2 uploads.
func several(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// counts is a map of counters as "reason 3, other 1", in the order of names.
func counts(m map[string]int) string {
	var parts []string
	for k, n := range m {
		parts = append(parts, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// patience is how long a command works in silence on a terminal.
const patience = 500 * time.Millisecond

// wait runs f; on a terminal it says what is waited for when that takes long.
func (env *Env) wait(what string, f func() error) error {
	if !env.Terminal {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	start, tick := env.Now(), time.NewTicker(patience)
	defer tick.Stop()
	for said := false; ; said = true {
		select {
		case err := <-done:
			if said {
				fmt.Fprint(env.Err, "\r\x1b[K")
			}
			return err
		case <-tick.C:
			fmt.Fprintf(env.Err, "\r\x1b[K%s: %.1fs", what, env.Now().Sub(start).Seconds())
		}
	}
}
