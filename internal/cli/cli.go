// Package cli is the command line. Commands named by a noun show and change
// nothing; commands named by a verb change one thing and say what they did.
// All effects go through an Env.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"toehold/internal/bpf"
	"toehold/internal/control"
	"toehold/internal/device"
	"toehold/internal/driver"
)

// Exit codes.
const (
	ExitDone    = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitRefused = 3 // at least one connection was refused
)

// A Client is what the commands ask of a daemon. control.Client is one.
type Client interface {
	List(context.Context, driver.Selector) ([]driver.Connection, error)
	Show(context.Context, driver.Selector) (driver.Detail, error)
	Offload(context.Context, driver.Selector, driver.Options) (driver.Result, error)
	Upload(context.Context, driver.Selector) (driver.Result, error)
	Events(ctx context.Context, follow bool, emit func(driver.Event) error) error
	Policy(context.Context) (driver.PolicyView, error)
	ApplyPolicy(ctx context.Context, name string, source []byte) (driver.PolicyView, error)
	CheckPolicy(ctx context.Context, name string, source []byte) (driver.PolicyCheck, error)
	ExplainPolicy(context.Context, driver.Selector) (driver.Explanation, error)
	Devices(context.Context) ([]driver.Device, error)
	RestartDevices(context.Context) ([]driver.Device, error)
	PauseDevices(ctx context.Context, device string, paused bool) ([]driver.Device, error)
	Version(context.Context) (control.Version, error)
}

// An Env is everything outside of the command line itself.
type Env struct {
	Out, Err io.Writer
	Terminal bool // Err is a terminal
	Screen   func() (Screen, error)
	Getenv   func(string) string
	ReadFile func(string) ([]byte, error)
	Now      func() time.Time

	Dial   func(socket string) Client
	Kernel func(driver.Selector) ([]driver.Connection, error) // the connections, without a daemon
	Doctor func() []bpf.Check
	Daemon func(context.Context, DaemonOptions, *Env) error
	Device func(context.Context, device.Config) error
	Extra  []func(*Env) *cobra.Command // demo, bench
}

// An exit is an error with the code that the process ends with.
type exit struct {
	code int
	err  error // nil: all has been said
}

func (e *exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exit{ExitUsage, fmt.Errorf(format, args...)}
}

// Run carries out one command line and returns the exit code.
func Run(ctx context.Context, env *Env, args []string) int {
	root := newRoot(env)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = unknown(cmd, cmd.Flags().Args()) // cobra gives help for it
	}
	if err == nil {
		return ExitDone
	}
	code := codeOf(err)
	if text := err.Error(); text != "" {
		fmt.Fprintf(env.Err, "toehold: %s\n", text)
	}
	if code == ExitUsage {
		fmt.Fprintf(env.Err, "see: %s --help\n", cmd.CommandPath())
	}
	return code
}

// codeOf finds the exit code of an error. Only what this package and the API
// say has a class of its own.
func codeOf(err error) int {
	var e *exit
	var api *control.Error
	switch {
	case errors.As(err, &e):
		return e.code
	case errors.As(err, &api) && (api.Kind == control.Usage || api.Kind == control.Ambiguous):
		return ExitUsage
	case errors.Is(err, driver.ErrSelector), errors.Is(err, driver.ErrAmbiguous):
		return ExitUsage
	}
	return ExitFailed
}

func newRoot(env *Env) *cobra.Command {
	root := &cobra.Command{
		Use:           "toehold",
		Short:         "TCP offload for live connections of unmodified programs",
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs,
		RunE: helpOrUnknown,
	}
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if unknown(cmd, cmd.Flags().Args()) == nil {
			help(cmd, args)
		}
	})
	root.SetOut(env.Out)
	root.SetErr(env.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exit{ExitUsage, err} })
	root.PersistentFlags().String("socket", "", "control socket of the daemon (default $TOEHOLD_SOCKET or "+control.DefaultSocket+")")
	root.AddCommand(
		listCommand(env), showCommand(env), offloadCommand(env), uploadCommand(env), topCommand(env), eventsCommand(env), policyCommand(env),
		deviceStatusCommand(env), deviceRestartCommand(env), devicePauseCommand(env), deviceResumeCommand(env), doctorCommand(env), versionCommand(env),
		daemonCommand(env), deviceCommand(env),
	)
	for _, make := range env.Extra {
		root.AddCommand(make(env))
	}
	root.SetHelpCommand(helpCommand())
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.HasSubCommands() { // completion, with one for each shell
			c.Args, c.RunE = cobra.ArbitraryArgs, helpOrUnknown
		}
	}
	return root
}

func helpOrUnknown(cmd *cobra.Command, args []string) error {
	if err := unknown(cmd, args); err != nil {
		return err
	}
	return cmd.Help()
}

// unknown says that what is left of the arguments names no command of those
// that cmd is made of.
func unknown(cmd *cobra.Command, args []string) error {
	switch {
	case !cmd.HasSubCommands() || len(args) == 0:
		return nil
	case cmd.HasParent():
		return usage("%s has no command %q", cmd.CommandPath(), args[0])
	}
	return usage("there is no command %q", args[0])
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [command]", Short: "Help about a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return &exit{ExitUsage, err}
			}
			return helpOrUnknown(about, rest)
		},
	}
}

// noArgs is cobra.NoArgs with our exit code, and says how it is done.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	switch {
	case cmd.Flags().Lookup("uplink") != nil:
		hint = "; name it with --uplink"
	case cmd.Flags().Lookup("device") != nil:
		hint = "; name it with --device"
	case cmd.Flags().Lookup("all") != nil:
		hint = "; connections are named by flags"
	}
	return usage("%s takes no argument %q%s", cmd.Name(), args[0], hint)
}

// socketOf is the path of the control socket for a command.
func (env *Env) socketOf(cmd *cobra.Command) string {
	given, _ := cmd.Flags().GetString("socket")
	return control.SocketPath(given, env.Getenv)
}

func (env *Env) dial(cmd *cobra.Command) Client { return env.Dial(env.socketOf(cmd)) }
