package cli

import (
	"github.com/spf13/cobra"

	"toehold/internal/admission"
)

// limitFlags are those of who gets a place on a device.
func limitFlags(cmd *cobra.Command, l *admission.Limits) {
	f := cmd.Flags()
	f.IntVar(&l.PerPrefix, "per-prefix", 0, "connections on a device whose peers are in one prefix, at most; 0: no limit")
	f.IntVar(&l.PerUser, "per-user", 0, "connections on a device whose sockets are one user's, at most; 0: no limit")
	f.IntVar(&l.Prefix4, "prefix4", admission.DefaultPrefix4, "bits of an IPv4 prefix, for --per-prefix")
	f.IntVar(&l.Prefix6, "prefix6", admission.DefaultPrefix6, "bits of an IPv6 prefix, for --per-prefix")
	f.DurationVar(&l.MinStay, "min-stay", admission.DefaultMinStay, "how long a connection stays on a full device before it makes room for a more useful one")
}
