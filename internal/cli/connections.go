package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"toehold/internal/abi"
	"toehold/internal/control"
	"toehold/internal/driver"
)

func listCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [selector]",
		Short: "Every TCP connection of the namespace, wherever it lives",
		Long:  "List every TCP connection of this network namespace. Without a daemon all are in the kernel.",
		Args:  noArgs,
	}
	sel, asJSON := addSelector(cmd), addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := sel.get()
		if err != nil {
			return err
		}
		conns, err := env.list(cmd, s)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(env.Out, append([]driver.Connection{}, conns...)) // [] and not null
		}
		return printConnections(env.Out, conns)
	}
	return cmd
}

// list asks the daemon, or the kernel where there is none.
func (env *Env) list(cmd *cobra.Command, s driver.Selector) ([]driver.Connection, error) {
	conns, err := env.dial(cmd).List(cmd.Context(), s)
	if !errors.Is(err, control.ErrNoDaemon) {
		return conns, err
	}
	// Who names a socket expects a daemon there.
	if path := env.socketOf(cmd); path != control.SocketPath("", func(string) string { return "" }) {
		fmt.Fprintf(env.Err, "toehold: no daemon listens on %s; every connection is shown as in the kernel\n", path)
	}
	return env.Kernel(s)
}

func printConnections(w io.Writer, conns []driver.Connection) error {
	t := newTable("ID", "PLACE", "LOCAL", "REMOTE", "STATE", ">PID", "COMMAND", "DEVICE", ">SENT", ">RECEIVED", ">RTT", ">CWND", ">RETRANS", "REASON")
	for _, c := range conns {
		pid := ""
		if c.PID != 0 {
			pid = fmt.Sprint(c.PID)
		}
		t.add(c.ID, c.Place, c.Local, c.Remote, c.State, pid, c.Comm, c.Device, octets(c.BytesSent), octets(c.BytesReceived),
			micros(int64(c.RTT)), c.Cwnd, c.Retransmits, c.Reason)
	}
	return t.print(w)
}

func showCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID|selector",
		Short: "One connection: the three parts of its state, and its history",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("show takes one hardware id or a selector")
			}
			return nil
		},
	}
	sel, asJSON := addSelector(cmd), addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := sel.get()
		if err != nil {
			return err
		}
		if len(args) == 1 {
			if s.ID != 0 {
				return usage("the hardware id is given twice")
			}
			if s.ID, err = abi.ParseHWID(args[0]); err != nil {
				return &exit{ExitUsage, err}
			}
		}
		if s.Empty() {
			return usage("no connection is named; give a hardware id, --pid, --local or --remote")
		}
		d, err := env.dial(cmd).Show(cmd.Context(), s)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(env.Out, d)
		}
		return printDetail(env.Out, &d)
	}
	return cmd
}

func printDetail(w io.Writer, d *driver.Detail) error {
	place := d.Place
	if d.ID != "" {
		place = fmt.Sprintf("%s %s, id %s, %s", d.Place, d.Device, d.ID, d.Attachment)
	}
	fmt.Fprintf(w, "%s -> %s  %s\n", d.Local, d.Remote, d.State)
	fmt.Fprintf(w, "  place     %s\n", place)
	fmt.Fprintf(w, "  moves     %s, %s%s\n\n", several(d.Offloads, "offload"), several(d.Uploads, "upload"), because(d.Reason))
	if err := printParts(w, d); err != nil {
		return err
	}
	if len(d.History) == 0 {
		_, err := fmt.Fprintln(w, "\nhistory: none")
		return err
	}
	fmt.Fprintln(w, "\nhistory")
	t := newTable("  TIME", "MOVE", "ID", "DEVICE", ">AFTER", "REASON", "DETAIL")
	for _, m := range d.History {
		t.add("  "+m.Time.Format("15:04:05.000"), m.Kind, m.ID, m.Device, micros(m.Elapsed), m.Reason, m.Detail)
	}
	return t.print(w)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	text := reason
	if r, ok := abi.ParseReason(reason); ok {
		text += ": " + r.Text()
	}
	return "; last " + text
}

// printParts sets the three parts side by side, one line for each quantity
// that at least one of them has.
func printParts(w io.Writer, d *driver.Detail) error {
	k, s, h := &d.Kernel, &d.Socket, d.Hardware
	t := newTable("  STATE", "KERNEL", "SOCKET", "HARDWARE")
	owner := "no process"
	if s.PID != 0 {
		owner = fmt.Sprintf("%s[%d] fd %d", s.Comm, s.PID, s.FD)
	}
	if h == nil {
		t.add("  state", k.State, owner, "")
		h = new(driver.HardwarePart)
	} else {
		t.add("  state", k.State, owner, h.Place+" "+h.State+" "+h.Recovery)
	}
	blank := func(v any) any {
		if d.Hardware == nil {
			return ""
		}
		return v
	}
	t.add("  snd.una", k.SndUna, fmt.Sprintf("%s queued", octets(uint64(s.Queued))), blank(h.SndUna))
	t.add("  snd.nxt", k.SndNxt, "", blank(h.SndNxt))
	t.add("  snd.wnd", k.SndWnd, "", blank(h.SndWnd))
	t.add("  rcv.nxt", k.RcvNxt, fmt.Sprintf("%s unread", octets(uint64(s.Unread))), blank(h.RcvNxt))
	t.add("  rcv.wnd", k.RcvWnd, "", blank(h.RcvWnd))
	t.add("  rtt", micros(int64(k.RTT)), "", blank(micros(int64(h.RTT))))
	t.add("  rto", micros(int64(k.RTO)), "", blank(micros(int64(h.RTO))))
	t.add("  cwnd", k.Cwnd, "", blank(h.Cwnd))
	t.add("  ssthresh", ssthresh(k.Ssthresh), "", blank(ssthresh(h.Ssthresh)))
	if k.WMax+h.WMax != 0 {
		t.add("  w_max", k.WMax, "", blank(h.WMax))
	}
	if k.Bandwidth+h.Bandwidth != 0 {
		t.add("  bandwidth", octets(k.Bandwidth)+"/s", "", blank(octets(h.Bandwidth)+"/s"))
		t.add("  min rtt", micros(int64(k.MinRTT)), "", blank(micros(int64(h.MinRTT))))
	}
	t.add("  sent", octets(k.BytesSent), "", blank(octets(h.BytesSent)+" since the offload"))
	t.add("  received", octets(k.BytesReceived), "", blank(octets(h.BytesReceived)+" since the offload"))
	t.add("  retransmits", k.Retransmits, "", blank(h.Retransmits))
	t.add("  buffers", "", fmt.Sprintf("%s of %s out, %s in", octets(uint64(s.SendMemory)), octets(uint64(s.SndBuf)), octets(uint64(s.RcvBuf))), blank(fmt.Sprintf("%s out, %s in", octets(uint64(h.HeldOut)), octets(uint64(h.HeldIn)))))
	t.add("  mss", k.MSS, "", "")
	t.add("  control", k.CongestionControl, "", blank(h.CongestionControl))
	t.add("  options", optionsOf(k), setBy(s), "")
	t.add("  shutdown", "", s.Shutdown, "")
	t.add("  packets", "", headerOf(s), "")
	return t.print(w)
}

func optionsOf(k *driver.KernelPart) string {
	options := []string{fmt.Sprintf("wscale %d/%d", k.SndWscale, k.RcvWscale)}
	if k.Timestamps {
		options = append(options, "timestamps")
	}
	if k.SACK {
		options = append(options, "sack")
	}
	if k.ECN {
		options = append(options, "ecn")
	}
	return strings.Join(options, " ")
}

// setBy is what a program has set of its socket.
func setBy(s *driver.SocketPart) string {
	var set []string
	add := func(is bool, format string, args ...any) {
		if is {
			set = append(set, fmt.Sprintf(format, args...))
		}
	}
	add(s.NoDelay, "nodelay")
	add(s.Cork, "cork")
	add(s.Keepalive, "keepalive %s/%s/%d", millis(s.KeepTime), millis(s.KeepInterval), s.KeepProbes)
	add(s.UserTimeout != 0, "user-timeout %s", millis(s.UserTimeout))
	add(s.Linger >= 0, "linger %s", millis(uint32(s.Linger)))
	add(s.RcvLowat > 1, "rcvlowat %d", s.RcvLowat)
	add(s.NotSentLowat >= 0, "notsent-lowat %d", s.NotSentLowat)
	return strings.Join(set, " ")
}

// headerOf is what the socket wants in the header of its packets.
func headerOf(s *driver.SocketPart) string {
	ttl := "the route's"
	if s.TTL != 0 {
		ttl = fmt.Sprint(s.TTL)
	}
	return fmt.Sprintf("ttl %s, tos %#x, priority %d, mark %#x", ttl, s.TOS, s.Priority, s.Mark)
}

func millis(ms uint32) time.Duration { return time.Duration(ms) * time.Millisecond }
