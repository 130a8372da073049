package driver

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"toehold/internal/abi"
	"toehold/internal/flow"
)

// A Selector names connections. Its parts narrow each other; the zero
// Selector names none, except where a command says that it names all.
type Selector struct {
	All    bool
	ID     abi.HWID // 0: any
	PID    int      // 0: any
	Local  Endpoint
	Remote Endpoint
	State  string // "", kernel or device
}

// An Endpoint is an address, a port or both. The zero Endpoint is any.
type Endpoint struct {
	Addr netip.Addr // invalid: any
	Port uint16     // 0: any
}

// ErrSelector is a selector that cannot be meant: the usage is wrong.
var ErrSelector = errors.New("selector")

// ParseEndpoint reads ADDR, ADDR:PORT, [V6]:PORT, [V6] or :PORT.
func ParseEndpoint(s string) (Endpoint, error) {
	var e Endpoint
	if ap, err := netip.ParseAddrPort(s); err == nil {
		if ap.Port() == 0 {
			return e, fmt.Errorf("%w: port 0 in %q names no connection", ErrSelector, s)
		}
		return Endpoint{ap.Addr().Unmap().WithZone(""), ap.Port()}, nil
	}
	if port, ok := strings.CutPrefix(s, ":"); ok && !strings.Contains(port, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n != 0 {
			return Endpoint{Port: uint16(n)}, nil
		}
	}
	bare := s
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		bare = strings.TrimSuffix(inner, "]")
	}
	if a, err := netip.ParseAddr(bare); err == nil {
		return Endpoint{Addr: a.Unmap().WithZone("")}, nil
	}
	return e, fmt.Errorf("%w: %q is not of the form ADDR, ADDR:PORT, [V6]:PORT or :PORT", ErrSelector, s)
}

// String is what ParseEndpoint reads, "" for any.
func (e Endpoint) String() string {
	switch {
	case e == Endpoint{}:
		return ""
	case !e.Addr.IsValid():
		return fmt.Sprintf(":%d", e.Port)
	case e.Port == 0:
		return e.Addr.String()
	}
	return netip.AddrPortFrom(e.Addr, e.Port).String()
}

// Match reports whether a is named by e.
func (e Endpoint) Match(a netip.AddrPort) bool {
	return (!e.Addr.IsValid() || e.Addr == a.Addr()) && (e.Port == 0 || e.Port == a.Port())
}

// full says that e names one address and port.
func (e Endpoint) full() bool { return e.Addr.IsValid() && e.Port != 0 }

// Empty reports whether s names nothing.
func (s Selector) Empty() bool { return s == Selector{} }

// Check says what is wrong with a selector. Empty ones are for the caller to
// judge.
func (s Selector) Check() error {
	switch {
	case s.PID < 0:
		return fmt.Errorf("%w: %d is no process id", ErrSelector, s.PID)
	case s.State != "" && s.State != InKernel && s.State != OnDevice:
		return fmt.Errorf("%w: state %q is neither kernel nor device", ErrSelector, s.State)
	case s.ID != 0 && s.State == InKernel:
		return fmt.Errorf("%w: a hardware id names a connection on a device; leave out --state kernel", ErrSelector)
	case s.Local.Addr.IsValid() && s.Remote.Addr.IsValid() && s.Local.Addr.Is4() != s.Remote.Addr.Is4():
		return fmt.Errorf("%w: %s and %s are of different families", ErrSelector, s.Local, s.Remote)
	}
	return nil
}

// Match reports whether c is named by s.
func (s Selector) Match(c *Connection) bool {
	return (s.ID == 0 || s.ID.String() == c.ID) &&
		(s.PID == 0 || s.PID == c.PID) &&
		s.Local.Match(c.Local) && s.Remote.Match(c.Remote) &&
		(s.State == "" || s.State == c.Place || s.State == OnDevice && c.Place == OnTheWay)
}

// Flow is the one four-tuple that s can mean, when it says so much.
func (s Selector) Flow() (flow.ID, bool) {
	if !s.Local.full() || !s.Remote.full() {
		return flow.ID{}, false
	}
	return flow.ID{
		Local:  netip.AddrPortFrom(s.Local.Addr, s.Local.Port),
		Remote: netip.AddrPortFrom(s.Remote.Addr, s.Remote.Port),
	}, true
}

// String is the selector as flags of a command.
func (s Selector) String() string {
	var flags []string
	if s.All {
		flags = append(flags, "--all")
	}
	for key, values := range s.values() {
		flags = append(flags, "--"+key+" "+values)
	}
	return strings.Join(flags, " ")
}

// values yields the parts of s but All, in a fixed order, as the flags and the
// API name them.
func (s Selector) values() func(yield func(key, value string) bool) {
	var pid string
	if s.PID != 0 {
		pid = strconv.Itoa(s.PID)
	}
	parts := [...][2]string{{"id", s.ID.String()}, {"pid", pid}, {"local", s.Local.String()}, {"remote", s.Remote.String()}, {"state", s.State}}
	return func(yield func(key, value string) bool) {
		for _, p := range parts {
			if p[1] != "" && !yield(p[0], p[1]) {
				return
			}
		}
	}
}

// Query is the selector as the API carries it.
func (s Selector) Query() url.Values {
	q := make(url.Values)
	if s.All {
		q.Set("all", "true")
	}
	for key, value := range s.values() {
		q.Set(key, value)
	}
	return q
}

// ParseSelector reads what Query writes, and checks it. Keys that it does not
// know are an error: a misspelled one would widen what is named.
func ParseSelector(q url.Values) (Selector, error) {
	var s Selector
	for key, values := range q {
		if len(values) != 1 {
			return s, fmt.Errorf("%w: %s is given %d times", ErrSelector, key, len(values))
		}
		if err := s.set(key, values[0]); err != nil {
			return s, err
		}
	}
	return s, s.Check()
}

func (s *Selector) set(key, value string) (err error) {
	switch key {
	case "all":
		if s.All, err = strconv.ParseBool(value); err != nil {
			err = fmt.Errorf("all is true or false, not %q", value)
		}
	case "id":
		s.ID, err = abi.ParseHWID(value)
	case "pid":
		if s.PID, err = strconv.Atoi(value); err != nil || s.PID <= 0 {
			err = fmt.Errorf("%q is no process id", value)
		}
	case "local":
		s.Local, err = ParseEndpoint(value)
	case "remote":
		s.Remote, err = ParseEndpoint(value)
	case "state":
		s.State = value
	default:
		return fmt.Errorf("%w: unknown part %q", ErrSelector, key)
	}
	if err != nil && !errors.Is(err, ErrSelector) {
		err = fmt.Errorf("%w: %w", ErrSelector, err)
	}
	return err
}
