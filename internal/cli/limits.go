package cli

import (
	"github.com/spf13/cobra"

	"toehold/internal/admission"
)

// capabilityFlags are those of what a device takes upon itself.
func capabilityFlags(cmd *cobra.Command, c *admission.Capability) {
	f := cmd.Flags()
	f.IntVar(&c.Segments, "max-segments", 0, "segments a second, sent and received, from which a device takes nobody new; 0: no limit")
	f.IntVar(&c.Busy, "max-busy", 0, "percent of a processor that the device's loop uses from which it takes nobody new; 0: no limit")
	f.Var(&c.Without, "without", "features of connections that a device leaves to the kernel: ipv4, ipv6, timestamps, sack, window-scale, ecn")
}

// checkLimits says what is wrong with either.
func checkLimits(l *admission.Limits, c *admission.Capability) error {
	err := l.Check()
	if err == nil {
		err = c.Check()
	}
	if err != nil {
		return usage("%w", err)
	}
	return nil
}

// limitFlags are those of who gets a place on a device.
func limitFlags(cmd *cobra.Command, l *admission.Limits) {
	f := cmd.Flags()
	f.IntVar(&l.PerPrefix, "per-prefix", 0, "connections on a device whose peers are in one prefix, at most; 0: no limit")
	f.IntVar(&l.PerUser, "per-user", 0, "connections on a device whose sockets are one user's, at most; 0: no limit")
	f.IntVar(&l.Prefix4, "prefix4", admission.DefaultPrefix4, "bits of an IPv4 prefix, for --per-prefix")
	f.IntVar(&l.Prefix6, "prefix6", admission.DefaultPrefix6, "bits of an IPv6 prefix, for --per-prefix")
	f.DurationVar(&l.MinStay, "min-stay", admission.DefaultMinStay, "how long a connection stays on a full device before it makes room for a more useful one")
}
