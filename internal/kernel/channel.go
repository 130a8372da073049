package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/flow"
)

// Channels have local addresses from 127.128.0.0/9, which nothing is ever sent
// to, and all the same local port, one that no program waits at: a program
// that binds a port to every address is refused if any socket has it.
const (
	firstChannel = 127<<24 | 128<<16
	channels     = 1 << 23 // addresses
	channelPort  = 1       // tcpmux (RFC 1078), which is historic
	// channelTries bounds how many addresses that other processes' channels
	// have are passed over.
	channelTries = 1 << 10
)

var channelPeer = &unix.SockaddrInet4{Port: channelPort, Addr: [4]byte{127, 127, 127, 127}}

// lastChannel is the number of the address that was tried last. Each process
// begins somewhere else, so as not to meet another's again and again.
var lastChannel atomic.Uint32

func init() { lastChannel.Store(rand.Uint32()) }

// OpenChannel makes a kernel socket that is established without a peer: what
// is sent on it goes nowhere, what it receives comes by a sockmap. It is
// non-blocking, in the calling thread's network namespace, whose loopback
// interface must be up since the socket needs a route. Nothing is sent.
func OpenChannel() (fd int, err error) {
	for range channelTries {
		// One whose address is taken keeps its port, and cannot be bound anew.
		fd, err = openChannel(nextChannel())
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ENETUNREACH):
		return -1, fmt.Errorf("channel: %w (is the loopback interface down? `ip link set lo up`)", err)
	case err != nil:
		return -1, fmt.Errorf("channel: %w", err)
	}
	return fd, nil
}

func openChannel(local *unix.SockaddrInet4) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := establish(fd, local); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// establish connects a new socket in repair mode: then bind passes over
// conflicts, and connect sends no SYN (tcp_connect) but finds them. A socket
// that lingers for no time leaves no orphan when its process ends.
func establish(fd int, local *unix.SockaddrInet4) error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"TCP_REPAIR", func() error { return setTCP(fd, unix.TCP_REPAIR, unix.TCP_REPAIR_ON) }},
		{"SO_LINGER", func() error {
			return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}},
		{"bind", func() error { return unix.Bind(fd, local) }},
		{"connect", func() error { return unix.Connect(fd, channelPeer) }},
		{"end TCP_REPAIR", func() error { return setTCP(fd, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF_NO_WP) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

func setTCP(fd, option, value int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, value)
}

func nextChannel() *unix.SockaddrInet4 {
	sa := &unix.SockaddrInet4{Port: channelPort}
	binary.BigEndian.PutUint32(sa.Addr[:], firstChannel+lastChannel.Add(1)%channels)
	return sa
}

// IsChannel reports whether a connection is a channel, of whatever process.
func IsChannel(id flow.ID) bool {
	return id.Remote == netip.AddrPortFrom(netip.AddrFrom4(channelPeer.Addr), channelPort) && id.Local.Port() == channelPort
}

// CloseChannel closes a channel without a word on the loopback interface.
func CloseChannel(fd int) error {
	setTCP(fd, unix.TCP_REPAIR, unix.TCP_REPAIR_ON) // tcp_close says nothing then
	return unix.Close(fd)
}

// Held is the memory, in octets, of what a socket has received and its program has
// not read, 0 where that cannot be told. Unlike a call that receives, it takes no
// error that the program is to see.
func Held(fd int) uint32 {
	var info [9]uint32 // SK_MEMINFO_VARS; the first is SK_MEMINFO_RMEM_ALLOC
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return info[0]
}
