package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// Main carries out the process's own command line and returns the exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Run(ctx, System(), os.Args[1:])
}
