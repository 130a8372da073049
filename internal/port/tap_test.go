package port

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/frame"
	"toehold/internal/testnet"
	"toehold/internal/wire"
)

// host is a namespace with a TAP, its port, and the port of a packet socket
// on the TAP, which sends what the TAP receives and hears what it sends.
type host struct {
	ns     *testnet.Namespace
	pool   *frame.Pool
	name   string
	tap    *TAP
	beside *Packet
}

func newHost(t testing.TB) *host { return newHostOn(t, frame.NewPool(256<<20)) }

func newHostOn(t testing.TB, pool *frame.Pool) *host {
	t.Helper()
	h := &host{ns: namespace(t), pool: pool}
	in(t, h.ns, func() error {
		fd, name, ifindex, err := OpenTAP("toe%d")
		if err != nil {
			return err
		}
		h.name = name
		if h.tap, err = NewTAP(fd, h.pool); err != nil {
			return err
		}
		if fd, err = OpenPacketSocket(ifindex, -1, 0); err != nil {
			return err
		}
		h.beside, err = NewPacket(fd, h.pool)
		return err
	})
	t.Cleanup(func() {
		h.beside.Close()
		h.tap.Close()
	})
	return h
}

// ether is a frame that no protocol handles.
func ether(text string) string {
	return "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5" + text
}

func (h *host) stats(t testing.TB) (s Stats) {
	t.Helper()
	in(t, h.ns, func() error { s = h.tap.Stats(); return nil })
	return s
}

func TestTAPIsSilentAndDeep(t *testing.T) {
	h := newHost(t)
	in(t, h.ns, func() error {
		l, err := netlink.LinkByName(h.name)
		if err != nil {
			return err
		}
		a := l.Attrs()
		if a.TxQLen < 10000 || a.MTU < 65000 || a.Flags&unix.IFF_UP == 0 || a.RawFlags&unix.IFF_NOARP == 0 {
			t.Errorf("interface %+v", a)
		}
		qdiscs, err := netlink.QdiscList(l)
		if err != nil {
			return err
		}
		for _, q := range qdiscs {
			if q.Type() != "noqueue" {
				t.Errorf("queueing discipline %v", q)
			}
		}
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if len(addresses) != 0 {
			t.Errorf("addresses %v", addresses)
		}
		return err
	})
	if got := texts(t, h.tap); len(got) != 0 {
		t.Errorf("the kernel said %q", got)
	}
}

func TestTAPCarriesBothWays(t *testing.T) {
	h := newHost(t)
	long := ether(strings.Repeat("x", 60000))
	for _, p := range []struct{ from, to Port }{{h.tap, h.beside}, {h.beside, h.tap}} {
		for _, text := range []string{ether("one"), long, ether("three")} {
			say(t, p.from, h.pool, text)
		}
		flush(t, p.from, true)
		got := texts(t, p.to)
		if len(got) != 3 || got[0] != ether("one") || got[1] != long || got[2] != ether("three") {
			t.Errorf("%T received %d frames", p.to, len(got))
		}
		if s := p.from.Stats(); s.TxFrames != 3 || s.TxBytes != uint64(2*14+8+len(long)) {
			t.Errorf("%T stats %+v", p.from, s)
		}
	}
	if s := h.stats(t); s.RxFrames != 3 || s.RxDropped != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestTagsComeBackIntoTheFrame(t *testing.T) {
	h := newHost(t)
	for _, tt := range []struct{ name, tags string }{
		{"802.1Q", "\x81\x00\x20\x07"},
		{"802.1ad", "\x88\xa8\x00\x08"},
		{"QinQ", "\x88\xa8\x00\x08\x81\x00\x20\x07"},
		{"priority alone", "\x81\x00\x60\x00"},
	} {
		for _, size := range []int{50, 60000} {
			text := ether(strings.Repeat("x", size))
			text = text[:12] + tt.tags + text[12:]
			v := wire.VNet{Flags: wire.NeedsCsum, CsumStart: uint16(34 + len(tt.tags)), CsumOffset: 4}
			checkUnchanged(t, h, tt.name, v, text)
		}
	}
}

func TestVerifiedFramesPassOn(t *testing.T) {
	h := newHost(t)
	v := wire.VNet{Flags: wire.DataValid}
	var header [vnetLen]byte
	v.Put(header[:])
	b := h.pool.Get(frame.Small)
	span := frame.Span{Buf: b, Len: uint32(copy(b.B, ether("verified by a card")))}
	for _, p := range []struct{ from, to Port }{{h.tap, h.beside}, {h.beside, h.tap}} {
		p.from.Queue(header[:], []frame.Span{span})
		flush(t, p.from, true)
		if got := texts(t, p.to); len(got) != 1 || got[0] != ether("verified by a card") {
			t.Errorf("%T received %q", p.to, got)
		}
	}
}

func checkUnchanged(t *testing.T, h *host, name string, v wire.VNet, text string) {
	t.Helper()
	var header [vnetLen]byte
	v.Put(header[:])
	b := h.pool.Get(len(text))
	h.tap.Queue(header[:], []frame.Span{{Buf: b, Len: uint32(copy(b.B, text))}})
	flush(t, h.tap, true)
	into := make([]Received, 1)
	if n, err := h.beside.Receive(into); n != 1 || err != nil {
		t.Fatalf("%s: %d frames of %d octets, %v; %+v", name, n, len(text), err, h.stats(t))
	}
	var got wire.VNet
	got.Get(into[0].Buf.B)
	if got != v || string(into[0].Buf.B[vnetLen:into[0].N]) != text {
		t.Errorf("%s: %+v %q", name, got, into[0].Buf.B[vnetLen:min(into[0].N, 60)])
	}
}

// burst sends n frames to the TAP.
func (h *host) burst(t testing.TB, n int) {
	t.Helper()
	b := h.pool.Get(frame.Small)
	span := []frame.Span{{Buf: b, Len: uint32(copy(b.B, ether("burst")))}}
	for range n {
		if h.beside.Pending() == batch {
			flush(t, h.beside, true)
		}
		h.beside.Queue(noVNet[:], span)
	}
	flush(t, h.beside, true)
	b.Release()
}

func TestTAPTakesABurst(t *testing.T) {
	h := newHost(t)
	const n = 10000
	h.burst(t, n)
	if got := len(texts(t, h.tap)); got != n {
		t.Errorf("%d of %d frames", got, n)
	}
	if s := h.stats(t); s.RxDropped != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestTAPCountsWhatItsRingDrops(t *testing.T) {
	h := newHost(t)
	h.burst(t, tapQueue+100)
	kept := len(texts(t, h.tap))
	if s := h.stats(t); kept < tapQueue || s.RxDropped != uint64(tapQueue+100-kept) {
		t.Errorf("%d frames, %+v", kept, s)
	}
}

func TestTAPWithoutBuffers(t *testing.T) {
	h := newHost(t)
	h.tap.pool = frame.NewPool(frame.Small - frame.Reserve)
	for _, text := range []string{ether("kept"), ether("lost"), ether(strings.Repeat("x", 5000))} {
		say(t, h.beside, h.pool, text)
	}
	flush(t, h.beside, true)
	into := make([]Received, 5)
	if n, err := h.tap.Receive(into); n != 1 || err != nil || h.tap.stats.RxNoBuffer != 2 {
		t.Errorf("%d frames, %v, %+v", n, err, h.tap.stats)
	}
}

func TestTAPSkipsWhatIsRefused(t *testing.T) {
	h := newHost(t)
	h.tap.Queue([]byte("short"), nil)                 // no whole virtio_net_hdr: EINVAL
	h.tap.Queue(make([]byte, maxHeader+1), nil)       // past the limits
	h.tap.Queue(nil, make([]frame.Span, maxPieces+1)) // past the limits
	say(t, h.tap, h.pool, ether("sound"))
	flush(t, h.tap, true)
	if got := texts(t, h.beside); len(got) != 1 || got[0] != ether("sound") {
		t.Errorf("received %q", got)
	}
	if s := h.stats(t); s.TxErrors != 3 || s.TxFrames != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestTAPThatIsGone(t *testing.T) {
	h := newHost(t)
	in(t, h.ns, func() error {
		l, err := netlink.LinkByName(h.name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	checkGone(t, h.tap, h.pool)
	checkGone(t, h.beside, h.pool)
	if s := h.stats(t); s.RxDropped != 0 {
		t.Errorf("stats %+v", s)
	}
}

func checkGone(t *testing.T, p Port, pool *frame.Pool) {
	t.Helper()
	if _, err := p.Receive(make([]Received, 1)); !errors.Is(err, ErrGone) {
		t.Errorf("%T: receive gave %v", p, err)
	}
	say(t, p, pool, ether("in vain"))
	if done, err := p.Flush(); !done || !errors.Is(err, ErrGone) || p.Pending() != 0 {
		t.Errorf("%T: flush gave %v, %v", p, done, err)
	}
}

func TestPacketSurvivesAnInterfaceThatWasDown(t *testing.T) {
	h := newHost(t)
	set := func(f func(netlink.Link) error) {
		in(t, h.ns, func() error {
			l, err := netlink.LinkByName(h.name)
			if err != nil {
				return err
			}
			return f(l)
		})
	}
	set(netlink.LinkSetDown)
	if n, err := h.beside.Receive(make([]Received, 1)); n != 0 || err != nil {
		t.Errorf("%d frames, %v", n, err)
	}
	say(t, h.beside, h.pool, ether("lost"))
	say(t, h.tap, h.pool, ether("lost"))
	flush(t, h.beside, true)
	flush(t, h.tap, true)
	if a, b := h.beside.Stats().TxErrors, h.stats(t).TxErrors; a != 1 || b != 1 {
		t.Errorf("errors %d and %d", a, b)
	}
	set(netlink.LinkSetUp)
	say(t, h.tap, h.pool, ether("back"))
	flush(t, h.tap, true)
	if got := texts(t, h.beside); len(got) != 1 || got[0] != ether("back") {
		t.Errorf("received %q", got)
	}
}

func TestPacketCountsWhatTheKernelDrops(t *testing.T) {
	h := newHost(t)
	if err := unix.SetsockoptInt(h.beside.FD(), unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	const n = 100
	for range n {
		say(t, h.tap, h.pool, ether("x"))
		flush(t, h.tap, true)
	}
	got := uint64(len(texts(t, h.beside)))
	for range 2 { // the kernel starts again at each reading, the port does not
		if s := h.beside.Stats(); got == n || s.RxDropped != n-got {
			t.Errorf("%d frames, %+v", got, s)
		}
	}
}

func TestTAPAllocatesNothing(t *testing.T) {
	h := newHost(t)
	b := h.pool.Get(frame.Large)
	copy(b.B, ether("x"))
	span, into := []frame.Span{{Buf: b, Len: 60000}}, make([]Received, 4)
	if n := testing.AllocsPerRun(50, func() {
		for _, p := range [][2]Port{{h.tap, h.beside}, {h.beside, h.tap}} {
			p[0].Queue(noVNet[:], span)
			p[0].Flush()
			n, _ := p[1].Receive(into)
			for _, r := range into[:n] {
				r.Buf.Release()
			}
		}
		h.pool.Recycle()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestOpenRefuses(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	dup := func() int { fd, _ := unix.Dup(int(null.Fd())); return fd }
	for name, f := range map[string]func() error{
		"packet socket on no interface": func() error { _, err := OpenPacketSocket(1<<30, -1, 0); return err },
		"filter that is no program":     func() error { _, err := OpenPacketSocket(1, int(null.Fd()), 0); return err },
		"TAP with too long a name":      func() error { _, _, _, err := OpenTAP("a-name-of-17-octet"); return err },
		"TAP with a bad name":           func() error { _, _, _, err := OpenTAP("a/b"); return err },
		"port of no packet socket":      func() error { _, err := NewPacket(dup(), frame.NewPool(10<<20)); return err },
		"port of no TAP":                func() error { _, err := NewTAP(dup(), frame.NewPool(10<<20)); return err },
	} {
		in(t, namespace(t), func() error {
			if err := f(); err == nil {
				t.Errorf("%s: no error", name)
			}
			return nil
		})
	}
	h := newHost(t)
	in(t, h.ns, func() error {
		if _, _, _, err := OpenTAP(h.name); !errors.Is(err, unix.EBUSY) {
			t.Errorf("a TAP that is there: %v", err)
		}
		if _, err := NewTAP(mustTAP(t), frame.NewPool(100-frame.Reserve)); !errors.Is(err, errPool) {
			t.Errorf("a pool without room: %v", err)
		}
		return nil
	})
}

func mustTAP(t *testing.T) int {
	t.Helper()
	fd, _, _, err := OpenTAP("toe%d")
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
