package bpf

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/testnet"
)

// A class is a frame's mark and priority.
type class struct{ mark, priority uint32 }

// A classContext is struct __sk_buff, of which only these matter.
type classContext struct {
	_        [2]uint32
	Mark     uint32
	_        [5]uint32
	Priority uint32
	_        [39]uint32
}

// leave runs the egress program on a segment of id and returns the class that
// it leaves with.
func leave(t *testing.T, s *Set, id flow.ID, with class) class {
	t.Helper()
	var after classContext
	_, err := s.steer.Egress.Run(&ebpf.RunOptions{
		Data: segment(id), DataOut: make([]byte, 256),
		Context: classContext{Mark: with.mark, Priority: with.priority}, ContextOut: &after,
	})
	if err != nil {
		t.Fatal(err)
	}
	return class{after.Mark, after.Priority}
}

// The device's frames leave with mark and priority of S's last one.
func TestClassFollowsTheLastFrame(t *testing.T) {
	s := bench(t, 14)
	device := class{mark: abi.MarkWire, priority: 3}
	for _, id := range []flow.ID{steered4, steered6} {
		if got := leave(t, s, id, device); got != (class{priority: 3}) { // there is no such socket
			t.Errorf("%v, before any frame: %+v", id, got)
		}
		for _, want := range []class{{mark: 7, priority: 6}, {mark: 7}, {}, {priority: 1}} {
			leave(t, s, id, want)
			if got := leave(t, s, id, device); got != want {
				t.Errorf("%v: %+v after %+v", id, got, want)
			}
		}
	}
}

// Where no frame of S has come, and once the flow is un-steered, they are the
// socket's.
func TestClassOfTheSocket(t *testing.T) {
	n, s := testnet.New(t), bench(t, 14)
	for name, address := range map[string]netip.Addr{"IPv4": n.HostIP4, "IPv6": n.HostIP6} {
		t.Run(name, func(t *testing.T) {
			c, _ := connect(t, n.Host, n.Peer, address)
			control(t, c, func(fd int) error {
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x55); err != nil {
					return err
				}
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 4)
			})
			key := keyOf(c)
			for _, steered := range []bool{false, true} {
				if steered {
					if err := s.Steer([]flow.Key{key}, []abi.HWID{abi.MakeHWID(3, 1)}); err != nil {
						t.Fatal(err)
					}
				}
				err := n.Host.Do(func() error {
					if got := leave(t, s, key.ID(), class{mark: abi.MarkWire}); got != (class{0x55, 4}) {
						t.Errorf("steered %v: %+v", steered, got)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
