package device

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/frame"
)

// A meadow is a channel whose octets are only counted.
type meadow struct {
	block  *abi.Block
	toTake int
}

func (m *meadow) Watch(abi.HWID) error { return nil }

func (m *meadow) Take(a, b []byte) (int, error) {
	n := min(m.toTake, len(a)+len(b))
	if n == 0 {
		return 0, unix.EAGAIN
	}
	m.toTake -= n
	return n, nil
}

func (m *meadow) Give(pieces []frame.Span) (int, error) {
	n := 0
	for _, p := range pieces {
		n += int(p.Len)
	}
	m.block.Channel.In += uint64(n)
	m.block.Channel.Read += uint64(n)
	return n, nil
}

func (m *meadow) Close() {}

// divert makes the device bypass the belt's connection.
func (b *belt) divert() *meadow {
	d := b.device
	d.memory, d.rings = make([]byte, abi.RingSize), make([]*ring, 1)
	m := &meadow{block: &d.blocks[0]}
	d.Handle(b.now, abi.Append(nil, abi.Join, 1, []abi.Command{{HWID: b.id}}), m)
	b.turn()
	d.Handle(b.now, abi.Append(nil, abi.Divert, 1, []abi.Command{{HWID: b.id}}))
	b.turn()
	if b.answers[0].Reason != abi.None || !d.find(b.id).bypassed() {
		b.tb.Fatalf("not diverted: %+v", b.answers)
	}
	return m
}

// across moves n super-segments' worth of octets each way.
func (b *belt) across(m *meadow, n int) {
	for range n {
		b.now += 20000
		b.sender.Send(frame.Span{Buf: b.pool.Get(frame.Large), Len: 65160})
		b.transmit(&b.sender, &b.fromSender, b.toSender)
		b.turn()
		m.toTake += 65160
		b.device.Ready(b.now, b.id)
		b.turn()
		b.take(&b.sender, b.toSender)
		b.transmit(&b.sender, &b.fromSender, b.toSender)
		b.turn()
		b.pool.Recycle()
	}
}

// No segment of a bypassed connection costs an allocation, nor does S hear of any.
func TestNoAllocationPerSegmentBypassed(t *testing.T) {
	b := newBelt(t)
	b.own()
	m := b.divert()
	b.across(m, 2000)
	n := testing.AllocsPerRun(200, func() { b.across(m, 1) })
	if n != 0 {
		t.Errorf("%v allocations for a super-segment each way", n)
	}
	const want = 2201 * 65160
	if b.got != want || m.block.Channel.In != want {
		t.Errorf("%d octets out, %d in, want %d", b.got, m.block.Channel.In, want)
	}
	b.take(&b.receiver, b.toReceiver)
	if s := b.receiver.Stats(); s.SegsIn != 0 {
		t.Errorf("S heard of %d segments", s.SegsIn)
	}
}

// BenchmarkAcross is the device alone, with a super-segment each way.
func BenchmarkAcross(b *testing.B) {
	belt := newBelt(b)
	belt.own()
	m := belt.divert()
	belt.across(m, 100)
	b.SetBytes(2 * 65160)
	b.ReportAllocs()
	b.ResetTimer()
	belt.across(m, b.N)
}

// A channel that is a socket takes and gives in pieces, does not wait, and wakes the
// loop once for what came.
func TestSocketChannel(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	other, err := unix.FcntlInt(uintptr(pair[0]), unix.F_DUPFD_CLOEXEC, 0) // the driver's
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	c := &socketChannel{pair[0], &waiting{epoll: epoll}}
	id := abi.MakeHWID(3, 7)
	if err := c.Watch(id); err != nil {
		t.Fatal(err)
	}
	a, b := make([]byte, 3), make([]byte, 10)
	if _, err := c.Take(a, b); err != unix.EAGAIN {
		t.Errorf("an empty one: %v", err)
	}
	woken := func() (all []abi.HWID) {
		var events [4]unix.EpollEvent
		n, err := epollWait(epoll, events[:], 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range events[:n] {
			all = append(all, watched(&events[i]))
		}
		return all
	}
	woken()
	unix.Write(pair[1], []byte("abcdefg"))
	if got := woken(); len(got) != 1 || got[0] != id {
		t.Errorf("woken for %v", got)
	}
	if got := woken(); len(got) != 0 {
		t.Errorf("woken again for %v", got)
	}
	if n, err := c.Take(a, b); n != 7 || err != nil || string(a)+string(b[:4]) != "abcdefg" {
		t.Errorf("took %d, %v: %q %q", n, err, a, b)
	}
	buf := frame.Wrap([]byte("0123456789"))
	if n, err := c.Give([]frame.Span{{Buf: buf, Off: 7, Len: 3}, {Buf: buf, Off: 1, Len: 2}}); n != 5 || err != nil {
		t.Errorf("gave %d, %v", n, err)
	}
	got := make([]byte, 10)
	if n, _ := unix.Read(pair[1], got); !bytes.Equal(got[:n], []byte("78912")) {
		t.Errorf("arrived: %q", got[:n])
	}
	c.Close()
	unix.Write(pair[1], []byte("more"))
	if got := woken(); len(got) != 0 {
		t.Errorf("woken for %v after the end", got)
	}
}

// openFiles is how many descriptors the process has.
func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// The loop has the channels of a message, as many as a Join may have, and leaves none
// open that the device does not keep.
func TestChannelsByMessage(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	w := newWorld(t, 4, faults{})
	l := &loop{socket: pair[1], device: w.device, message: make([]byte, abi.MaxMessage), oob: make([]byte, unix.CmsgSpace(4*abi.MaxJoins))}
	before := openFiles(t)
	fds := make([]int, abi.MaxJoins)
	for i := range fds {
		fds[i] = pair[0]
	}
	for _, n := range []int{1, abi.MaxJoins} {
		msg := abi.Append(nil, abi.Join, 1, make([]abi.Command, n))
		for _, m := range [][]byte{msg, msg[:len(msg)-1], {1}} {
			if err := unix.Sendmsg(pair[0], m, unix.UnixRights(fds[:n]...), nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		if more, err := l.hear(); !more || err != nil {
			t.Fatal(more, err)
		}
	}
	w.turnDevice()
	refused := 0
	for _, a := range w.answers {
		if a.kind == abi.Joined && a.Reason == abi.NoConnection {
			refused++
		}
	}
	if refused != 1+abi.MaxJoins {
		t.Errorf("%d were refused", refused)
	}
	if n := openFiles(t); n > before {
		t.Errorf("%d descriptors, before that %d", n, before)
	}
}
