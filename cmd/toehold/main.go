// Command toehold is TCP offload for live connections of unmodified programs.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"toehold/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, cli.System(), os.Args[1:])
	stop()
	os.Exit(code)
}
