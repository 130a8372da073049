package bpf

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/testnet"
)

// What a program sets is what the probe reads; before, it reads the kernel's
// defaults.
func TestProbeOfOptions(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	for name, address := range map[string]netip.Addr{"IPv4": n.HostIP4, "IPv6": n.HostIP6} {
		t.Run(name, func(t *testing.T) {
			s, _ := connect(t, n.Host, n.Peer, address)
			fresh := probeOne(t, set, n.Host, keyOf(s)).Socket
			if fresh.SndBuf == 0 || fresh.RcvBuf == 0 || fresh.Flags != abi.SocketNoDelay|abi.SocketKeepalive { // Go's own defaults
				t.Errorf("of a new socket: %+v", fresh)
			}
			if most := wmem(t, n.Host); fresh.SndBufMost != most {
				t.Errorf("a send buffer of %d at most, tcp_wmem says %d", fresh.SndBufMost, most)
			}
			fresh.SndBuf, fresh.SndBufMost, fresh.RcvBuf, fresh.Flags = 0, 0, 0, 0
			if fresh != (abi.SocketState{NotSentLowat: 1<<32 - 1}) {
				t.Errorf("of a new socket: %+v", fresh)
			}
			control(t, s, func(fd int) error { return setOptions(fd, address.Is4()) })
			got := probeOne(t, set, n.Host, keyOf(s)).Socket
			want := abi.SocketState{
				SndBuf: 2 * 50000, SndBufMost: 2 * 50000, RcvBuf: 2 * 60000, // the kernel doubles them
				RcvLowat: 77, NotSentLowat: 16384, Priority: 6, Mark: 0x55, Linger: 7000, TTL: 33, TOS: 0x28,
				Flags: abi.SocketCork | abi.SocketLinger | abi.SocketSndBuf | abi.SocketRcvBuf,
			}
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if err := s.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := probeOne(t, set, n.Host, keyOf(s)).Socket.Shutdown; got != abi.ShutdownWrite {
				t.Errorf("shut down: %d", got)
			}
		})
	}
}

// wmem is the most that a namespace lets a send buffer grow to.
func wmem(t *testing.T, ns *testnet.Namespace) (most uint32) {
	t.Helper()
	var least, initial uint32
	err := ns.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_wmem")
		if err == nil {
			_, err = fmt.Sscan(string(text), &least, &initial, &most)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return most
}

func setOptions(fd int, four bool) error {
	type option struct{ level, name, value int }
	all := []option{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 0}, {unix.IPPROTO_TCP, unix.TCP_CORK, 1}, {unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 16384},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0}, {unix.SOL_SOCKET, unix.SO_SNDBUF, 50000}, {unix.SOL_SOCKET, unix.SO_RCVBUF, 60000},
		{unix.SOL_SOCKET, unix.SO_RCVLOWAT, 77}, {unix.SOL_SOCKET, unix.SO_MARK, 0x55},
	}
	if four {
		all = append(all, option{unix.IPPROTO_IP, unix.IP_TTL, 33}, option{unix.IPPROTO_IP, unix.IP_TOS, 0x28})
	} else {
		all = append(all, option{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 33}, option{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 0x28})
	}
	all = append(all, option{unix.SOL_SOCKET, unix.SO_PRIORITY, 6}) // IP_TOS sets it too
	for _, o := range all {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 7})
}
