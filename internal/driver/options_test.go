package driver_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/driver"
	"toehold/internal/wire"
)

// What an unmodified program sets of its socket takes effect on the wire while
// the device has the connection, as it would in the kernel. docs/OPTIONS.md
// lists the options with how each gets there.

// Options of the IP header.
func TestOptionsOfTheHeader(t *testing.T) {
	eachFamilyAndAttachment(t, func(t *testing.T, six bool, attachment string) {
		r := newRig(t)
		p := r.connect(1, six)[0]
		c := r.arrivals(p)
		r.place(p, attachment)
		for _, o := range headerOptions(six) {
			begin := c.now()
			p.set(t, o.level, o.name, o.value)
			p.exchange(t, o.what)
			c.await(o.what, begin, func(s *seen) bool { return s.Seg.Payload.Len > 0 && o.is(&s.Packet) })
		}
		r.onDevice(p)
	})
}

// eachFamilyAndAttachment runs a test with each.
func eachFamilyAndAttachment(t *testing.T, f func(t *testing.T, six bool, attachment string)) {
	for name, six := range map[string]bool{"IPv4": false, "IPv6": true} {
		for _, attachment := range []string{driver.Shadow, driver.Bypass} {
			t.Run(name+"/"+attachment, func(t *testing.T) { f(t, six, attachment) })
		}
	}
}

type headerOption struct {
	what               string
	level, name, value int
	is                 func(p *wire.Packet) bool
}

func headerOptions(six bool) []headerOption {
	ttl := func(n uint8) func(*wire.Packet) bool { return func(p *wire.Packet) bool { return p.TTL == n } }
	tos := func(n uint8) func(*wire.Packet) bool { return func(p *wire.Packet) bool { return p.TOS&^3 == n } }
	if six {
		const autoFlowLabel = 70 // IPV6_AUTOFLOWLABEL
		return []headerOption{
			{"the hop limit", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 33, ttl(33)},
			{"another hop limit", unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 34, ttl(34)},
			{"the traffic class", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 0x28, tos(0x28)},
			{"a flow label", unix.IPPROTO_IPV6, autoFlowLabel, 1, func(p *wire.Packet) bool { return p.FlowLabel != 0 }},
			{"no flow label", unix.IPPROTO_IPV6, autoFlowLabel, 0, func(p *wire.Packet) bool { return p.FlowLabel == 0 }},
			{"another flow label", unix.IPPROTO_IPV6, autoFlowLabel, 1, func(p *wire.Packet) bool { return p.FlowLabel != 0 }},
		}
	}
	return []headerOption{
		{"the TTL", unix.IPPROTO_IP, unix.IP_TTL, 33, ttl(33)},
		{"another TTL", unix.IPPROTO_IP, unix.IP_TTL, 34, ttl(34)},
		{"the type of service", unix.IPPROTO_IP, unix.IP_TOS, 0x28, tos(0x28)},
		{"no DF", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT, func(p *wire.Packet) bool { return !p.DF }},
		{"DF", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO, func(p *wire.Packet) bool { return p.DF }},
	}
}

// SO_MARK and SO_PRIORITY are those of the device's frames too, and what rules
// have made of them on the way is.
func TestOptionsOfTheClass(t *testing.T) {
	r := newRig(t)
	last := r.classes()
	eachFamilyAndAttachment(t, func(t *testing.T, six bool, attachment string) {
		r := r.of(t)
		p := r.connect(1, six)[0]
		p.set(t, unix.SOL_SOCKET, unix.SO_MARK, 0x11)
		r.place(p, attachment)
		for _, o := range []struct {
			name, value int
			want        class
		}{
			{unix.SO_PRIORITY, 5, class{Mark: 0x11, Priority: 5}},
			{unix.SO_MARK, 0x77, class{Mark: 0x77, Priority: 5}},
			{unix.SO_PRIORITY, 6, class{Mark: 0x77, Priority: 6}},
			{unix.SO_MARK, 0, class{Priority: 6}},
		} {
			p.set(t, unix.SOL_SOCKET, o.name, o.value)
			p.send(t, 1000)
			eventually(t, "frames are of the class", func() bool { return last() == o.want })
		}
		r.onDevice(p)
	})
}
