// Command toehold is TCP offload for live connections of unmodified programs.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"toehold/internal/bench"
	"toehold/internal/cli"
	"toehold/internal/demo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	env := cli.System()
	env.Extra = []func(*cli.Env) *cobra.Command{demo.Command, bench.Command}
	code := cli.Run(ctx, env, os.Args[1:])
	stop()
	os.Exit(code)
}
