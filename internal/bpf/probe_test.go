package bpf

import (
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/testnet"
)

// probeOne reads one connection's state in a namespace.
func probeOne(t *testing.T, set *Set, ns *testnet.Namespace, key flow.Key) abi.KernelState {
	t.Helper()
	out := make([]abi.KernelState, 1)
	if err := ns.Do(func() error { return set.Probe([]flow.Key{key}, out) }); err != nil {
		t.Fatal(err)
	}
	return out[0]
}

// control runs f with a connection's descriptor.
func control(t *testing.T, c *net.TCPConn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
}

// move sends octets in one direction and waits until they have been read.
func move(t *testing.T, from, to net.Conn, octets int) {
	t.Helper()
	go from.Write(make([]byte, octets))
	if _, err := io.ReadFull(to, make([]byte, octets)); err != nil {
		t.Fatal(err)
	}
}

// still is a state without what moves with the clock.
func still(k abi.KernelState) abi.KernelState {
	k.Idle, k.TSRecentAge, k.Cubic.EpochAge = 0, 0, 0
	return k
}

func TestProbeAgreesWithTCPInfo(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	for name, address := range map[string]netip.Addr{"IPv4": n.HostIP4, "IPv6": n.HostIP6} {
		t.Run(name, func(t *testing.T) {
			s, peer := connect(t, n.Host, n.Peer, address)
			move(t, s, peer, 300_000)
			move(t, peer, s, 100_000)
			var (
				info          *unix.TCPInfo
				cookie        uint64
				stat          unix.Stat_t
				before, after abi.KernelState
			)
			control(t, s, func(fd int) (err error) {
				if cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
					return err
				}
				return unix.Fstat(fd, &stat)
			})
			// The last acknowledgement may still be on its way.
			eventually(t, "the connection is at rest", func() bool {
				before = probeOne(t, set, n.Host, keyOf(s))
				control(t, s, func(fd int) (err error) {
					info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
					return err
				})
				after = probeOne(t, set, n.Host, keyOf(s))
				return still(before) == still(after) && info.Bytes_acked >= 300_000 && before.SndUna == before.WriteSeq
			})
			k := after
			for _, tt := range []struct {
				name      string
				got, want uint64
			}{
				{"cookie", k.Cookie, cookie},
				{"inode", k.Inode, stat.Ino},
				{"uid", uint64(k.UID), 0},
				{"state", uint64(k.State), uint64(info.State)},
				{"special", uint64(k.Special), 0},
				{"bytes sent", k.BytesSent, info.Bytes_acked},
				{"bytes received", k.BytesReceived, info.Bytes_received},
				{"srtt", uint64(k.SRTT), uint64(info.Rtt)},
				{"rttvar", uint64(k.RTTVar), uint64(info.Rttvar)},
				{"min rtt", uint64(k.MinRTT), uint64(info.Min_rtt)},
				{"cwnd", uint64(k.SndCwnd), uint64(info.Snd_cwnd)},
				{"ssthresh", uint64(k.SndSsthresh), uint64(info.Snd_ssthresh)},
				{"mss", uint64(k.MSS), uint64(info.Snd_mss)},
				{"retransmits", uint64(k.Retransmits), uint64(info.Total_retrans)},
				{"snd wnd", uint64(k.SndWnd), uint64(info.Snd_wnd)},
				{"rcv wnd", uint64(k.RcvWnd), uint64(info.Rcv_wnd)},
				{"unread", uint64(k.RcvNxt - k.CopiedSeq), 0},
				{"unacknowledged", uint64(k.SndNxt - k.SndUna), 0},
				{"flags", uint64(k.Flags), abi.FlagTimestamps | abi.FlagSACK | abi.FlagWindowScale},
				{"back-off", uint64(k.Backoff), uint64(info.Backoff)},
				{"timeouts", uint64(k.Timeouts), uint64(info.Retransmits)},
				{"probes", uint64(k.ProbesOut), uint64(info.Probes)},
				{"CA state", uint64(k.CAState), uint64(info.Ca_state)},
				{"sacked", uint64(k.Sacked), uint64(info.Sacked)},
				{"lost", uint64(k.Lost), uint64(info.Lost)},
				{"resent", uint64(k.Resent), uint64(info.Retrans)},
				{"delivered", uint64(k.Delivered), uint64(info.Delivered)},
				{"delivered, marked", uint64(k.DeliveredCE), uint64(info.Delivered_ce)},
				{"rcv ssthresh", uint64(k.RcvSsthresh), uint64(info.Rcv_ssthresh)},
				{"reordering", uint64(k.Reordering), uint64(info.Reordering)},
				{"reordering seen", uint64(k.ReorderingSeen), uint64(info.Reord_seen)},
				{"pacing rate", k.PacingRate, info.Pacing_rate},
				{"largest pacing rate", k.MaxPacingRate, info.Max_pacing_rate},
				{"keepalive", uint64(k.Keepalive), 1}, // Go's own default
				{"bound", uint64(k.BoundIf), 0},
			} {
				if tt.got != tt.want {
					t.Errorf("%s: %d, kernel says %d", tt.name, tt.got, tt.want)
				}
			}
			if k.TSRecentAge > 60 { // whole seconds, one of which may just have ended
				t.Errorf("age of the timestamp: %d s", k.TSRecentAge)
			}
			// The kernel rounds its RTO up to a tick of at most 10 ms.
			if k.RTO > info.Rto || k.RTO+10_000 < info.Rto {
				t.Errorf("RTO %d us, kernel says %d", k.RTO, info.Rto)
			}
			if got := string(k.CongestionControl[:6]); got != "cubic\x00" {
				t.Errorf("congestion control %q", got)
			}
			if k.SndWscale == 0 || k.RcvWscale == 0 {
				t.Errorf("window scales %d, %d", k.SndWscale, k.RcvWscale)
			}
		})
	}
}

// Each end sees the other's sequence numbers.
func TestProbeOfBothEnds(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
	move(t, s, peer, 1000)
	eventually(t, "both ends agree", func() bool {
		a, b := probeOne(t, set, n.Host, keyOf(s)), probeOne(t, set, n.Peer, keyOf(peer))
		return a.SndUna == b.RcvNxt && a.RcvNxt == b.SndUna &&
			a.SndWscale == b.RcvWscale && a.RcvWscale == b.SndWscale && a.SndUna != 0
	})
}

func TestProbeOfStates(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "CLOSE-WAIT with the peer's FIN", func() bool {
		k := probeOne(t, set, n.Host, keyOf(s))
		return k.State == unix.BPF_TCP_CLOSE_WAIT && k.Flags&abi.FlagPeerFIN != 0 && k.Flags&abi.FlagLocalFIN == 0
	})
	eventually(t, "FIN-WAIT-2 with our FIN", func() bool {
		k := probeOne(t, set, n.Peer, keyOf(peer))
		return k.State == unix.BPF_TCP_FIN_WAIT2 && k.Flags&abi.FlagLocalFIN != 0 && k.Flags&abi.FlagPeerFIN == 0
	})
	s.Close()
	eventually(t, "no full socket in TIME-WAIT", func() bool {
		return probeOne(t, set, n.Peer, keyOf(peer)) == abi.KernelState{Special: abi.SpecialMissing}
	})
}

func TestProbeOfNothing(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	l, err := n.Host.Listen("tcp", netip.AddrPortFrom(n.HostIP4, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listening := l.Addr().(*net.TCPAddr).AddrPort()
	for name, id := range map[string]flow.ID{
		"listening socket":   flow.Make(listening, netip.AddrPortFrom(n.PeerIP4, 9)),
		"no socket":          flow.Make(netip.AddrPortFrom(n.HostIP4, 1), netip.AddrPortFrom(n.PeerIP4, 9)),
		"no socket, IPv6":    flow.Make(netip.AddrPortFrom(n.HostIP6, 1), netip.AddrPortFrom(n.PeerIP6, 9)),
		"family that is not": {},
	} {
		if got := probeOne(t, set, n.Host, id.Key()); got != (abi.KernelState{Special: abi.SpecialMissing}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if err := set.Probe(make([]flow.Key, 2), make([]abi.KernelState, 1)); err == nil {
		t.Error("lengths that differ were taken")
	}
}

func TestProbeOfSpecialSockets(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	for _, tt := range []struct {
		name string
		want uint32
		make func(t *testing.T, s, peer *net.TCPConn)
	}{
		{"plain", 0, func(t *testing.T, s, peer *net.TCPConn) {}},
		{"urgent data received", abi.SpecialUrgent, func(t *testing.T, s, peer *net.TCPConn) {
			control(t, peer, func(fd int) error { return unix.Sendto(fd, []byte("!"), unix.MSG_OOB, nil) })
		}},
		{"IP options", abi.SpecialIPOptions, func(t *testing.T, s, peer *net.TCPConn) {
			control(t, s, func(fd int) error {
				return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, "\x01\x01\x01\x01") // no-operation
			})
		}},
		{"repair", abi.SpecialRepair, func(t *testing.T, s, peer *net.TCPConn) {
			control(t, s, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) })
		}},
		{"urgent data that was read past", 0, func(t *testing.T, s, peer *net.TCPConn) {
			control(t, peer, func(fd int) error { return unix.Sendto(fd, []byte("!."), unix.MSG_OOB, nil) })
			move(t, peer, s, 2) // "!" and one more; "." was the urgent octet
		}},
		{"MD5 signatures", abi.SpecialMD5, func(t *testing.T, s, peer *net.TCPConn) {
			control(t, s, func(fd int) error { return signWithMD5(fd, n.PeerIP4.Next()) })
		}},
		{"in a sockmap", abi.SpecialSockmap, func(t *testing.T, s, peer *net.TCPConn) {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { m.Close() })
			control(t, s, func(fd int) error { return m.Put(uint32(0), uint32(fd)) })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, peer := connect(t, n.Host, n.Peer, n.HostIP4)
			tt.make(t, s, peer)
			eventually(t, "it is seen", func() bool {
				return probeOne(t, set, n.Host, keyOf(s)).Special == tt.want
			})
		})
	}
}

// signWithMD5 gives a socket a key for an address. The address need not be
// the peer's for the socket to count as one that signs.
func signWithMD5(fd int, for4 netip.Addr) error {
	var sig struct { // struct tcp_md5sig
		Family  uint16
		_       uint16
		Address [4]byte
		_       [120]byte
		Flags   uint8
		Prefix  uint8
		KeyLen  uint16
		Ifindex int32
		Key     [80]byte
	}
	sig.Family, sig.Address, sig.KeyLen = unix.AF_INET, for4.As4(), 3
	copy(sig.Key[:], "key")
	octets := unsafe.Slice((*byte)(unsafe.Pointer(&sig)), unsafe.Sizeof(sig))
	return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, string(octets))
}

// A subflow of Multipath TCP is found by its own four-tuple.
func TestProbeOfMultipathTCP(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	var listen net.ListenConfig
	listen.SetMultipathTCP(true)
	var dial net.Dialer
	dial.SetMultipathTCP(true)
	var l net.Listener
	var c net.Conn
	err := n.Host.Do(func() (err error) {
		l, err = listen.Listen(t.Context(), "tcp", netip.AddrPortFrom(n.HostIP4, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = n.Peer.Do(func() (err error) { c, err = dial.Dial("tcp", l.Addr().String()); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if is, err := c.(*net.TCPConn).MultipathTCP(); !is || err != nil {
		t.Fatalf("multipath %t, %v", is, err)
	}
	if k := probeOne(t, set, n.Peer, keyOf(c)); k.Special&abi.SpecialMPTCP == 0 {
		t.Errorf("special %#x", k.Special)
	}
}

// An IPv6 socket with an IPv4 peer is found by its IPv4 addresses.
func TestProbeOfMappedSocket(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	l, err := n.Host.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := netip.AddrPortFrom(n.HostIP4, l.Addr().(*net.TCPAddr).AddrPort().Port())
	c, err := n.Peer.Dial("tcp4", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if k := probeOne(t, set, n.Host, keyOf(c).Reverse()); k.Special != 0 || k.State != unix.BPF_TCP_ESTABLISHED {
		t.Errorf("state %d, special %#x", k.State, k.Special)
	}
}

// A socket that is bound to the uplink is found as well.
func TestProbeOfBoundSocket(t *testing.T) {
	r := newRig(t)
	s, _ := r.connect(t, r.HostIP4)
	control(t, s, func(fd int) error { return unix.BindToDevice(fd, r.HostIf) })
	if k := probeOne(t, r.set, r.Host, keyOf(s)); k.Special != 0 || int(k.BoundIf) != r.uplink.Attrs().Index {
		t.Errorf("special %#x, bound to %d", k.Special, k.BoundIf)
	}
}

// More than a batch, with holes.
func TestProbeOfMany(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	s, _ := connect(t, n.Host, n.Peer, n.HostIP4)
	nobody := flow.Make(netip.AddrPortFrom(n.HostIP4, 1), netip.AddrPortFrom(n.PeerIP4, 9)).Key()
	keys := make([]flow.Key, 2*maxBatch+7)
	for i := range keys {
		if keys[i] = keyOf(s); i%3 == 0 {
			keys[i] = nobody
		}
	}
	out := make([]abi.KernelState, len(keys))
	if err := n.Host.Do(func() error { return set.Probe(keys, out) }); err != nil {
		t.Fatal(err)
	}
	for i, k := range out {
		if missing := k.Special == abi.SpecialMissing; missing != (i%3 == 0) || missing == (k.State == 1) {
			t.Fatalf("%d: state %d, special %#x", i, k.State, k.Special)
		}
	}
}

func BenchmarkProbe(b *testing.B) {
	n, set := testnet.New(b), loadSet(b)
	s, _ := connect(b, n.Host, n.Peer, n.HostIP4)
	for _, size := range []int{1, maxBatch} {
		b.Run(map[bool]string{true: "single", false: "batch"}[size == 1], func(b *testing.B) {
			keys, out := make([]flow.Key, size), make([]abi.KernelState, size)
			for i := range keys {
				keys[i] = keyOf(s)
			}
			n.Host.Do(func() error {
				for b.Loop() {
					if err := set.Probe(keys, out); err != nil {
						b.Fatal(err)
					}
				}
				return nil
			})
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/connection")
		})
	}
}

func BenchmarkSteer(b *testing.B) {
	set := loadSet(b)
	for _, size := range []int{1, 1000} {
		keys, ids := make([]flow.Key, size), make([]abi.HWID, size)
		for i := range keys {
			local := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(i+1))
			keys[i] = flow.Make(local, local).Key()
			ids[i] = abi.MakeHWID(uint32(i), 1)
		}
		b.Run(strconv.Itoa(size)+"-and-back", func(b *testing.B) {
			for b.Loop() {
				if err := set.Steer(keys, ids); err != nil {
					b.Fatal(err)
				}
				if err := set.Unsteer(keys); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/connection")
		})
	}
}

// Many connections, each its own socket, so that none is in the cache just
// because the last one was.
func BenchmarkProbeOfMany(b *testing.B) {
	n, set := testnet.New(b), loadSet(b)
	l, err := n.Host.Listen("tcp", netip.AddrPortFrom(n.HostIP4, 0).String())
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	const many = 2000
	keys, out := make([]flow.Key, many), make([]abi.KernelState, many)
	for i := range keys {
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
		keys[i] = keyOf(a)
	}
	n.Host.Do(func() error {
		for b.Loop() {
			if err := set.Probe(keys, out); err != nil || out[many-1].State != unix.BPF_TCP_ESTABLISHED {
				b.Fatal(err, out[many-1].State)
			}
		}
		return nil
	})
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*many), "ns/connection")
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		s, err := Load(Config{MaxConnections: 65536, StaleAfter: time.Second})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
