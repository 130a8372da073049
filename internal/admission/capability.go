package admission

import (
	"fmt"
	"strings"

	"toehold/internal/abi"
)

// A Capability is what a device takes upon itself, besides its places and its
// memory.
type Capability struct {
	Segments int      // a second, sent and received; 0: no limit
	Busy     int      // percent of a processor for its loop; 0: no limit
	Without  Features // that it leaves to the kernel
}

// Check says what is wrong with it.
func (c *Capability) Check() error {
	switch {
	case c.Segments < 0:
		return fmt.Errorf("%d segments a second are less than none", c.Segments)
	case c.Busy < 0 || c.Busy > 100:
		return fmt.Errorf("%d percent of a processor are not from 0 to 100", c.Busy)
	}
	return nil
}

// A Gate shuts when what it measures reaches its limit, and opens again when
// that has fallen well below.
type Gate struct {
	Limit float64 // 0: none
	shut  bool
}

// reopen is the part of the limit at which a Gate opens again.
const reopen = 0.8

// Measure takes a value.
func (g *Gate) Measure(v float64) {
	switch {
	case g.Limit <= 0 || v < reopen*g.Limit:
		g.shut = false
	case v >= g.Limit:
		g.shut = true
	}
}

// Shut says that nobody is to come in.
func (g *Gate) Shut() bool { return g.shut }

// Features are protocol features of connections.
type Features uint

// The features that a device may leave to the kernel.
const (
	IPv4 Features = 1 << iota
	IPv6
	Timestamps
	SACK
	WindowScale
	ECN
)

var featureNames = [...]string{"ipv4", "ipv6", "timestamps", "sack", "window-scale", "ecn"}

// negotiated are the flags of an offer that are features, in the features'
// order from Timestamps on.
var negotiated = [...]uint32{abi.FlagTimestamps, abi.FlagSACK, abi.FlagWindowScale, abi.FlagECN}

// known are all flags of an offer that there are.
const known = abi.FlagTimestamps | abi.FlagSACK | abi.FlagWindowScale | abi.FlagECN |
	abi.FlagPeerFIN | abi.FlagLocalFIN | abi.FlagEchoCE | abi.FlagCWRDue

// Lacks says that a connection uses what the device does not have: flags that
// it knows nothing of, or features that it is to do without.
func (c *Capability) Lacks(o *abi.Offer) bool {
	uses := IPv4
	if o.Key.Family == 6 {
		uses = IPv6
	}
	for i, flag := range negotiated {
		if o.Flags&flag != 0 {
			uses |= Timestamps << i
		}
	}
	return uses&c.Without != 0 || o.Flags&^known != 0
}

// String is the features' names, joined by commas.
func (f *Features) String() string {
	var names []string
	for i, name := range featureNames {
		if *f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// Set reads what String writes.
func (f *Features) Set(text string) error {
	*f = 0
	if text == "" {
		return nil
	}
next:
	for name := range strings.SplitSeq(text, ",") {
		for i := range featureNames {
			if featureNames[i] == name {
				*f |= 1 << i
				continue next
			}
		}
		return fmt.Errorf("%q is none of %s", name, strings.Join(featureNames[:], ", "))
	}
	return nil
}

// Type is what help calls the value.
func (f *Features) Type() string { return "FEATURE,..." }
