package demo

import (
	"github.com/spf13/cobra"

	"toehold/internal/cli"
	"toehold/internal/rig"
)

// maxSeconds is as long as one demo may take.
const maxSeconds = 3600

// Command is `toehold demo`.
func Command(env *cli.Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show everything in a network of its own",
		Long: "Make two network namespaces, run real servers and a client in them, move their live connections to the device\n" +
			"and back under traffic, kill the device once, and compare SHA-256 of all that was sent and received. Needs root\n" +
			"and nothing else, and removes what it made. Ends with 0 only if nothing was lost.",
		Args: rig.NoArgs,
	}
	o := Options{Out: env.Out}
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print one JSON object at the end, and nothing else")
	cmd.Flags().IntVar(&o.Seconds, "seconds", defaultSeconds, "how long to measure traffic, in all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Seconds < 1 || o.Seconds > maxSeconds {
			return rig.Usage("seconds %d is not from 1 to %d", o.Seconds, maxSeconds)
		}
		return Run(cmd.Context(), o)
	}
	return cmd
}
