package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"toehold/internal/control"
	"toehold/internal/driver"
	"toehold/internal/flow"
)

// Bounds of the time between two looks.
const (
	leastInterval = 100 * time.Millisecond
	mostInterval  = time.Hour
)

func topCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top [selector]",
		Short: "The busiest connections, live",
		Long: "Show the connections that carry the most, wherever they live, and how the devices are, again and again until q\n" +
			"or ^C. Without a terminal, with --once or with --json one table is printed, of what went on in one interval.",
		Args: noArgs,
	}
	sel, asJSON := addSelector(cmd), addJSON(cmd)
	interval := cmd.Flags().Duration("interval", time.Second, "time between two looks")
	once := cmd.Flags().Bool("once", false, "print one table")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := sel.get()
		switch {
		case err != nil:
			return err
		case *interval < leastInterval || *interval > mostInterval:
			return usage("interval %v is not from %v to %v", *interval, leastInterval, mostInterval)
		}
		t := &top{env: env, client: env.dial(cmd), selector: s, interval: *interval}
		if err := t.look(cmd.Context()); err != nil {
			return err
		}
		if !*once && !*asJSON {
			screen, err := env.Screen()
			if err == nil {
				return t.live(cmd.Context(), screen)
			}
			if !errors.Is(err, errNoTerminal) {
				return err
			}
		}
		return t.once(cmd.Context(), *asJSON)
	}
	return cmd
}

// A top looks at connections and remembers what it saw the last time.
type top struct {
	env      *Env
	client   Client
	selector driver.Selector
	interval time.Duration

	at      time.Time
	seen    map[flow.ID]carried
	rows    []topRow
	devices []driver.Device
	alone   bool // there is no daemon
}

// carried is what a connection had carried at one look, in octets.
type carried struct{ sent, received uint64 }

// A topRow is a connection with what it carried since the look before.
type topRow struct {
	driver.Connection
	SendRate    uint64 `json:"send_rate"` // octets/s
	ReceiveRate uint64 `json:"receive_rate"`
}

// look lists the connections, the busiest first.
func (t *top) look(ctx context.Context) error {
	conns, err := t.client.List(ctx, t.selector)
	if t.alone = errors.Is(err, control.ErrNoDaemon); t.alone {
		conns, err = t.env.Kernel(t.selector)
	}
	if err != nil {
		return err
	}
	if t.devices = nil; !t.alone {
		if t.devices, err = t.client.Devices(ctx); err != nil {
			return err
		}
	}
	t.note(t.env.Now(), conns)
	return nil
}

// note makes the rows of what is there now. What was not there before has
// carried nothing yet.
func (t *top) note(now time.Time, conns []driver.Connection) {
	since := now.Sub(t.at)
	seen := make(map[flow.ID]carried, len(conns))
	t.rows = make([]topRow, 0, len(conns)) // [] and not null
	for _, c := range conns {
		r := topRow{Connection: c}
		if was, ok := t.seen[c.Flow()]; ok {
			r.SendRate, r.ReceiveRate = rate(was.sent, c.BytesSent, since), rate(was.received, c.BytesReceived, since)
		}
		seen[c.Flow()] = carried{c.BytesSent, c.BytesReceived}
		t.rows = append(t.rows, r)
	}
	slices.SortStableFunc(t.rows, func(a, b topRow) int {
		return cmp.Compare(b.SendRate+b.ReceiveRate, a.SendRate+a.ReceiveRate)
	})
	t.at, t.seen = now, seen
}

// rate is how fast a count grew; one that went back is of another connection.
func rate(was, now uint64, since time.Duration) uint64 {
	if now < was || since <= 0 {
		return 0
	}
	return uint64(float64(now-was) / since.Seconds())
}

// once prints what goes on in one interval.
func (t *top) once(ctx context.Context, asJSON bool) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(t.interval):
	}
	if err := t.look(ctx); err != nil {
		return err
	}
	if asJSON {
		return printJSON(t.env.Out, t.rows)
	}
	for _, l := range t.head() {
		fmt.Fprintln(t.env.Out, l)
	}
	return t.table().print(t.env.Out)
}

// live draws until somebody types q or the context ends. The screen is closed
// in any case.
func (t *top) live(ctx context.Context, screen Screen) (err error) {
	defer func() { err = errors.Join(err, screen.Close()) }()
	tick := time.NewTicker(t.interval)
	defer tick.Stop()
	keys := screen.Keys()
	for {
		if err := t.draw(screen); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case key, ok := <-keys:
			if !ok {
				keys = nil // nobody types; ^C still ends it
			}
			if key == 'q' || key == 'Q' {
				return nil
			}
		case <-tick.C:
			if err := t.look(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
		}
	}
}

// draw fills the screen, cutting off what does not fit.
func (t *top) draw(screen Screen) error {
	columns, rows := screen.Size()
	head := t.head()
	var b bytes.Buffer
	t.table().print(&b)
	lines := append(head, strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")...)
	lines = lines[:min(len(lines), max(rows-1, 1))]
	var page strings.Builder
	page.WriteString(firstLine)
	for i, l := range lines {
		l = cut(l, columns)
		if i == len(head) {
			l = inverse + l + upright
		}
		page.WriteString(l + endOfLine)
	}
	page.WriteString(restOfPage)
	_, err := io.WriteString(screen, page.String())
	return err
}

// cut is the first columns of a line.
func cut(line string, columns int) string {
	if r := []rune(line); len(r) > columns {
		return string(r[:columns])
	}
	return line
}

// head is what stands above the table: all connections and the devices.
func (t *top) head() []string {
	var sent, received uint64
	at := map[string]int{}
	for i := range t.rows {
		sent, received = sent+t.rows[i].SendRate, received+t.rows[i].ReceiveRate
		at[t.rows[i].Place]++
	}
	lines := []string{fmt.Sprintf("%s  %s: %d on a device, %d moving, %d in the kernel; sending %s/s, receiving %s/s",
		t.at.Format("15:04:05"), several(len(t.rows), "connection"), at[driver.OnDevice], at[driver.OnTheWay], at[driver.InKernel], octets(sent), octets(received))}
	if t.alone {
		lines = append(lines, "no daemon runs here: every connection is in the kernel")
	}
	for i := range t.devices {
		lines = append(lines, deviceLine(&t.devices[i]))
	}
	return lines
}

func deviceLine(d *driver.Device) string {
	state := d.State
	if d.Paused {
		state += ", paused"
	}
	line := fmt.Sprintf("%s  %s, %d of %d connections", d.Device, state, d.Connections, d.Capacity)
	if l := d.Load; l != nil {
		line += fmt.Sprintf(", load %.1f%%, buffers %s of %s, %d frames dropped",
			100*l.BusyShare, octets(l.PoolUsed), octets(uint64(d.Memory)), l.Uplink.Dropped()+l.Host.Dropped())
	}
	return line
}

func (t *top) table() *table {
	out := newTable("PLACE", "LOCAL", "REMOTE", ">SEND/S", ">RECEIVE/S", ">RTT", ">CWND", ">RETRANS", ">PID", "COMMAND")
	for i := range t.rows {
		r := &t.rows[i]
		place, pid := r.Place, ""
		if r.Device != "" {
			place = r.Device
		}
		if r.Place == driver.OnTheWay {
			place += " " + driver.OnTheWay
		}
		if r.PID != 0 {
			pid = fmt.Sprint(r.PID)
		}
		out.add(place, r.Local, r.Remote, octets(r.SendRate), octets(r.ReceiveRate), micros(int64(r.RTT)), r.Cwnd, r.Retransmits, pid, r.Comm)
	}
	return out
}
