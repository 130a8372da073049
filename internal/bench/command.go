package bench

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"toehold/internal/cli"
	"toehold/internal/rig"
)

// Command is `toehold bench`.
func Command(env *cli.Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure, side by side with the kernel",
		Long: "Make two network namespaces and measure connections over their veth in the kernel and on the device, by turns:\n" +
			"bulk (1 and 8 connections, both directions), small requests, moves of one connection, moves of many at once.\n" +
			"Only when asked for: paths, the goodput over a wire that delays, loses, reorders and doubles, some ten minutes;\n" +
			"cpu, what requests of programs (an echo, and redis and nginx where they are installed) cost the host's processor in the\n" +
			"kernel and by each attachment, some seven minutes; attach, bulk and moves by each attachment.",
		Args: rig.NoArgs,
	}
	o := Options{Out: env.Out, Progress: env.Err}
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print one JSON object")
	cmd.Flags().IntVar(&o.Rounds, "rounds", defaultRounds, "measurements in each place, whose median counts")
	cmd.Flags().DurationVar(&o.Window, "window", defaultWindow, "how long one measurement takes")
	cmd.Flags().IntVar(&o.Batch, "batch", defaultBatch, "connections that are moved at once")
	cmd.Flags().StringSliceVar(&o.Only, "only", nil, "measure only these: "+strings.Join(parts, ", "))
	cmd.Flags().IntVar(&o.Paths.Rounds, "path-rounds", defaultPathRounds, "transfers over a path in each place, whose sum counts, at least")
	cmd.Flags().Float64Var(&o.Paths.Error, "path-error", defaultPathError, "transfers go on until the standard error of a ratio is no greater")
	cmd.Flags().IntVar(&o.Paths.Most, "path-most", defaultPathMost, "transfers over a path at most")
	cmd.Flags().DurationVar(&o.Paths.Window, "path-window", defaultPathWindow, "how long one transfer over a path takes")
	cmd.Flags().IntVar(&o.Paths.AtOnce, "paths-at-once", defaultPathsAtOnce, "paths that are measured at the same time")
	cmd.Flags().StringSliceVar(&o.Paths.Congestion, "path-congestion", pathCongestion, "congestion controls to use over paths")
	cmd.Flags().StringVar(&o.Paths.Match, "path-match", "", "only paths whose description, as it is printed meanwhile, matches this regular expression")
	cmd.Flags().BoolVar(&o.Paths.Blank, "path-blank", false, "measure Linux in the device's place too, which shows the spread of the figures")
	cmd.Flags().StringVar(&o.CPUMatch, "cpu-match", "", "only requests of cpu whose description, as it is printed meanwhile, matches this regular expression")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return rig.Usage("%v", err)
		}
		return Run(cmd.Context(), o)
	}
	return cmd
}

// Bounds of the flags.
const (
	maxRounds = 1000
	maxBatch  = 15000 // what a device has room for, but for the server's own
	minWindow = 10 * time.Millisecond
	maxWindow = time.Hour
	maxAtOnce = 64
)

// check says what is wrong with the flags, before anything is made.
func (o *Options) check() error {
	switch {
	case o.Rounds < 1 || o.Rounds > maxRounds:
		return fmt.Errorf("rounds %d is not from 1 to %d", o.Rounds, maxRounds)
	case o.Window < minWindow || o.Window > maxWindow:
		return fmt.Errorf("window %v is not from %v to %v", o.Window, minWindow, maxWindow)
	case o.Batch < 1 || o.Batch > maxBatch:
		return fmt.Errorf("batch %d is not from 1 to %d", o.Batch, maxBatch)
	}
	return errors.Join(CheckParts(o.Only), o.Paths.check(), o.checkMatch())
}
