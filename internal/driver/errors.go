package driver

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"toehold/internal/admission"
	"toehold/internal/flow"
)

// What a selector came to.
var (
	ErrNoMatch   = errors.New("no connection")
	ErrAmbiguous = errors.New("more than one connection")
)

// Options are of one offload.
type Options struct {
	Attachment string        // "" and shadow are the same
	Timeout    time.Duration // for the device to own each connection; 0: DefaultTimeout

	device  string   // the uplink that is meant, "": that of the route
	control [16]byte // congestion control on the device, zero: the connection's own
	why     cause    // zero: an operator asked
	claims  *claims  // nil: operators' ones, of no known rate
}

// claimOf is what a connection has to show for a place on a device.
func (o *Options) claimOf(id flow.ID) admission.Claim {
	if o.claims == nil {
		return admission.Claim{Asked: true}
	}
	return o.claims.of(id)
}

// DefaultTimeout is how long a device may take to own a connection.
const DefaultTimeout = 5 * time.Second

// noMatch names the selector that matched nothing.
func noMatch(s Selector) error {
	if s.Empty() || s == (Selector{All: true}) {
		return fmt.Errorf("%w is there", ErrNoMatch)
	}
	return fmt.Errorf("%w matches %s", ErrNoMatch, s)
}

// listed is how many connections an error lists.
const listed = 10

// One returns the only connection of those that s named.
func One(s Selector, conns []Connection) (*Connection, error) {
	switch len(conns) {
	case 0:
		return nil, noMatch(s)
	case 1:
		return &conns[0], nil
	}
	var b strings.Builder
	for i, c := range conns {
		if i == listed {
			fmt.Fprintf(&b, "\n  and %d more", len(conns)-listed)
			break
		}
		fmt.Fprintf(&b, "\n  --local %s --remote %s", c.Local, c.Remote)
	}
	return nil, fmt.Errorf("%w matches %s; name one of these:%s", ErrAmbiguous, s, b.String())
}
