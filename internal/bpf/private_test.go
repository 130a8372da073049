package bpf

import (
	"io"
	"net"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/testnet"
)

// struct kernel_state and abi.KernelState have the same fields at the same
// places, whatever they are called.
func TestKernelStateLayoutsAgree(t *testing.T) {
	spec, err := loadProbe()
	if err != nil {
		t.Fatal(err)
	}
	var c *btf.Struct
	if err := spec.Types.TypeByName("kernel_state", &c); err != nil {
		t.Fatal(err)
	}
	got, want := placesInC(c, 0), placesInGo(reflect.TypeFor[abi.KernelState](), 0)
	if !reflect.DeepEqual(got, want) || c.Size != uint32(reflect.TypeFor[abi.KernelState]().Size()) {
		t.Errorf("C has %v\nGo has %v", got, want)
	}
}

func placesInC(s *btf.Struct, base uint32) (places [][2]uint32) {
	for _, m := range s.Members {
		at := base + m.Offset.Bytes()
		if inner, ok := btf.As[*btf.Struct](m.Type); ok {
			places = append(places, placesInC(inner, at)...)
			continue
		}
		size, _ := btf.Sizeof(m.Type)
		places = append(places, [2]uint32{at, uint32(size)})
	}
	return places
}

func placesInGo(typ reflect.Type, base uint32) (places [][2]uint32) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		at := base + uint32(f.Offset)
		if f.Type.Kind() == reflect.Struct {
			places = append(places, placesInGo(f.Type, at)...)
			continue
		}
		places = append(places, [2]uint32{at, uint32(f.Type.Size())})
	}
	return places
}

// send moves octets and waits until they are acknowledged.
func send(t *testing.T, set *Set, ns *testnet.Namespace, s, peer net.Conn, octets int) abi.KernelState {
	t.Helper()
	var k abi.KernelState
	go s.Write(make([]byte, octets))
	if _, err := io.CopyN(io.Discard, peer, int64(octets)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is acknowledged", func() bool {
		k = probeOne(t, set, ns, keyOf(s))
		return k.SndUna == k.WriteSeq
	})
	return k
}

// CUBIC's own state after a loss: its threshold is 0.7 (717/1024) of the
// window at which it lost, which W_max is, less the fast convergence. A timeout
// makes the socket forget W_max (cubictcp_state), and an undo the threshold; a
// fresh one has not.
func TestProbeOfCubic(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	var k abi.KernelState
	for range 20 {
		if k = probeCubic(t, n, set); hasLost(&k) {
			break
		}
	}
	q := k.Cubic
	if !hasLost(&k) {
		t.Errorf("%d retransmits, ssthresh %d: %+v", k.Retransmits, k.SndSsthresh, q)
	}
	if q.InEpoch == 0 || q.Origin == 0 || q.TCPCwnd == 0 || q.EpochAge > 60_000 || q.K > 60_000_000 {
		t.Errorf("epoch: %+v", q)
	}
	if q.DelayMin == 0 || q.DelayMin > 10*k.SRTT+1000 || k.BBR != (abi.BBRState{}) || k.DCTCP != (abi.DCTCPState{}) {
		t.Errorf("delay %d us, srtt %d us, bbr %+v, dctcp %+v", q.DelayMin, k.SRTT, k.BBR, k.DCTCP)
	}
}

// hasLost reports that threshold and W_max are of the same loss, and an epoch
// has begun since.
func hasLost(k *abi.KernelState) bool {
	near := func(window float64) bool {
		d := float64(k.SndSsthresh) - window*717/1024
		return d > -2 && d < 2
	}
	last := float64(k.Cubic.LastMaxCwnd)
	return k.Retransmits > 0 && k.Cubic.InEpoch != 0 && (near(last) || near(last*2048/(1024+717)) || k.SndSsthresh == 2)
}

// probeCubic reads the state of a connection that has lost and goes on.
func probeCubic(t *testing.T, n *testnet.Net, set *Set) (k abi.KernelState) {
	t.Helper()
	s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
	if k := probeOne(t, set, n.Host, keyOf(s)); k.Cubic != (abi.CubicState{}) {
		t.Errorf("before any traffic: %+v", k.Cubic)
	}
	stop := n.Peer.Lose(t, n.PeerIf, 60, testnet.In)
	send(t, set, n.Host, s, peer, 10<<20)
	stop()
	for range 20 { // an epoch begins when the window is used up
		if k = send(t, set, n.Host, s, peer, 10<<20); k.Cubic.InEpoch != 0 {
			break
		}
	}
	return k
}

// BBR tells part of its state itself.
func TestProbeOfBBR(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	var k abi.KernelState
	// A socket that has undone a recovery has forgotten FullBandwidth
	// (bbr_undo_cwnd); a fresh one has not.
	for range 5 {
		if k = probeBBR(t, n, set); k.BBR.FullBandwidth != 0 {
			break
		}
	}
	if b := k.BBR; b.MinRTTAge > 60_000 || b.Mode > 3 || b.CycleIndex > 7 || b.FullBandwidth == 0 || k.Cubic != (abi.CubicState{}) {
		t.Errorf("%+v, cubic %+v", b, k.Cubic)
	}
}

// probeBBR probes a connection that has sent, and compares with what it says.
func probeBBR(t *testing.T, n *testnet.Net, set *Set) abi.KernelState {
	t.Helper()
	s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
	use(t, s, "bbr")
	k := send(t, set, n.Host, s, peer, 50<<20)
	var info *unix.TCPBBRInfo
	control(t, s, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPCCBBRInfo(fd, unix.IPPROTO_TCP, unix.TCP_CC_INFO)
		return err
	})
	b := k.BBR
	told := uint64(info.Bw_hi)<<32 | uint64(info.Bw_lo)
	if b.LongTerm != 0 {
		b.Bandwidth = b.LongTerm
	}
	if d := int64(b.Bandwidth - told); told == 0 || d > int64(told/1000+256) || -d > int64(told/1000+256) {
		t.Errorf("bandwidth %d, it says %d", b.Bandwidth, told)
	}
	if b.MinRTT != info.Min_rtt || uint32(b.PacingGain) != info.Pacing_gain || uint32(b.CwndGain) != info.Cwnd_gain {
		t.Errorf("%+v, it says %+v", b, *info)
	}
	return k
}

// Times of the socket's own, and of its namespace where it has none.
func TestProbeOfKeepalive(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	s, _ := connect(t, n.Host, n.Peer, n.HostIP4)
	control(t, s, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0) })
	if k := probeOne(t, set, n.Host, keyOf(s)); k.Keepalive != 0 || k.UserTimeout != 0 {
		t.Errorf("off: keepalive %d, user timeout %d", k.Keepalive, k.UserTimeout)
	}
	for _, o := range [][2]int{{unix.TCP_KEEPIDLE, 71}, {unix.TCP_KEEPINTVL, 13}, {unix.TCP_KEEPCNT, 5}, {unix.TCP_USER_TIMEOUT, 12345}} {
		control(t, s, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, o[0], o[1]) })
	}
	control(t, s, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1) })
	k := probeOne(t, set, n.Host, keyOf(s))
	if k.Keepalive == 0 || k.KeepTime != 71_000 || k.KeepInterval != 13_000 || k.KeepProbes != 5 || k.UserTimeout != 12345 {
		t.Errorf("on: keepalive %d, %d, %d ms, %d probes, user timeout %d", k.Keepalive, k.KeepTime, k.KeepInterval, k.KeepProbes, k.UserTimeout)
	}
	eventually(t, "it is idle", func() bool { k = probeOne(t, set, n.Host, keyOf(s)); return k.Idle >= 30 })
	if k.Idle > uint32(time.Minute.Milliseconds()) {
		t.Errorf("idle for %d ms", k.Idle)
	}
}

// A socket that was told nothing has the times of its namespace.
func TestProbeOfKeepaliveOfTheNamespace(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	silent := net.ListenConfig{KeepAlive: -1}
	var l net.Listener
	err := n.Host.Do(func() (err error) {
		for name, value := range map[string]string{"time": "777", "intvl": "33", "probes": "4"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/tcp_keepalive_"+name, []byte(value), 0o644); err != nil {
				return err
			}
		}
		l, err = silent.Listen(t.Context(), "tcp", net.JoinHostPort(n.HostIP4.String(), "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := n.Peer.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	k := probeOne(t, set, n.Host, keyOf(peer).Reverse())
	if k.Keepalive != 0 || k.KeepTime != 777_000 || k.KeepInterval != 33_000 || k.KeepProbes != 4 {
		t.Errorf("keepalive %d, %d, %d ms, %d probes", k.Keepalive, k.KeepTime, k.KeepInterval, k.KeepProbes)
	}
}
