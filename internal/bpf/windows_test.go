package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"toehold/internal/flow"
	"toehold/internal/testnet"
)

func openWindows(t testing.TB) *Windows {
	t.Helper()
	w, err := LoadWindows()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return w
}

// setWindows sets windows in a namespace and checks how many were.
func setWindows(t testing.TB, w *Windows, ns *testnet.Namespace, want int, list ...Window) {
	t.Helper()
	got := 0
	if err := ns.Do(func() (err error) { got, err = w.Set(list); return err }); err != nil || got != want {
		t.Fatalf("%d sockets have their windows, %v, want %d", got, err, want)
	}
}

// A view is what a program sees of its own socket.
type view struct {
	cwnd, ssthresh uint32
	control        string
}

func viewOf(t *testing.T, c *net.TCPConn) (v view) {
	t.Helper()
	control(t, c, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return err
		}
		name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		v = view{info.Snd_cwnd, info.Snd_ssthresh, name}
		return err
	})
	return v
}

func use(t *testing.T, c *net.TCPConn, name string) {
	t.Helper()
	control(t, c, func(fd int) error {
		return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
	})
}

func TestWindowsAreSetExactly(t *testing.T) {
	n, w := testnet.New(t), openWindows(t)
	for _, tt := range []struct {
		name    string
		address netip.Addr
		control string
		windows [2]uint32
		set     int
		want    [2]uint32 // {}: as before
	}{
		{"cut by a loss", n.HostIP4, "cubic", [2]uint32{7, 5}, 1, [2]uint32{7, 5}},
		{"IPv6", n.HostIP6, "cubic", [2]uint32{7, 5}, 1, [2]uint32{7, 5}},
		{"Reno", n.HostIP4, "reno", [2]uint32{3, 2}, 1, [2]uint32{3, 2}},
		{"larger", n.HostIP4, "cubic", [2]uint32{300, 200}, 1, [2]uint32{300, 200}},
		{"slow start", n.HostIP4, "cubic", [2]uint32{1, 0x7fffffff}, 1, [2]uint32{1, 0x7fffffff}},
		{"no window", n.HostIP4, "cubic", [2]uint32{0, 9}, 1, [2]uint32{10, 9}},
		{"as it was", n.HostIP4, "cubic", [2]uint32{10, 0x7fffffff}, 1, [2]uint32{10, 0x7fffffff}},
		{"BBR has a model of its own", n.HostIP4, "bbr", [2]uint32{7, 5}, 0, [2]uint32{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, peer := connect(t, n.Host, n.Peer, tt.address)
			use(t, s, tt.control)
			before := viewOf(t, s)
			setWindows(t, w, n.Host, tt.set, Window{Key: keyOf(s), Cwnd: tt.windows[0], Ssthresh: tt.windows[1]})
			want := view{tt.want[0], tt.want[1], tt.control}
			if tt.set == 0 {
				want = before
			}
			if got := viewOf(t, s); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			move(t, s, peer, 300_000)
			move(t, peer, s, 300_000)
		})
	}
}

// Values that nobody can have meant do no harm.
func TestWindowsOfNonsense(t *testing.T) {
	n, w := testnet.New(t), openWindows(t)
	s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
	setWindows(t, w, n.Host, 1, Window{Key: keyOf(s), Cwnd: 0xffffffff})
	if got, want := viewOf(t, s), (view{10, 2, "cubic"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	move(t, s, peer, 1<<20)
}

// Others are left alone: sockets that are not named, of another namespace, and
// those that are gone.
func TestWindowsOfOthers(t *testing.T) {
	n, w := testnet.New(t), openWindows(t)
	s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
	before := viewOf(t, peer)
	nobody := flow.Make(netip.AddrPortFrom(n.HostIP4, 1), netip.AddrPortFrom(n.PeerIP4, 9)).Key()
	var list []Window
	for _, key := range []flow.Key{nobody, keyOf(s), keyOf(s), keyOf(peer)} {
		list = append(list, Window{Key: key, Cwnd: 7, Ssthresh: 5})
	}
	setWindows(t, w, n.Host, 1, list...)
	if got := viewOf(t, peer); got != before {
		t.Errorf("%+v, was %+v", got, before)
	}
	setWindows(t, w, n.Host, 0) // and the map is empty again
	var key octets
	if err := w.objects.Wanted.NextKey(nil, &key); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("the map is not empty: %v", err)
	}
}

// registered reports whether the congestion control of this process exists.
func registered(t *testing.T) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), controlName(os.Getpid(), pidNamespace()))
}

// Two daemons that are the first process of a container each have names of their
// own, which the kernel takes (TCP_CA_NAME_MAX, with the zero at the end: 16).
func TestControlNames(t *testing.T) {
	seen := map[string]bool{}
	for _, namespace := range []uint64{firstPIDNamespace, 4026532201, 4026532202, 0} {
		for _, pid := range []int{1, 2, 4194304} {
			name := controlName(pid, namespace)
			if seen[name] || len(name) > 15 || !strings.HasPrefix(name, lentName) {
				t.Errorf("%d in %d: %s", pid, namespace, name)
			}
			seen[name] = true
		}
	}
	if name := controlName(77, firstPIDNamespace); name != "toehold_77" {
		t.Errorf("outside of containers: %s", name)
	}
}

// The congestion control is there as long as the Windows are, for nobody else.
func TestWindowsLeaveNothingBehind(t *testing.T) {
	w, err := LoadWindows()
	if err != nil {
		t.Fatal(err)
	}
	if !registered(t) {
		t.Error("it is not registered")
	}
	if _, err := LoadWindows(); err == nil {
		t.Error("one name was taken twice")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is gone", func() bool { return !registered(t) })
}

func BenchmarkWindows(b *testing.B) {
	n, w := testnet.New(b), openWindows(b)
	const many = 1000
	l, err := n.Host.Listen("tcp", netip.AddrPortFrom(n.HostIP4, 0).String())
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	list := make([]Window, many)
	for i := range list {
		c, err := n.Peer.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		a, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer a.Close()
		list[i].Key = keyOf(a)
	}
	for _, size := range []int{1, many} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			n.Host.Do(func() error {
				for i := uint32(0); b.Loop(); i++ {
					for j := range list[:size] {
						list[j].Cwnd, list[j].Ssthresh = 5+i%7, 5
					}
					if got, err := w.Set(list[:size]); err != nil || got != size {
						b.Fatal(got, err)
					}
				}
				return nil
			})
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/connection")
		})
	}
}
