package driver

import (
	"fmt"
	"slices"
	"strings"

	"toehold/internal/tcb"
	"toehold/internal/tcp"
)

// Controls says which congestion control the device is to use, other than the
// socket's own: by the socket's, "*" standing for each that is not named.
type Controls map[string]string

// ParseControls reads NAME=NAME[,NAME=NAME...], as String writes it.
func ParseControls(text string) (Controls, error) {
	c := make(Controls)
	for _, pair := range strings.Split(text, ",") {
		from, to, ok := strings.Cut(pair, "=")
		switch {
		case !ok || from == "":
			return nil, fmt.Errorf("%q is not of the form NAME=NAME", pair)
		case len(from) > tcb.MaxName:
			return nil, fmt.Errorf("%q is longer than the %d octets of a congestion control's name", from, tcb.MaxName)
		case c[from] != "":
			return nil, fmt.Errorf("%s is named twice", from)
		case !tcp.Supports(to):
			return nil, fmt.Errorf("the device has no congestion control %q, but %s", to, strings.Join(tcp.Algorithms(), ", "))
		}
		c[from] = to
	}
	return c, nil
}

// String is the form that ParseControls reads, in order.
func (c Controls) String() string {
	var pairs []string
	for from, to := range c {
		pairs = append(pairs, from+"="+to)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

// Set and Type make it the value of a flag.
func (c *Controls) Set(text string) (err error) {
	*c, err = ParseControls(text)
	return err
}

// Type is what help calls the value.
func (c *Controls) Type() string { return "NAME=NAME,..." }

// of is the congestion control for a socket that has this one, padded with
// zeros as the kernel has it.
func (c Controls) of(padded [16]byte) [16]byte {
	to, ok := c[text(padded)]
	if !ok {
		to = c["*"]
	}
	if to == "" {
		return padded
	}
	var name [16]byte
	copy(name[:], to)
	return name
}

// text is a name that is padded with zeros.
func text(padded [16]byte) string {
	name, _, _ := strings.Cut(string(padded[:]), "\x00")
	return name
}
