package driver

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"toehold/internal/abi"
)

func TestParseEndpoint(t *testing.T) {
	for _, tt := range []struct {
		in, addr string
		port     uint16
	}{
		{"10.0.0.1", "10.0.0.1", 0},
		{"10.0.0.1:80", "10.0.0.1", 80},
		{"fd00::1", "fd00::1", 0},
		{"[fd00::1]", "fd00::1", 0},
		{"[fd00::1]:443", "fd00::1", 443},
		{"fe80::1%eth0", "fe80::1", 0},
		{"::ffff:10.0.0.1", "10.0.0.1", 0},
		{"[::ffff:10.0.0.1]:80", "10.0.0.1", 80},
		{":443", "", 443},
	} {
		e, err := ParseEndpoint(tt.in)
		want := Endpoint{Port: tt.port}
		if tt.addr != "" {
			want.Addr = netip.MustParseAddr(tt.addr)
		}
		if err != nil || e != want {
			t.Errorf("%q is %v, %v", tt.in, e, err)
			continue
		}
		if again, err := ParseEndpoint(e.String()); err != nil || again != e {
			t.Errorf("%q is written %q and read as %v, %v", tt.in, e, again, err)
		}
	}
	for _, in := range []string{"", ":", ":0", ":99999", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:x", "10.0.0", "host:80", "[fd00::1", "fd00::1]:x", "[]:80", "1.2.3.4:80:90"} {
		if e, err := ParseEndpoint(in); !errors.Is(err, ErrSelector) {
			t.Errorf("%q is %v, %v", in, e, err)
		}
	}
}

func conn(edit func(*Connection)) *Connection {
	c := &Connection{
		ID: "3-1", Place: OnDevice, PID: 42,
		Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:40000"),
	}
	if edit != nil {
		edit(c)
	}
	return c
}

func TestMatch(t *testing.T) {
	end := func(s string) Endpoint {
		e, err := ParseEndpoint(s)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for _, tt := range []struct {
		name string
		sel  Selector
		conn *Connection
		want bool
	}{
		{"everything", Selector{}, conn(nil), true},
		{"all", Selector{All: true}, conn(nil), true},
		{"id", Selector{ID: abi.MakeHWID(3, 1)}, conn(nil), true},
		{"stale id", Selector{ID: abi.MakeHWID(3, 2)}, conn(nil), false},
		{"pid", Selector{PID: 42}, conn(nil), true},
		{"another pid", Selector{PID: 43}, conn(nil), false},
		{"local address", Selector{Local: end("10.0.0.1")}, conn(nil), true},
		{"local port", Selector{Local: end(":80")}, conn(nil), true},
		{"remote as local", Selector{Local: end("10.0.0.2:40000")}, conn(nil), false},
		{"remote", Selector{Remote: end("10.0.0.2:40000")}, conn(nil), true},
		{"device", Selector{State: OnDevice}, conn(nil), true},
		{"moving counts as the device's", Selector{State: OnDevice}, conn(func(c *Connection) { c.Place = OnTheWay }), true},
		{"kernel", Selector{State: InKernel}, conn(nil), false},
		{"parts narrow", Selector{PID: 42, Remote: end("10.0.0.3")}, conn(nil), false},
		{"all narrows too", Selector{All: true, State: InKernel}, conn(nil), false},
	} {
		if got := tt.sel.Match(tt.conn); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestSelectorRoundTrip(t *testing.T) {
	for _, s := range []Selector{
		{}, {All: true}, {ID: abi.MakeHWID(3, 1)}, {PID: 7, State: OnDevice},
		{Local: Endpoint{Port: 80}, Remote: Endpoint{Addr: netip.MustParseAddr("fd00::1"), Port: 443}},
	} {
		got, err := ParseSelector(s.Query())
		if err != nil || got != s {
			t.Errorf("%v went as %v and came as %v, %v", s, s.Query(), got, err)
		}
	}
	s := Selector{All: true, PID: 7, Remote: Endpoint{Port: 80}}
	if got := s.String(); got != "--all --pid 7 --remote :80" {
		t.Errorf("as flags: %s", got)
	}
}

func TestSelectorFlow(t *testing.T) {
	s := Selector{Local: Endpoint{netip.MustParseAddr("10.0.0.1"), 80}, Remote: Endpoint{netip.MustParseAddr("10.0.0.2"), 90}}
	if id, ok := s.Flow(); !ok || id.String() != "10.0.0.1:80 10.0.0.2:90" {
		t.Errorf("the flow is %v, %v", id, ok)
	}
	s.Remote.Port = 0
	if _, ok := s.Flow(); ok {
		t.Error("a selector without a port names one flow")
	}
}

// Nothing that comes over the API may do more than be refused.
func FuzzParseSelector(f *testing.F) {
	f.Add("all=true&pid=3&local=10.0.0.1:80&remote=[fd00::1]:2&id=3-1&state=device")
	f.Add("pid=-1")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		s, err := ParseSelector(q)
		if err != nil {
			if !errors.Is(err, ErrSelector) {
				t.Errorf("%q: %v is of no class", query, err)
			}
			return
		}
		again, err := ParseSelector(s.Query())
		if err != nil || again != s {
			t.Errorf("%q is %v and again %v, %v", query, s, again, err)
		}
	})
}

func TestOne(t *testing.T) {
	var conns []Connection
	for n := range 12 {
		conns = append(conns, *conn(func(c *Connection) { c.Remote = netip.AddrPortFrom(c.Remote.Addr(), uint16(n+1)) }))
	}
	s := Selector{PID: 42}
	if _, err := One(s, nil); !errors.Is(err, ErrNoMatch) || !strings.Contains(err.Error(), "--pid 42") {
		t.Errorf("none: %v", err)
	}
	if c, err := One(s, conns[:1]); err != nil || c != &conns[0] {
		t.Errorf("one: %v, %v", c, err)
	}
	_, err := One(s, conns)
	if !errors.Is(err, ErrAmbiguous) || strings.Count(err.Error(), "--remote") != listed || !strings.Contains(err.Error(), "and 2 more") {
		t.Errorf("twelve: %v", err)
	}
}
