package kernel

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/testnet"
)

// Many channels stand beside each other, and a program may bind a port to
// every address beside them. Nothing is sent, not even over the loopback
// interface.
func TestOpenChannel(t *testing.T) {
	n := testnet.New(t)
	const many = 300
	in(t, n.Host, func() error {
		before, begin := loopbackPackets(t), lastChannel.Load()
		var fds []int
		for range many {
			fd, err := OpenChannel()
			if err != nil {
				return err
			}
			fds = append(fds, fd)
			if state := infoOf(t, fd).State; state != unix.BPF_TCP_ESTABLISHED {
				t.Fatalf("state %d", state)
			}
		}
		lastChannel.Store(begin) // the same addresses, as another process would try them
		fd, err := OpenChannel()
		if err != nil {
			return err
		}
		for _, fd := range append(fds, fd) {
			if u, err := unread(fd); u != 0 || err != nil {
				t.Errorf("%d octets unread, %v", u, err)
			}
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("flags %#x, %v", flags, err)
			}
			if err := CloseChannel(fd); err != nil {
				t.Error(err)
			}
		}
		if after := loopbackPackets(t); after != before {
			t.Errorf("%d packets over the loopback interface", after-before)
		}
		return nil
	})
}

// loopbackPackets counts what was sent in the calling thread's namespace.
func loopbackPackets(t testing.TB) uint64 {
	t.Helper()
	l, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Statistics.TxPackets
}

// In a namespace whose loopback interface was never up there is no route; the
// error says so, and no descriptor is left.
func TestOpenChannelWithoutLoopback(t *testing.T) {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		before := descriptors(t)
		_, err := OpenChannel()
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
		result <- err
	}()
	if err := <-result; !errors.Is(err, unix.ENETUNREACH) || !strings.Contains(err.Error(), "lo up") {
		t.Errorf("got %v", err)
	}
}

// unread is how many octets a socket has received and its program not read.
// Of a socket in a sockmap it is what waits in the sockmap's queue.
func unread(fd int) (int, error) {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return 0, fmt.Errorf("count unread octets (SIOCINQ): %w", err)
	}
	return n, nil
}
