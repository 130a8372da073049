package testnet

import (
	"errors"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// tunAddresses are the ends' addresses in the network that AddTUNs makes.
var tunAddresses = [2][2]netip.Addr{
	{netip.MustParseAddr("10.78.0.1"), netip.MustParseAddr("fd78::1")},
	{netip.MustParseAddr("10.78.0.2"), netip.MustParseAddr("fd78::2")},
}

// AddTUNs joins host and peer by a second network, of interfaces without link
// header called name, and returns the host's addresses and the peer's, each
// IPv4 and IPv6. Super-segments stay whole between them.
func (n *Net) AddTUNs(t testing.TB, name string) (host, peer [2]netip.Addr) {
	t.Helper()
	var fds [2]int
	for i, ns := range []*Namespace{n.Host, n.Peer} {
		err := ns.Do(func() (err error) {
			fds[i], err = openTUN(name)
			return err
		})
		if err == nil {
			err = ns.Configure(name, tunAddresses[i][:]...)
		}
		if err != nil {
			t.Fatalf("make TUN %s: %v", name, err)
		}
	}
	stop := make(chan struct{})
	var carrying sync.WaitGroup
	carrying.Go(func() { carry(fds, stop) })
	t.Cleanup(func() {
		close(stop)
		carrying.Wait()
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	return tunAddresses[0], tunAddresses[1]
}

// openTUN makes a TUN in the namespace of the calling thread.
func openTUN(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6|unix.TUN_F_TSO_ECN)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// carry moves packets between two TUNs until it is stopped.
func carry(fds [2]int, stop <-chan struct{}) {
	buf := make([]byte, 10+1<<16)
	wait := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}, {Fd: int32(fds[1]), Events: unix.POLLIN}}
	for {
		select {
		case <-stop:
			return
		default:
		}
		forwardAll(fds[0], fds[1], buf)
		forwardAll(fds[1], fds[0], buf)
		unix.Poll(wait, 5)
	}
}

// forwardAll moves what waits. A packet that the other end does not take is
// lost, as on any wire.
func forwardAll(from, to int, buf []byte) {
	for {
		n, err := unix.Read(from, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		unix.Write(to, buf[:n])
	}
}
