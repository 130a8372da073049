package bench

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/rig"
)

// What a connection does not take at once is written later, in order.
func TestEchoKeepsTheRest(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	e := echoes{waiting: map[int][]byte{}, room: make([]byte, 64<<10)}
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(e.epoll)
	if err := e.watch(unix.EPOLL_CTL_ADD, pair[0], unix.EPOLLIN); err != nil {
		t.Fatal(err)
	}
	want, got := make([]byte, 4<<20), []byte(nil)
	rig.NewStream(3).Read(want)
	if err := e.write(pair[0], want); err != nil || len(e.waiting[pair[0]]) == 0 {
		t.Fatalf("nothing is left of %d octets: %v", len(want), err)
	}
	b := make([]byte, 100<<10)
	for len(got) < len(want) {
		n, err := unix.Read(pair[1], b)
		if err != nil {
			t.Fatalf("after %d octets: %v", len(got), err)
		}
		got = append(got, b[:n]...)
		if rest := e.waiting[pair[0]]; len(rest) > 0 {
			if err := e.write(pair[0], rest); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !bytes.Equal(got, want) || len(e.waiting) != 0 {
		t.Error("others came than were written, or some are left")
	}
}
