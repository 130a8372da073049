package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Main carries out the process's own command line and returns the exit code.
// extra are commands of packages above this one.
func Main(extra ...func(*Env) *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	env := System()
	env.Extra = extra
	return Run(ctx, env, os.Args[1:])
}
