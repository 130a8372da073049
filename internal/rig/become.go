package rig

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"toehold/internal/cli"
	"toehold/internal/control"
)

// Usage is an error of a command line that cannot be meant.
func Usage(format string, args ...any) error {
	return &control.Error{Kind: control.Usage, Message: fmt.Sprintf(format, args...)}
}

// NoArgs is for commands that take flags alone.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usage("%s takes no argument %q", cmd.Name(), args[0])
	}
	return nil
}

// Become turns a process that was started with a command of toehold into
// that command, and returns otherwise. A test binary whose TestMain calls it
// serves as the program of its own rigs.
func Become() {
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-") {
		return
	}
	os.Exit(cli.Main())
}
