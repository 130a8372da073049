package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// The verdicts of the programs, as the kernel gives them back.
const (
	next     = 0xffffffff // TCX_NEXT
	drop     = 2          // TCX_DROP
	redirect = 7          // TC_ACT_REDIRECT
)

var (
	steered4 = flow.Make(netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:40000"))
	steered6 = flow.Make(netip.MustParseAddrPort("[fd00::1]:80"), netip.MustParseAddrPort("[fd00::2]:40000"))
)

// segment builds a plain TCP segment of a flow, from its Local to its Remote,
// behind an Ethernet header whose addresses are zero, as loopback's.
func segment(id flow.ID) []byte {
	tcp := make([]byte, 20, 60)
	binary.BigEndian.PutUint16(tcp[0:], id.Local.Port())
	binary.BigEndian.PutUint16(tcp[2:], id.Remote.Port())
	tcp[12] = 5 << 4
	tcp = append(tcp, "payload of a segment"...)
	frame := make([]byte, 14, 128)
	if id.Is4() {
		binary.BigEndian.PutUint16(frame[12:], 0x0800)
		ip := make([]byte, 12)
		ip[0], ip[8], ip[9] = 0x45, 64, 6
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(tcp)))
		frame = append(frame, ip...)
	} else {
		binary.BigEndian.PutUint16(frame[12:], 0x86dd)
		ip := make([]byte, 8)
		ip[0], ip[6], ip[7] = 0x60, 6, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
		frame = append(frame, ip...)
	}
	frame = append(frame, id.Local.Addr().AsSlice()...)
	frame = append(frame, id.Remote.Addr().AsSlice()...)
	return append(frame, tcp...)
}

// variants are segments of a steered flow, and what is nearly one. Each edit
// gets the frame and returns what becomes of it.
var variants = []struct {
	name string
	id   flow.ID
	ours bool
	edit func(frame []byte) []byte
}{
	{"plain", steered4, true, func(f []byte) []byte { return f }},
	{"plain", steered6, true, func(f []byte) []byte { return f }},
	{"traffic class and flow label", steered6, true, func(f []byte) []byte { copy(f[14:], "\x6f\xff\xff\xff"); return f }},
	{"don't fragment", steered4, true, func(f []byte) []byte { f[14+6] = 0x40; return f }},
	{"first fragment", steered4, false, func(f []byte) []byte { f[14+6] = 0x20; return f }},
	{"last fragment", steered4, false, func(f []byte) []byte { f[14+7] = 1; return f }},
	{"fragment at a great offset", steered4, false, func(f []byte) []byte { f[14+6] = 0x10; return f }},
	{"IP options", steered4, false, func(f []byte) []byte {
		f[14] = 0x46
		return slices.Insert(f, 34, 1, 1, 1, 1)
	}},
	{"header length that cannot be", steered4, false, func(f []byte) []byte { f[14] = 0x44; return f }},
	{"version that is not the type's", steered4, false, func(f []byte) []byte { f[14] = 0x65; return f }},
	{"version that is not the type's", steered6, false, func(f []byte) []byte { f[14] = 0x45; return f }},
	{"UDP", steered4, false, func(f []byte) []byte { f[14+9] = 17; return f }},
	{"UDP", steered6, false, func(f []byte) []byte { f[14+6] = 17; return f }},
	{"hop-by-hop header", steered6, false, func(f []byte) []byte {
		f[14+6] = 0
		return slices.Insert(f, 54, 6, 0, 1, 4, 0, 0, 0, 0)
	}},
	{"fragment header", steered6, false, func(f []byte) []byte {
		f[14+6] = 44
		return slices.Insert(f, 54, 6, 0, 0, 1, 0, 0, 0, 1)
	}},
	{"other port", steered4, false, func(f []byte) []byte { f[14+20+1]++; return f }},
	{"other peer", steered6, false, func(f []byte) []byte { f[14+39]++; return f }},
	{"other protocol", steered4, false, func(f []byte) []byte { f[12], f[13] = 0x88, 0xb5; return f }},
	{"tag of a VLAN in the frame", steered4, false, func(f []byte) []byte { return slices.Insert(f, 12, 0x81, 0, 0, 5) }},
	{"cut in the ports", steered4, false, func(f []byte) []byte { return f[:14+20+2] }},
	{"cut in the ports", steered6, false, func(f []byte) []byte { return f[:14+40+2] }},
}

// bench is a Set that is attached to nothing, with both flows steered, on
// which programs are run by themselves.
func bench(t testing.TB, linkHeader uint32) *Set {
	t.Helper()
	s := loadSet(t)
	c := s.Control()
	c.LinkHeader, c.HostPort, c.Uplink = linkHeader, 77, 78
	atomic.StoreUint64(&c.StaleAfter, uint64(time.Hour))
	atomic.StoreUint64(&s.Pulse().Heartbeat, uint64(mono.Now()))
	keys := []flow.Key{steered4.Key(), steered6.Key()}
	if err := s.Steer(keys, []abi.HWID{abi.MakeHWID(1, 1), abi.MakeHWID(2, 1)}); err != nil {
		t.Fatal(err)
	}
	return s
}

// A markContext is struct __sk_buff, of which only the mark matters.
type markContext struct {
	_    [2]uint32
	Mark uint32
	_    [45]uint32
}

// run gives a program one frame with a mark, and returns its verdict and the
// frame and mark after it.
func run(t *testing.T, p *ebpf.Program, frame []byte, mark uint32) (verdict uint32, out []byte, markOut uint32) {
	t.Helper()
	var after markContext
	options := &ebpf.RunOptions{
		Data:       frame,
		DataOut:    make([]byte, 256),
		Context:    markContext{Mark: mark},
		ContextOut: &after,
	}
	verdict, err := p.Run(options)
	if err != nil {
		t.Fatal(err)
	}
	return verdict, options.DataOut, after.Mark
}

func TestEgressTurnsOnlyPlainSegmentsOfSteeredFlows(t *testing.T) {
	s := bench(t, 14)
	for _, v := range variants {
		want := uint32(next)
		if v.ours {
			want = redirect
		}
		if got, _, _ := run(t, s.steer.Egress, v.edit(segment(v.id)), 0); got != want {
			t.Errorf("%s, IPv4 %t: verdict %d, want %d", v.name, v.id.Is4(), int32(got), int32(want))
		}
	}
	// The peer's segments do not leave by the uplink.
	if got, _, _ := run(t, s.steer.Egress, segment(steered4.Reverse()), 0); got != next {
		t.Errorf("reversed flow: verdict %d", int32(got))
	}
}

// The kernel runs a socket filter by itself on what is behind the link
// header, which is what an uplink without link headers has.
func TestFilterAcceptsOnlyPlainSegmentsOfSteeredFlows(t *testing.T) {
	s := bench(t, 0)
	for _, v := range variants {
		// Addresses and ports are exchanged: these come from the peer.
		v.id = v.id.Reverse()
		if err := s.Steer([]flow.Key{v.id.Reverse().Key()}, []abi.HWID{1}); err != nil {
			t.Fatal(err)
		}
		frame := v.edit(segment(v.id))
		if got, _, _ := run(t, s.steer.Filter, frame, 0); (got == 0xffffffff) != v.ours || !v.ours && got != 0 {
			t.Errorf("%s, IPv4 %t: verdict %d", v.name, v.id.Is4(), int32(got))
		}
		if got, _, _ := run(t, s.steer.Filter, frame, abi.MarkInject); got != 0 {
			t.Errorf("%s: an injected frame was accepted", v.name)
		}
		frame[0] ^= 2 // addressed to another host
		if got, _, _ := run(t, s.steer.Filter, frame, 0); got != 0 {
			t.Errorf("%s: a frame for another host was accepted", v.name)
		}
	}
	if got, _, _ := run(t, s.steer.Filter, segment(steered4), 0); got != 0 {
		t.Error("a frame of S was accepted")
	}
}

func TestIngressPassesWhatTheFilterDidNotTake(t *testing.T) {
	s := bench(t, 14)
	if got, _, _ := run(t, s.steer.Ingress, segment(steered4.Reverse()), 0); got != next {
		t.Errorf("a frame that nobody has was dropped: %d", int32(got))
	}
	if got, _, mark := run(t, s.steer.Ingress, segment(steered4.Reverse()), abi.MarkInject); got != next || mark != 0 {
		t.Errorf("an injected frame: verdict %d, mark %#x", int32(got), mark)
	}
}

func TestDeviceFramesOnEgress(t *testing.T) {
	s := bench(t, 14)
	frame := segment(steered4)
	if got, _, mark := run(t, s.steer.Egress, frame, abi.MarkWire); got != next || mark != 0 {
		t.Errorf("alive: verdict %d, mark %#x", int32(got), mark)
	}
	if got, _, mark := run(t, s.steer.Egress, segment(flow.Make(steered4.Remote, steered4.Remote)), 5); got != next || mark != 5 {
		t.Errorf("another's mark: verdict %d, mark %#x", int32(got), mark)
	}
	atomic.StoreUint32(&s.Control().Fenced, 1)
	if got, _, _ := run(t, s.steer.Egress, frame, abi.MarkWire); got != drop {
		t.Errorf("fenced: verdict %d", int32(got))
	}
	if got, _, _ := run(t, s.steer.Egress, frame, 0); got != next {
		t.Errorf("fenced, frame of S: verdict %d", int32(got))
	}
}

func TestInject(t *testing.T) {
	s := bench(t, 14)
	if got, _, mark := run(t, s.steer.Inject, segment(steered4.Reverse()), 0); got != redirect || mark != abi.MarkInject {
		t.Errorf("alive: verdict %d, mark %#x", int32(got), mark)
	}
	atomic.StoreUint32(&s.Control().Fenced, 1)
	if got, _, _ := run(t, s.steer.Inject, segment(steered4.Reverse()), 0); got != drop {
		t.Errorf("fenced: verdict %d", int32(got))
	}
}

func TestStaleHeartbeatFencesOnce(t *testing.T) {
	s := bench(t, 14)
	c := s.Control()
	atomic.StoreUint64(&c.StaleAfter, uint64(time.Millisecond))
	atomic.StoreUint64(&s.Pulse().Heartbeat, uint64(mono.Now().Add(-time.Second)))
	for range 3 {
		if got, _, _ := run(t, s.steer.Egress, segment(steered4), 0); got != next {
			t.Errorf("verdict %d", int32(got))
		}
	}
	// The device's return does not unfence it: it missed what went by.
	atomic.StoreUint64(&s.Pulse().Heartbeat, uint64(mono.Now().Add(time.Hour)))
	if got, _, _ := run(t, s.steer.Inject, segment(steered4), 0); got != drop {
		t.Errorf("verdict %d on what a fenced device injects", int32(got))
	}
	if f, n, by := atomic.LoadUint32(&c.Fenced), atomic.LoadUint64(&c.Fences), atomic.LoadUint64(&c.Bypassed); f != 1 || n != 1 || by != 3 {
		t.Errorf("fenced %d, %d times, %d bypassed", f, n, by)
	}
}

// The kernel's test run takes the type of a packet from where an Ethernet
// header would have it. These source addresses have it there, so that the
// packets can start with the IP header.
func TestLinkHeaderIsAddedForTheHostPort(t *testing.T) {
	s := bench(t, 0)
	for local, header := range map[string]string{
		"8.0.0.1:80":          "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00",
		"[fd00:0:86dd::1]:80": "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x86\xdd",
	} {
		id := flow.Make(netip.MustParseAddrPort(local), netip.MustParseAddrPort("10.0.0.2:40000"))
		if !id.Is4() {
			id.Remote = steered6.Remote
		}
		if err := s.Steer([]flow.Key{id.Key()}, []abi.HWID{1}); err != nil {
			t.Fatal(err)
		}
		packet := segment(id)[14:]
		got, out, _ := run(t, s.steer.Egress, packet, 0)
		if got != redirect || string(out) != header+string(packet) {
			t.Errorf("%v: verdict %d, frame %x", id, int32(got), out)
		}
	}
}

func TestSteerAndUnsteer(t *testing.T) {
	s := loadSet(t)
	var keys []flow.Key
	var ids []abi.HWID
	for i := range 1024 {
		local := netip.AddrPortFrom(steered4.Local.Addr(), uint16(i))
		keys = append(keys, flow.Make(local, steered4.Remote).Key())
		ids = append(ids, abi.MakeHWID(uint32(i), 1))
	}
	count := func() int {
		t.Helper()
		all, err := s.Steered()
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range all {
			if !slices.Contains(keys, k) {
				t.Errorf("%v is steered", k.ID())
			}
		}
		return len(all)
	}
	for _, step := range []struct {
		name string
		do   func() error
		fail bool
		want int
	}{
		{"nothing", func() error { return s.Steer(nil, nil) }, false, 0},
		{"unequal", func() error { return s.Steer(keys[:2], ids[:1]) }, true, 0},
		{"some", func() error { return s.Steer(keys[:10], ids[:10]) }, false, 10},
		{"again", func() error { return s.Steer(keys[5:10], ids[:5]) }, false, 10},
		{"unsteer one", func() error { return s.Unsteer(keys[3:4]) }, false, 9},
		{"unsteer more than there are", func() error { return s.Unsteer(keys[:20]) }, false, 0},
		{"unsteer nothing", func() error { return s.Unsteer(nil) }, false, 0},
		{"all", func() error { return s.Steer(keys, ids) }, false, 1024},
		{"unsteer all but ten", func() error { return s.Unsteer(keys[10:]) }, false, 10},
		{"too many", func() error {
			more := make([]flow.Key, 1020)
			for i := range more {
				more[i] = flow.Make(netip.AddrPortFrom(steered6.Local.Addr(), uint16(i)), steered6.Remote).Key()
			}
			return s.Steer(more, make([]abi.HWID, len(more)))
		}, true, 10},
		{"unsteer the rest", func() error { return s.Unsteer(keys) }, false, 0},
	} {
		if err := step.do(); (err != nil) != step.fail {
			t.Errorf("%s: %v", step.name, err)
		}
		if got := count(); got != step.want {
			t.Errorf("%s: %d flows are steered, want %d", step.name, got, step.want)
		}
	}
}

// What a frame costs, by the kernel's own count.
func BenchmarkPrograms(b *testing.B) {
	const repeat = 100_000
	for _, bm := range []struct {
		name       string
		linkHeader uint32
		program    func(s *Set) *ebpf.Program
		frame      []byte
	}{
		{"egress/steered", 14, func(s *Set) *ebpf.Program { return s.steer.Egress }, segment(steered4)},
		{"egress/steered6", 14, func(s *Set) *ebpf.Program { return s.steer.Egress }, segment(steered6)},
		{"egress/other", 14, func(s *Set) *ebpf.Program { return s.steer.Egress }, segment(steered4.Reverse())},
		{"filter/steered", 0, func(s *Set) *ebpf.Program { return s.steer.Filter }, segment(steered4.Reverse())},
		{"filter/other", 0, func(s *Set) *ebpf.Program { return s.steer.Filter }, segment(steered4)},
		{"ingress/other", 14, func(s *Set) *ebpf.Program { return s.steer.Ingress }, segment(steered4)},
		{"inject", 14, func(s *Set) *ebpf.Program { return s.steer.Inject }, segment(steered4)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			s := bench(b, bm.linkHeader)
			var total time.Duration
			runs := 0
			for b.Loop() {
				_, each, err := bm.program(s).Benchmark(bm.frame, repeat, nil)
				if err != nil {
					b.Fatal(err)
				}
				total += each
				runs++
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(runs), "ns/frame")
		})
	}
}
