package bpf

import (
	"errors"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/testnet"
)

// struct window of c/windows.c and wantedWindow have the same fields at the
// same places.
func TestWindowLayoutsAgree(t *testing.T) {
	spec, err := loadWindows()
	if err != nil {
		t.Fatal(err)
	}
	c, ok := btf.As[*btf.Struct](spec.Maps[windowsMapWanted].Value)
	if !ok {
		t.Fatalf("the value of the map is %v", spec.Maps[windowsMapWanted].Value)
	}
	got, want := placesInC(c, 0), placesInGo(reflect.TypeFor[wantedWindow](), 0)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("C has %v\nGo has %v", got, want)
	}
}

// give calls Give in a namespace with the socket's own descriptor.
func give(t testing.TB, w *Windows, c *net.TCPConn, x *Window) (err error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = w.Give(int(fd), x) })
	return err
}

func named(name string) (padded [16]byte) {
	copy(padded[:], name)
	return padded
}

// near reports that two ages or durations differ by no more than what passes
// in a test, or what a unit rounds.
func near(got, want, by uint32) bool { return got+by/8 >= want && got <= want+by }

func TestGiveCubic(t *testing.T) {
	n, w, set := testnet.New(t), openWindows(t), loadSet(t)
	for _, tt := range []struct {
		name    string
		address netip.Addr
		give    abi.CubicState
	}{
		{"avoidance", n.HostIP4, abi.CubicState{LastMaxCwnd: 40, Origin: 38, TCPCwnd: 21, K: 2_500_000, EpochAge: 1500, DelayMin: 19_000, InEpoch: 1, Found: 1}},
		{"IPv6", n.HostIP6, abi.CubicState{LastMaxCwnd: 40, Origin: 40, TCPCwnd: 41, K: 976, EpochAge: 90_000, DelayMin: 1, InEpoch: 1}},
		{"no epoch", n.HostIP4, abi.CubicState{LastMaxCwnd: 11, DelayMin: 300}},
		{"nothing", n.HostIP4, abi.CubicState{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, peer := connect(t, n.Host, n.Peer, tt.address)
			use(t, s, "cubic")
			if err := give(t, w, s, &Window{Key: keyOf(s), Cwnd: 30, Ssthresh: 28, Private: &Private{Control: named("cubic"), Cubic: tt.give}}); err != nil {
				t.Fatal(err)
			}
			got := probeOne(t, set, n.Host, keyOf(s)).Cubic
			if !near(got.EpochAge, tt.give.EpochAge, 10_000) || !near(got.K, tt.give.K, 977) {
				t.Errorf("age %d ms, K %d us, want %d and %d", got.EpochAge, got.K, tt.give.EpochAge, tt.give.K)
			}
			got.EpochAge, got.K = tt.give.EpochAge, tt.give.K
			if got != tt.give {
				t.Errorf("%+v, want %+v", got, tt.give)
			}
			if got, want := viewOf(t, s), (view{30, 28, "cubic"}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			move(t, s, peer, 300_000)
		})
	}
}

func bbrInfo(t *testing.T, c *net.TCPConn) (info *unix.TCPBBRInfo) {
	t.Helper()
	control(t, c, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPCCBBRInfo(fd, unix.IPPROTO_TCP, unix.TCP_CC_INFO)
		return err
	})
	return info
}

func TestGiveBBR(t *testing.T) {
	n, w, set := testnet.New(t), openWindows(t), loadSet(t)
	s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
	use(t, s, "bbr")
	want := abi.BBRState{
		Bandwidth: 125_000_000, FullBandwidth: 110_000_000, MinRTT: 20_123, MinRTTAge: 4000, CycleAge: 15_000, PriorCwnd: 17, ExtraAcked: 9,
		PacingGain: 320, CwndGain: 512, Mode: 2, CycleIndex: 6, FullCount: 3, Filled: 1,
	}
	if err := give(t, w, s, &Window{Key: keyOf(s), Cwnd: 300, Ssthresh: 5, Private: &Private{Control: named("bbr"), BBR: want}}); err != nil {
		t.Fatal(err)
	}
	k := probeOne(t, set, n.Host, keyOf(s))
	got := k.BBR
	rounded := func(got, want uint64) bool { return got <= want && want-got <= want/1000+uint64(k.MSS) }
	if !rounded(got.Bandwidth, want.Bandwidth) || !rounded(got.FullBandwidth, want.FullBandwidth) {
		t.Errorf("rates %d, %d, want %d, %d", got.Bandwidth, got.FullBandwidth, want.Bandwidth, want.FullBandwidth)
	}
	if !near(got.MinRTTAge, want.MinRTTAge, 10_000) || !near(got.CycleAge, want.CycleAge, 10_000_000) {
		t.Errorf("ages %d ms, %d us, want %d, %d", got.MinRTTAge, got.CycleAge, want.MinRTTAge, want.CycleAge)
	}
	info := bbrInfo(t, s)
	if told := uint64(info.Bw_hi)<<32 | uint64(info.Bw_lo); !rounded(told, want.Bandwidth) || info.Min_rtt != want.MinRTT || info.Pacing_gain != 320 || info.Cwnd_gain != 512 {
		t.Errorf("it says %+v", *info)
	}
	got.Bandwidth, got.FullBandwidth, got.MinRTTAge, got.CycleAge = want.Bandwidth, want.FullBandwidth, want.MinRTTAge, want.CycleAge
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if pace := want.Bandwidth * 320 / 256 * 99 / 100; !rounded(k.PacingRate, pace) {
		t.Errorf("paced at %d, want %d", k.PacingRate, pace)
	}
	if got, want := viewOf(t, s), (view{300, 0x7fffffff, "bbr"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	move(t, s, peer, 300_000)
}

// What the probe reads, given again and read again, is what it was, however
// often.
func TestGivenStateStaysAsItIs(t *testing.T) {
	n, w, set := testnet.New(t), openWindows(t), loadSet(t)
	for _, name := range []string{"cubic", "bbr"} {
		s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
		use(t, s, name)
		stop := n.Peer.Lose(t, n.PeerIf, 60, testnet.In)
		first := send(t, set, n.Host, s, peer, 5<<20)
		stop()
		if q := &first.Cubic; q.InEpoch == 0 { // then these are of one before, and mean nothing
			q.Origin, q.TCPCwnd, q.K = 0, 0, 0
		}
		k := first
		for range 20 {
			x := Window{Key: keyOf(s), Cwnd: k.SndCwnd, Ssthresh: k.SndSsthresh, Private: &Private{k.CongestionControl, k.BBR, k.Cubic}}
			if err := give(t, w, s, &x); err != nil {
				t.Fatal(err)
			}
			k = probeOne(t, set, n.Host, keyOf(s))
		}
		for _, age := range [][2]*uint32{{&k.Cubic.EpochAge, &first.Cubic.EpochAge}, {&k.BBR.MinRTTAge, &first.BBR.MinRTTAge}} {
			if !near(*age[0], *age[1], 10_000) {
				t.Errorf("%s: an age of %d ms has become %d", name, *age[1], *age[0])
			}
			*age[0] = *age[1]
		}
		if !near(k.BBR.CycleAge, first.BBR.CycleAge, 10_000_000) {
			t.Errorf("phase of %d us, was %d", k.BBR.CycleAge, first.BBR.CycleAge)
		}
		k.BBR.CycleAge = first.BBR.CycleAge
		if name == "bbr" { // which sets a threshold and does not use it
			k.SndSsthresh = first.SndSsthresh
		}
		for _, rate := range [][2]*uint64{{&k.BBR.Bandwidth, &first.BBR.Bandwidth}, {&k.BBR.FullBandwidth, &first.BBR.FullBandwidth}, {&k.BBR.LongTerm, &first.BBR.LongTerm}} {
			if got, want := *rate[0], *rate[1]; got > want || want-got > 20*(want/10_000+uint64(k.MSS)) {
				t.Errorf("%s: a rate of %d has become %d", name, want, got)
			}
			*rate[0] = *rate[1]
		}
		if k.Cubic != first.Cubic || k.BBR != first.BBR || k.SndCwnd != first.SndCwnd || k.SndSsthresh != first.SndSsthresh || k.CongestionControl != first.CongestionControl {
			t.Errorf("%s: %+v, %+v, cwnd %d, ssthresh %d; was %+v, %+v, %d, %d", name,
				k.Cubic, k.BBR, k.SndCwnd, k.SndSsthresh, first.Cubic, first.BBR, first.SndCwnd, first.SndSsthresh)
		}
		move(t, s, peer, 300_000)
	}
}

// A socket keeps its congestion control, whatever is wrong.
func TestGiveWhatCannotBe(t *testing.T) {
	n, w := testnet.New(t), openWindows(t)
	cubic := Private{Control: named("cubic"), Cubic: abi.CubicState{LastMaxCwnd: 40}}
	for _, tt := range []struct {
		name string
		edit func(s, peer *net.TCPConn, x *Window)
		fail bool
		want view
	}{
		{"another control by now", func(s, _ *net.TCPConn, _ *Window) { use(t, s, "reno") }, true, view{10, 0x7fffffff, "reno"}},
		{"another socket", func(_, peer *net.TCPConn, x *Window) { x.Key = keyOf(peer) }, true, view{10, 0x7fffffff, "cubic"}},
		{"no window", func(_, _ *net.TCPConn, x *Window) { x.Cwnd, x.Ssthresh = 0, 0 }, false, view{10, 2, "cubic"}},
		{"nonsense", func(_, _ *net.TCPConn, x *Window) {
			const all = 1<<32 - 1
			x.Cwnd = all
			x.Private.Cubic = abi.CubicState{LastMaxCwnd: all, Origin: all, TCPCwnd: all, K: all, EpochAge: all, DelayMin: all, InEpoch: 255, Found: 255}
		}, false, view{10, 5, "cubic"}},
		{"nonsense for BBR", func(s, _ *net.TCPConn, x *Window) {
			use(t, s, "bbr")
			const all = 1<<32 - 1
			x.Private = &Private{Control: named("bbr"), BBR: abi.BBRState{
				Bandwidth: 1<<64 - 1, FullBandwidth: 1<<64 - 1, MinRTT: all, MinRTTAge: all, CycleAge: all, PriorCwnd: all, ExtraAcked: all,
				PacingGain: 65535, CwndGain: 65535, Mode: 255, CycleIndex: 255, FullCount: 255, Filled: 255,
			}}
		}, false, view{7, 0x7fffffff, "bbr"}},
		{"no model of BBR's", func(s, _ *net.TCPConn, x *Window) {
			use(t, s, "bbr")
			x.Private = &Private{Control: named("bbr")}
		}, false, view{7, 0x7fffffff, "bbr"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
			use(t, s, "cubic")
			private := cubic
			x := Window{Key: keyOf(s), Cwnd: 7, Ssthresh: 5, Private: &private}
			tt.edit(s, peer, &x)
			if err := give(t, w, s, &x); (err != nil) != tt.fail {
				t.Errorf("error %v, should be one: %t", err, tt.fail)
			}
			if got := viewOf(t, s); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
			move(t, s, peer, 300_000)
			move(t, peer, s, 300_000)
		})
	}
	var key octets
	if err := w.objects.Wanted.NextKey(nil, &key); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("the map is not empty: %v", err)
	}
}

// The kernel refuses a change within a change by BPF, so the iterator cannot
// give private state. Should it ever let it, the iterator could do all.
func TestIteratorCannotGive(t *testing.T) {
	n, w, set := testnet.New(t), openWindows(t), loadSet(t)
	s, _ := connect(t, n.Host, n.Peer, n.HostIP4)
	key := asOctets([]flow.Key{keyOf(s)})[0]
	value := wantedWindow{Own: named("cubic"), Cubic: abi.CubicState{LastMaxCwnd: 40}, Cwnd: 7, Ssthresh: 5}
	if err := w.objects.Wanted.Put(&key, &value); err != nil {
		t.Fatal(err)
	}
	if err := n.Host.Do(func() error { _, err := w.walk(); return err }); err != nil {
		t.Fatal(err)
	}
	k := probeOne(t, set, n.Host, keyOf(s))
	if got, want := viewOf(t, s), (view{10, 0x7fffffff, "cubic"}); got != want || k.Cubic.LastMaxCwnd != 0 {
		t.Errorf("%+v, W_max %d, want %+v, 0", got, k.Cubic.LastMaxCwnd, want)
	}
}

// Without a privilege nobody can name the congestion control.
func TestOnlyTheMightyNameTheControl(t *testing.T) {
	n, w := testnet.New(t), openWindows(t)
	s, _ := connect(t, n.Host, n.Peer, n.HostIP4)
	got := make(chan error)
	go func() {
		runtime.LockOSThread() // capabilities are the thread's, which ends
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		err := unix.Capset(&header, &make([]unix.CapUserData, 2)[0])
		if err == nil {
			raw, _ := s.SyscallConn()
			raw.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, w.name) })
		}
		got <- err
	}()
	if err := <-got; !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v", err)
	}
}

// A program that uses the congestion control by its name gets nothing by that.
func TestOnlyTheWantedAreGiven(t *testing.T) {
	n, w := testnet.New(t), openWindows(t)
	s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
	before := viewOf(t, s)
	use(t, s, w.name)
	if got, want := viewOf(t, s), (view{before.cwnd, before.ssthresh, w.name}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	move(t, s, peer, 300_000)
	use(t, s, "cubic") // else the control could not be unregistered until s has gone
}

// However often it was lent, nothing refers to the congestion control: it can
// go while the sockets are there.
func TestGivingLeavesNothingBehind(t *testing.T) {
	n := testnet.New(t)
	w, err := LoadWindows()
	if err != nil {
		t.Fatal(err)
	}
	s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
	for i := range uint32(2000) {
		x := Window{Key: keyOf(s), Cwnd: 10 + i%3, Ssthresh: 9, Private: &Private{Control: named("cubic"), Cubic: abi.CubicState{LastMaxCwnd: i, DelayMin: 7}}}
		if i%2 == 1 {
			x.Private = &Private{Control: named("bbr"), BBR: abi.BBRState{Bandwidth: 1 << 30, MinRTT: i}}
		}
		use(t, s, unix.ByteSliceToString(x.Private.Control[:]))
		if err := give(t, w, s, &x); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone", func() bool { return !registered(t) })
	move(t, s, peer, 300_000)
}

func BenchmarkGive(b *testing.B) {
	n, w := testnet.New(b), openWindows(b)
	s, _ := connect(b, n.Host, n.Peer, n.HostIP4)
	raw, err := s.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	x := Window{Key: keyOf(s), Cwnd: 10, Ssthresh: 9, Private: &Private{Control: named("cubic"), Cubic: abi.CubicState{LastMaxCwnd: 40, DelayMin: 7}}}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
		for b.Loop() {
			if err := w.Give(int(fd), &x); err != nil {
				b.Fatal(err)
			}
		}
	})
}
