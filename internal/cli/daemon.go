package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/control"
	"toehold/internal/device"
	"toehold/internal/driver"
	"toehold/internal/metrics"
)

// DaemonOptions are the flags of `toehold daemon`.
type DaemonOptions struct {
	driver.Config
	PolicyFile string
	Socket     string
	Group      string
	Listen     string // "": no HTTP server
}

// Defaults of a device.
const (
	defaultConnections = 16384
	defaultMemory      = 1 << 30
	defaultStaleAfter  = 100 * time.Millisecond
	maxConnections     = 1 << 20
)

func daemonCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "daemon --uplink IF[,IF...]",
		Short: "The driver: serve this network namespace",
		Long: "Start one device for each uplink and serve the control socket. Prints ready on a line of its own when it serves.\n" +
			"SIGTERM and SIGINT upload every connection, then end; a second one ends at once, which loses nothing either.",
		Args: noArgs,
	}
	var o DaemonOptions
	o.RefuseWhen = admission.DefaultRefusals
	cmd.Flags().StringSliceVar(&o.Uplinks, "uplink", nil, "interfaces that offloaded connections leave by")
	cmd.Flags().StringVar(&o.Group, "group", "", "group that may use the control socket, besides root")
	cmd.Flags().StringVar(&o.Listen, "listen", "", "[ADDR]:PORT to serve metrics on by HTTP, to anybody who can reach it; nothing can be changed there")
	cmd.Flags().IntVar(&o.MaxConnections, "max-connections", defaultConnections, "connections that a device takes at most")
	cmd.Flags().Int64Var(&o.Memory, "memory", defaultMemory, "octets of buffers that a device uses at most")
	cmd.Flags().DurationVar(&o.StaleAfter, "stale-after", defaultStaleAfter, "age of its heartbeat at which a device counts as hung")
	addReturns(cmd, &o.Returns)
	cmd.Flags().Var(&o.DeviceUser, "device-user", "name or number of the user that devices run as (default toehold where there is such a user, else 65534)")
	cmd.Flags().Var(&o.Controls, "congestion-control", "congestion controls of the device other than the sockets' own, such as bbr=cubic; * stands for any not named")
	cmd.Flags().StringVar(&o.PolicyFile, "policy", "", "file of rules by which connections move by themselves, or the word default; SIGHUP reads it again")
	cmd.Flags().BoolVar(&o.ForbidOption, "forbid-socket-option", false, "programs that set the socket option TOEHOLD_OFFLOAD get EPERM")
	limitFlags(cmd, &o.Limits)
	capabilityFlags(cmd, &o.Capability)
	cmd.Flags().Var(&o.RefuseWhen, "refuse-when", "what a connection that the policy wants on a device is refused for when the kernel has measured so much of it lately: loss, reordering, small-io and idle; empty: for none")
	level := cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.Socket = env.socketOf(cmd)
		if err := o.check(*level, cmd.Flags().Changed("listen")); err != nil {
			return err
		}
		o.Log = logger(env.Err, o.LogLevel)
		return env.Daemon(cmd.Context(), o, env)
	}
	return cmd
}

// check says what is wrong with the flags, before anything is touched. listen
// says that an address is given.
func (o *DaemonOptions) check(level string, listen bool) error {
	if err := o.LogLevel.UnmarshalText([]byte(level)); err != nil {
		return usage("log level %q is none of debug, info, warn and error", level)
	}
	names := slices.Clone(o.Uplinks)
	slices.Sort(names)
	switch {
	case len(names) == 0 || slices.Contains(names, ""):
		return usage("name at least one interface with --uplink")
	case len(slices.Compact(names)) != len(o.Uplinks):
		return usage("an uplink is named twice")
	case o.MaxConnections < 1 || o.MaxConnections > maxConnections:
		return usage("max-connections %d is not from 1 to %d", o.MaxConnections, maxConnections)
	case o.Memory < 1<<20:
		return usage("memory %d is less than 1 MiB", o.Memory)
	case o.StaleAfter < 20*time.Millisecond || o.StaleAfter > time.Minute:
		return usage("stale-after %v is not from 20ms to 1m", o.StaleAfter)
	}
	if err := checkLimits(&o.Limits, &o.Capability); err != nil {
		return err
	}
	if err := checkReturns(&o.Returns); err != nil || !listen {
		return err
	}
	if err := metrics.CheckAddress(o.Listen); err != nil {
		return usage("listen: %w", err)
	}
	return nil
}

// addReturns makes the flags that say when a device gives connections back.
func addReturns(cmd *cobra.Command, r *abi.Returns) {
	const back = "have the device give a connection back "
	cmd.Flags().DurationVar(&r.Idle, "return-idle", 0, back+"that carried nothing for so long, from 100ms on; 0: never for that")
	cmd.Flags().Float64Var(&r.Loss, "return-loss", 0, back+"of whose segments more than this part was sent again, such as 0.05; 0: never for that")
	cmd.Flags().Float64Var(&r.Reordering, "return-reordering", 0, back+"of whose peer's segments more than this part came after a gap; 0: never for that")
	cmd.Flags().Float64Var(&r.Fragments, "return-fragments", 0, back+"of whose peer's segments more than this part came as IP fragments; 0: never for that")
	cmd.Flags().Float64Var(&r.SmallIO, "return-small-io", 0, back+"whose segments carry fewer octets on average; 0: never for that")
}

func checkReturns(r *abi.Returns) error {
	switch {
	case r.Idle != 0 && r.Idle < 100*time.Millisecond:
		return usage("return-idle %v is less than 100ms", r.Idle)
	case !(r.Loss >= 0 && r.Loss < 1): // so that NaN is neither
		return usage("return-loss %v is no part from 0 to 1", r.Loss)
	case !(r.Reordering >= 0 && r.Reordering < 1):
		return usage("return-reordering %v is no part from 0 to 1", r.Reordering)
	case !(r.Fragments >= 0 && r.Fragments < 1):
		return usage("return-fragments %v is no part from 0 to 1", r.Fragments)
	case !(r.SmallIO >= 0 && r.SmallIO <= 65535):
		return usage("return-small-io %v is not from 0 to 65535", r.SmallIO)
	}
	return nil
}

func logger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// niceness is the daemon's. It sleeps nearly always, but a device that hangs
// has to be found, and a move to be carried on, at once.
const niceness = -15

// hurry raises the priority of every thread there is; those to come inherit
// it. Without the privilege the daemon is only slower.
func hurry(log *slog.Logger) {
	threads, err := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		id, _ := strconv.Atoi(t.Name())
		err = errors.Join(err, unix.Setpriority(unix.PRIO_PROCESS, id, niceness))
	}
	if err != nil {
		log.Warn("the daemon runs at ordinary priority", "err", err)
	}
}

// Daemon serves until the context ends, then uploads everything. A second
// signal ends it at once.
func Daemon(ctx context.Context, o DaemonOptions, env *Env) error {
	if err := driver.Privileged(); err != nil {
		return err
	}
	hurry(o.Log)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	if err := o.readPolicy(env); err != nil {
		return err
	}
	listeners, err := o.listen()
	defer listeners.close()
	if err != nil {
		return err
	}
	d, err := driver.Start(ctx, o.Config)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.Background())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- listeners.serve(serving, d, o.Log) }()
	fmt.Fprintln(env.Out, "ready")
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			waiting = false
		case err = <-served:
			waiting = false
		case <-hangup:
			o.reload(ctx, env, d)
		}
	}
	again, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	o.Log.Info("every connection goes home; a second signal ends at once")
	err = errors.Join(err, d.Close(again))
	stop()
	if err == nil {
		err = <-served
	}
	return err
}

// readPolicy reads the policy to begin with.
func (o *DaemonOptions) readPolicy(env *Env) error {
	if o.PolicyFile == "" {
		return nil
	}
	source, err := env.readPolicy(o.PolicyFile)
	if err != nil {
		return err
	}
	o.Policy, err = driver.ParsePolicy(o.PolicyFile, source, o.Uplinks)
	return err
}

// reload reads the policy again. When it cannot be read, or there is anything
// wrong with it, the one in force stays.
func (o *DaemonOptions) reload(ctx context.Context, env *Env, d *driver.Driver) {
	if o.PolicyFile == "" {
		o.Log.Warn("SIGHUP reads the policy again, and none was named: daemon --policy FILE")
		return
	}
	source, err := env.readPolicy(o.PolicyFile)
	if err != nil {
		d.PolicyRejected(err)
	} else {
		_, err = d.ApplyPolicy(ctx, o.PolicyFile, source)
	}
	if err != nil {
		o.Log.Error("the policy in force stays", "file", o.PolicyFile)
		complain(o.Log, err)
		return
	}
	o.Log.Info("policy applied", "file", o.PolicyFile)
}

// mostSaid bounds the lines that the log has of one policy.
const mostSaid = 20

// complain logs what is wrong with a policy, each in a line of its own.
func complain(log *slog.Logger, err error) {
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		if i == mostSaid {
			log.Error("more is wrong with the policy: toehold policy check FILE says it", "count", len(lines)-i)
			return
		}
		log.Error("wrong with the policy", "err", line)
	}
}

// listeners are where the daemon is asked: the control socket, and metrics by
// HTTP or nil.
type listeners struct{ control, metrics net.Listener }

// listen opens what is served, before anything is started.
func (o *DaemonOptions) listen() (l listeners, err error) {
	if l.control, err = control.Listen(o.Socket, o.Group); err != nil || o.Listen == "" {
		return l, err
	}
	l.metrics, err = metrics.Listen(o.Listen)
	return l, err
}

func (l *listeners) close() {
	for _, one := range []net.Listener{l.control, l.metrics} {
		if one != nil {
			one.Close()
		}
	}
}

// serve answers until the context ends or a listener fails.
func (l *listeners) serve(ctx context.Context, d *driver.Driver, log *slog.Logger) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pages := make(chan error, 1)
	if l.metrics == nil {
		pages <- nil
	} else {
		log.Info("metrics are served", "address", l.metrics.Addr())
		go func() {
			defer stop()
			pages <- metrics.Serve(ctx, l.metrics, metrics.Handler(d, Version, log), log)
		}()
	}
	err := control.Serve(ctx, l.control, d, Version, log)
	stop()
	return errors.Join(err, <-pages)
}

func deviceCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:    "device",
		Short:  "The device process; started by the daemon",
		Hidden: true,
		Args:   noArgs,
	}
	c := device.Config{
		Socket: driver.DeviceSocket, Uplink: driver.DeviceUplink, HostPort: driver.DeviceHostPort,
		Control: driver.DeviceControl, Pulse: driver.DevicePulse, Blocks: driver.DeviceBlocks, Rings: driver.DeviceRings,
		Confined: true,
	}
	uplink := cmd.Flags().String("uplink", "", "name of the uplink")
	cmd.Flags().IntVar(&c.LinkHeader, "link-header", 14, "octets of the uplink's link header")
	cmd.Flags().IntVar(&c.MaxConnections, "max-connections", defaultConnections, "connections at most")
	cmd.Flags().Int64Var(&c.Memory, "memory", defaultMemory, "octets of buffers at most")
	cmd.Flags().Uint32Var(&c.Generations.First, "first-generation", 1, "first generation in hardware ids")
	cmd.Flags().Uint32Var(&c.Generations.Step, "generation-step", 1, "distance of the generations")
	addReturns(cmd, &c.Returns)
	capabilityFlags(cmd, &c.Capability)
	cmd.Flags().BoolVar(&c.MTUProbing, "mtu-probing", false, "find out what paths carry that drop large segments")
	level := cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var l slog.Level
		if err := l.UnmarshalText([]byte(*level)); err != nil {
			return usage("log level %q is none of debug, info, warn and error", *level)
		}
		if err := c.Capability.Check(); err != nil {
			return usage("%w", err)
		}
		if c.LinkHeader != 0 && c.LinkHeader != 14 {
			return usage("link header of %d octets is neither 14 nor 0", c.LinkHeader)
		}
		c.Log = logger(env.Err, l).With("device", *uplink)
		return env.Device(cmd.Context(), c)
	}
	return cmd
}
