package bpf

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/testnet"
)

func TestOptionsThatEndABypass(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		level, option, value int
		want                 uint32
	}{
		{"SO_RCVLOWAT 1", unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1, 0},
		{"SO_RCVLOWAT 100", unix.SOL_SOCKET, unix.SO_RCVLOWAT, 100, abi.ChannelRcvLowat},
		{"SO_ZEROCOPY", unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1, abi.ChannelZeroCopy},
		{"TCP_NOTSENT_LOWAT", unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 5000, abi.ChannelNotSentLowat},
		{"SO_PEEK_OFF", unix.SOL_SOCKET, unix.SO_PEEK_OFF, 5, abi.ChannelRcvLowat},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, 0},
		{"no TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 0, abi.ChannelOption},
		{"TCP_CORK", unix.IPPROTO_TCP, unix.TCP_CORK, 1, abi.ChannelOption},
		{"no TCP_CORK", unix.IPPROTO_TCP, unix.TCP_CORK, 0, 0},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1000, abi.ChannelOption},
		{"IP_TOS", unix.IPPROTO_IP, unix.IP_TOS, 0x28, abi.ChannelOption},
		{"TCP_QUICKACK", unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1, 0},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newTied(t, 1000)
			p.must(unix.SetsockoptInt(p.c, tt.level, tt.option, tt.value))
			p.flags("of the channel", 0)
			p.must(unix.SetsockoptInt(p.fd, tt.level, tt.option, tt.value))
			p.flags("of the socket", tt.want)
			if got, err := unix.GetsockoptInt(p.fd, tt.level, tt.option); got != tt.value || err != nil {
				t.Errorf("the program reads %d, %v; want %d", got, err, tt.value)
			}
			p.must(p.set.Untie(tiedAt))
			p.channel().Flags = 0
			p.must(unix.SetsockoptInt(p.fd, tt.level, tt.option, tt.value))
			p.flags("of a socket that was tied", 0)
		})
	}
}

// SO_SNDBUF does, and reads back as the kernel doubles it.
func TestSendBufferEndsABypass(t *testing.T) {
	p := newTied(t, 1000)
	p.must(unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 10000))
	p.flags("of the socket", abi.ChannelOption)
}

// A tied socket gets no upper-layer protocol: what that is to encrypt would go to
// the channel as it is.
func TestNoUpperLayerOverAChannel(t *testing.T) {
	p := newTied(t, 1000)
	if err := unix.SetsockoptString(p.fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("TCP_ULP: %v", err)
	}
	p.write(p.fd, pattern(100))
	p.expect("to the channel", p.c, pattern(100))
	p.flags("of the socket", 0)
}

// The program is told its own TCP_NOTSENT_LOWAT.
func TestNotSentLowatOfTiedSocket(t *testing.T) {
	n, set := testnet.New(t), loadSet(t)
	s, _ := connect(t, n.Host, n.Peer, n.HostIP6)
	fd, c := descriptor(t, s), openChannel(t, n.Host)
	const own = 123_456
	lowat := func() int {
		v, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, own), set.OpenChannels(), set.Tie(0, fd, c, 1000)); err != nil {
		t.Fatal(err)
	}
	if got := lowat(); got != own {
		t.Errorf("the program is told %d, want %d", got, own)
	}
	if k := probeOne(t, set, n.Host, keyOf(s)); k.Socket.NotSentLowat != 1 {
		t.Errorf("the kernel has %d, want 1", k.Socket.NotSentLowat)
	}
	if err := set.Untie(0); err != nil {
		t.Fatal(err)
	}
	if got := lowat(); got != 1 {
		t.Errorf("after Untie it is %d; to give it back is the caller's", got)
	}
}

// What the program leaves unread is told when the last descriptor is closed,
// also of a descriptor that another process has.
func TestLeftUnread(t *testing.T) {
	p := newTied(t, 1000)
	p.write(p.c, pattern(100))
	p.must(p.s.CloseWrite())
	p.flags("shutdown", 0)
	other, err := p.s.File()
	p.must(err)
	child := exec.Command("cat")
	child.ExtraFiles = []*os.File{other}
	stdin, err := child.StdinPipe()
	p.must(err)
	p.must(child.Start())
	p.must(p.s.Close())
	p.flags("one of three closed", 0)
	p.must(other.Close())
	p.flags("two of three closed", 0)
	p.must(stdin.Close())
	p.must(child.Wait())
	eventually(t, "the last one is closed", func() bool {
		return atomic.LoadUint32(&p.channel().Flags) == abi.ChannelClosed|abi.ChannelLeftUnread
	})
	if n, err := unix.Write(p.c, pattern(10)); err == nil {
		t.Errorf("%d octets sent to a socket that is gone", n)
	}
	p.must(p.set.Untie(tiedAt))
}

func TestNothingLeftUnread(t *testing.T) {
	for name, prepare := range map[string]func(p *tiedPair){
		"nothing was sent": func(p *tiedPair) {},
		"all was read": func(p *tiedPair) {
			p.write(p.c, pattern(100))
			p.expect("all", p.fd, pattern(100))
		},
		"all was read, and the peer's FIN was not": func(p *tiedPair) {
			p.write(p.c, pattern(100))
			p.must(p.peer.CloseWrite())
			eventually(p.t, "the FIN is in", func() bool {
				return probeOne(t, p.set, p.Host, keyOf(p.s)).Flags&abi.FlagPeerFIN != 0
			})
			buf := make([]byte, 100)
			if n, err := unix.Read(p.fd, buf); n != 100 || err != nil {
				p.t.Fatal(n, err)
			}
			p.counts("read before the FIN", 0, 0, 100, 100)
		},
		"untied": func(p *tiedPair) {
			p.write(p.c, pattern(100))
			p.must(p.set.Untie(tiedAt))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTied(t, 1000)
			prepare(p)
			p.must(p.s.Close())
			if f := atomic.LoadUint32(&p.channel().Flags); f&^abi.ChannelClosed != 0 || (f == 0) != (name == "untied") {
				t.Errorf("flags %#x", f)
			}
		})
	}
}

// plain checks that a socket speaks with its peer as ever.
func (p *tiedPair) plain() {
	p.t.Helper()
	got := make([]byte, 1000)
	for _, way := range [][2]net.Conn{{p.s, p.peer}, {p.peer, p.s}} {
		if _, err := way[0].Write(pattern(1000)); err != nil {
			p.t.Fatal(err)
		}
		if _, err := io.ReadFull(way[1], got); err != nil || !bytes.Equal(got, pattern(1000)) {
			p.t.Fatal(err)
		}
	}
}

// The octets of a connection that is over stay to be read, while its index is
// another's already.
func TestLeave(t *testing.T) {
	p := newTied(t, 1000)
	p.write(p.c, pattern(5000))
	p.must(p.set.Leave(tiedAt))
	p.must(p.set.Leave(tiedAt))

	other, _ := connect(t, p.Host, p.Peer, p.HostIP4)
	c := openChannel(t, p.Host)
	p.must(p.set.Tie(tiedAt, descriptor(t, other), c, 1000))
	p.open(1)
	p.write(c, pattern(70))
	p.counts("the next", 0, 0, 70, 0)
	p.expect("to the first program", p.fd, pattern(5000))
	p.counts("the next", 0, 0, 70, 0)
	p.expect("to the second program", descriptor(t, other), pattern(70))
	p.counts("the next", 0, 0, 70, 70)
	p.plain()
	p.must(p.s.Close())
	p.counts("the next", 0, 0, 70, 70)
	p.must(p.set.Untie(tiedAt))
}

func TestUntieAndTieAgain(t *testing.T) {
	p := newTied(t, 1000)
	for range 3 {
		p.write(p.fd, pattern(100))
		p.write(p.c, pattern(50))
		p.expect("to the channel", p.c, pattern(100))
		p.expect("to the program", p.fd, pattern(50))
		p.counts("tied", 100, 100, 50, 50)
		p.must(p.set.Untie(tiedAt))
		p.must(p.set.Untie(tiedAt))
		p.plain()
		p.counts("untied", 100, 100, 50, 50)
		p.must(p.set.Tie(tiedAt, p.fd, p.c, 1000))
		p.counts("tied again", 0, 0, 0, 0)
		p.plain()
		p.open(1)
	}
	p.must(p.set.Close())
	p.plain()
}

// A socket that is rebuilt leaves the sockmap by itself.
func TestTieAfterDisconnect(t *testing.T) {
	p := newTied(t, 1000)
	rebuild(t, p.s)
	for range 2 {
		p.must(p.set.Tie(tiedAt, p.fd, p.c, 1000))
		p.open(1)
		p.write(p.fd, pattern(100))
		p.expect("to the channel", p.c, pattern(100))
		p.counts("tied again", 100, 100, 0, 0)
		p.must(p.set.Untie(tiedAt))
	}
}
