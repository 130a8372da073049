package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/driver"
)

func eventsCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events",
		Short: "What happened: offloads, refusals, uploads, losses of the device",
		Args:  noArgs,
	}
	follow := cmd.Flags().BoolP("follow", "f", false, "go on with what happens from now on")
	asJSON := cmd.Flags().Bool("json", false, "print one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		enc := encoder(env.Out)
		return env.dial(cmd).Events(cmd.Context(), *follow, func(e driver.Event) error {
			if *asJSON {
				return enc.Encode(e)
			}
			_, err := fmt.Fprintln(env.Out, eventLine(&e))
			return err
		})
	}
	return cmd
}

// eventLine is an event as one line for a person.
func eventLine(e *driver.Event) string {
	parts := []string{e.Time.Local().Format("15:04:05.000"), fmt.Sprintf("%-14s", e.Kind)}
	add := func(format string, set bool, v any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, v))
		}
	}
	add("%s", e.Local != "", e.Local+" "+e.Remote)
	add("%s", e.Device != "", e.Device)
	add("id %s", e.ID != "", e.ID)
	add("%s", e.Reason != "", e.Reason)
	add("after %s", e.Elapsed != 0, micros(e.Elapsed))
	add("%s", e.Count != 0, several(e.Count, "connection"))
	add("(%s)", e.Detail != "", e.Detail)
	return strings.Join(parts, " ")
}

func deviceStatusCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "device-status",
		Short: "Capacity, load and refusals of the devices",
		Args:  noArgs,
	}
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		devices, err := env.dial(cmd).Devices(cmd.Context())
		return env.devices(devices, err, *asJSON)
	}
	return cmd
}

func deviceRestartCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "device-restart",
		Short: "Replace the devices under live traffic",
		Long:  "Upload every connection, replace the device processes, and say how they are. Nothing is offloaded again by this.",
		Args:  noArgs,
	}
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		var devices []driver.Device
		err = env.wait("device-restart", func() (err error) {
			devices, err = env.dial(cmd).RestartDevices(cmd.Context())
			return err
		})
		return env.devices(devices, err, *asJSON)
	}
	return cmd
}

func devicePauseCommand(env *Env) *cobra.Command {
	return pauseCommand(env, true, &cobra.Command{
		Use:   "device-pause",
		Short: "Have the devices take nobody new",
		Long: "Have the devices, or the one of an uplink, refuse every offload until device-resume. They keep what they have:\n" +
			"toehold upload --all sends that home.",
	})
}

func deviceResumeCommand(env *Env) *cobra.Command {
	return pauseCommand(env, false, &cobra.Command{
		Use:   "device-resume",
		Short: "Have the devices take connections again",
		Long:  "End what device-pause began. Nothing is offloaded by this alone.",
	})
}

func pauseCommand(env *Env, paused bool, cmd *cobra.Command) *cobra.Command {
	cmd.Args = noArgs
	uplink := cmd.Flags().String("device", "", "name of the uplink; all when not given")
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("device") && *uplink == "" {
			return usage("--device names no uplink")
		}
		devices, err := env.dial(cmd).PauseDevices(cmd.Context(), *uplink, paused)
		return env.devices(devices, err, *asJSON)
	}
	return cmd
}

func (env *Env) devices(devices []driver.Device, err error, asJSON bool) error {
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(env.Out, devices)
	}
	return printDevices(env.Out, devices)
}

func printDevices(w io.Writer, devices []driver.Device) error {
	t := newTable("DEVICE", "STATE", ">PID", ">CONNECTIONS", ">CAPACITY", ">LOAD", ">BUFFERS", ">MEMORY", ">UPTIME", ">HEARTBEAT", ">RESTARTS", ">OFFLOADS", ">UPLOADS", "REFUSED")
	for _, d := range devices {
		pid, load, pool := "", "", ""
		if d.PID != 0 {
			pid = fmt.Sprint(d.PID)
		}
		if l := d.Load; l != nil {
			load, pool = fmt.Sprintf("%.1f%%", 100*l.BusyShare), octets(l.PoolUsed)
		}
		state := d.State
		if d.Paused {
			state += ", paused"
		}
		t.add(d.Device, state, pid, d.Connections, d.Capacity, load, pool, octets(uint64(d.Memory)), micros(d.Uptime),
			micros(d.HeartbeatAge), d.Restarts, d.Offloads, d.Uploads, counts(d.Refused))
	}
	if err := t.print(w); err != nil {
		return err
	}
	for _, d := range devices {
		if d.Detail != "" {
			fmt.Fprintf(w, "%s: %s\n", d.Device, d.Detail)
		}
		if d.RunsAs != "" {
			fmt.Fprintf(w, "%s: runs as %s\n", d.Device, d.RunsAs)
		}
		if d.Load != nil {
			printLoad(w, d.Device, d.Load)
		}
	}
	return nil
}

// printLoad says what a device has done, and what became of frames that went
// no further.
func printLoad(w io.Writer, device string, l *driver.Load) {
	fmt.Fprintf(w, "%s: sent %s in %s, received %s in %s, retransmitted %d, out of order %d\n", device,
		octets(l.BytesSent), several(int(l.SegsSent), "segment"), octets(l.BytesReceived), several(int(l.SegsReceived), "segment"), l.Retransmits, l.OutOfOrder)
	fmt.Fprintf(w, "%s: %s; %d of no flow, %d bad, %d not taken by a port; dropped %s\n", device,
		several(int(l.Frames), "frame"), l.Unknown, l.Bad, l.Untaken, drops(l))
}

// drops names what the ports dropped, by cause.
func drops(l *driver.Load) string {
	all := map[string]int{}
	for name, p := range map[string]*driver.PortLoad{"uplink": &l.Uplink, "host port": &l.Host} {
		for cause, n := range map[string]uint64{"queue full": p.RxDropped, "no buffer": p.RxNoBuffer, "too large": p.RxTooLarge, "send error": p.TxErrors} {
			if n > 0 {
				all[name+" "+cause] = int(n)
			}
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return counts(all)
}

func doctorCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check every kernel feature and privilege that is needed",
		Args:  noArgs,
	}
	asJSON := addJSON(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		checks := env.Doctor()
		missing := 0
		for _, c := range checks {
			if !c.OK {
				missing++
			}
		}
		var err error
		if *asJSON {
			err = printJSON(env.Out, checks)
		} else {
			err = printChecks(env.Out, checks)
		}
		if err == nil && missing > 0 {
			err = fmt.Errorf("%d of %d checks are not met", missing, len(checks))
		}
		return err
	}
	return cmd
}

// printChecks prints the verdicts, and then what to do about the bad ones.
func printChecks(w io.Writer, checks []bpf.Check) error {
	t := newTable("CHECK", "VERDICT", "SINCE", "DETAIL")
	for _, c := range checks {
		verdict := "ok"
		if !c.OK {
			verdict = "MISSING"
		}
		t.add(c.Name, verdict, c.Since, c.Detail)
	}
	if err := t.print(w); err != nil {
		return err
	}
	for _, c := range checks {
		if !c.OK && c.Fix != "" {
			if _, err := fmt.Fprintf(w, "%s: %s\n", c.Name, c.Fix); err != nil {
				return err
			}
		}
	}
	return nil
}

// Version is the release; the build may set it.
var Version = "0.1.0"

type buildInfo struct {
	Version string `json:"version"`
	ABI     int    `json:"abi"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	Arch    string `json:"arch"`
}

func versionCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Version of this binary", Args: noArgs}
	asJSON := addJSON(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		b := buildInfo{Version, abi.Version, commit(), runtime.Version(), runtime.GOARCH}
		if *asJSON {
			return printJSON(env.Out, b)
		}
		_, err := fmt.Fprintf(env.Out, "toehold %s (abi %d, %s, %s)\n", b.Version, b.ABI, b.Go, b.Arch)
		return err
	}
	return cmd
}

func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
