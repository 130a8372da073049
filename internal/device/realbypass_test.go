package device

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/kernel"
	"toehold/internal/shm"
)

// bypass ties a connection of the device to a channel and diverts it, as the driver
// does.
func (s *station) bypass(host *net.TCPConn, hw abi.HWID) *abi.Block {
	s.t.Helper()
	if err := s.set.OpenChannels(); err != nil {
		s.t.Fatal(err)
	}
	var c int
	err := s.Host.Do(func() (err error) { c, err = kernel.OpenChannel(); return err })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { kernel.CloseChannel(c) })
	raw, err := host.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	var tied error
	if err := raw.Control(func(fd uintptr) { tied = s.set.Tie(hw.Index(), int(fd), c, 1<<20) }); err != nil || tied != nil {
		s.t.Fatal(err, tied)
	}
	s.t.Cleanup(func() { s.set.Untie(hw.Index()) })
	s.batch++
	msg := abi.Append(nil, abi.Join, s.batch, []abi.Command{{HWID: hw}})
	if err := unix.Sendmsg(s.socket, msg, unix.UnixRights(c), nil, 0); err != nil {
		s.t.Fatal(err)
	}
	h, octets := s.hear()
	if a, err := abi.Parse([]abi.Answer(nil), h, octets); err != nil || h.Type != abi.Joined || a[0].Reason != abi.None {
		s.t.Fatalf("answer %d to Join: %+v, %v", h.Type, a, err)
	}
	b := &s.set.Blocks()[hw.Index()]
	atomic.StoreUint32(&b.Channel.Open, 1)
	if a := ask(s, abi.Divert, abi.Command{HWID: hw})[0]; a.Reason != abi.None {
		s.t.Fatalf("not diverted: %v", a.Reason)
	}
	return b
}

// A bulk transfer both ways crosses by a real channel, and both sides close.
func TestRealBypass(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		s := newStation(t)
		host, peer, id := s.connect(v6)
		hw, _ := s.offload(id)
		say(t, host, peer, "the next hop is this one", 24)
		b := s.bypass(host, hw)
		const n = 32 << 20
		start := time.Now()
		up, down := stream(t, host, peer, n), stream(t, peer, host, n)
		wait(t, "host to peer", up)
		wait(t, "peer to host", down)
		ch := &b.Channel
		t.Logf("IPv6 %v: %v, %+v", v6, time.Since(start), *ch)
		if out, in := atomic.LoadUint64(&ch.Out), atomic.LoadUint64(&ch.In); in != n || out < n/4 {
			t.Errorf("by the channel went %d octets out, %d in", out, in)
		}
	}
}

// home takes a diverted connection whose program rests home into shadow, as the driver
// does: its socket is rebuilt from ledger, ring and queues.
func (s *station) home(host *net.TCPConn, id flow.ID, hw abi.HWID) {
	s.t.Helper()
	if a := ask(s, abi.Part, abi.Command{HWID: hw})[0]; a.Reason != abi.None {
		s.t.Fatalf("not parted: %v", a.Reason)
	}
	raw, err := host.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = s.Host.Do(func() error { return s.rebuild(int(fd), id, hw) }) })
	if err != nil || failed != nil {
		s.t.Fatal(err, failed)
	}
}

func (s *station) rebuild(fd int, id flow.ID, hw abi.HWID) error {
	b := &s.set.Blocks()[hw.Index()]
	l, h := b.Ledger, b.Hardware
	unread, _, err := kernel.TakeUnread(fd)
	if err != nil {
		return err
	}
	if err := s.set.Untie(hw.Index()); err != nil {
		return err
	}
	r, err := kernel.Salvage(fd, id)
	if err != nil {
		return err
	}
	r.SndUna, r.RcvNxt, r.Sent, r.Unsent = h.SndUna, l.RcvStart+uint32(b.Channel.In), nil, nil
	if len(unread) > 0 {
		r.Unread = [][]byte{unread}
	}
	r.SndWnd, r.MaxWnd, r.RcvWup, r.RcvWnd, r.SndWL1 = h.SndWnd, max(h.SndWnd, r.MaxWnd), h.RcvAcked, h.RcvWnd, h.RcvAcked
	if l.SndUna != l.SndEnd || h.SndUna != l.SndEnd {
		return errors.New("the program does not rest")
	}
	if err := kernel.Restore(fd, r); err != nil {
		return err
	}
	k := b.Kernel.State
	k.SndUna, k.SndNxt, k.RcvNxt, k.SndWnd, k.RcvWup, k.RcvWnd = r.SndUna, r.SndUna, r.RcvNxt, r.SndWnd, r.RcvWup, r.RcvWnd
	shm.Publish(&b.Kernel.Sequence, func() { b.Kernel.State = k })
	if a := ask(s, abi.Resume, abi.Command{HWID: hw})[0]; a.Reason != abi.None {
		return errors.New("not resumed: " + a.Reason.String())
	}
	return kernel.Finish(fd, r, false)
}

// say sends octets from one end to the other, which reads n of them.
func say(t *testing.T, from, to *net.TCPConn, text string, n int) {
	t.Helper()
	if _, err := from.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, n)
	to.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(to, buf); err != nil || string(buf) != text[:n] {
		t.Fatalf("read %q of %q: %v", buf, text, err)
	}
	to.SetReadDeadline(time.Time{})
}

// A connection is bypassed and comes back, again and again, with octets unread, and
// goes home to the kernel.
func TestRealBypassAndBack(t *testing.T) {
	s := newStation(t)
	host, peer, id := s.connect(false)
	hw, _ := s.offload(id)
	say(t, host, peer, "the next hop is this one", 24) // nobody else says so here
	for i := range 3 {
		b := s.bypass(host, hw)
		say(t, host, peer, "from the program", 16)
		say(t, peer, host, "from the peer, some of it unread", 13)
		for end := time.Now().Add(10 * time.Second); b.Hardware.SndUna != b.Ledger.SndEnd || b.Channel.In != 32; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("turn %d: no rest: %+v %+v", i, b.Ledger, b.Channel)
			}
		}
		s.home(host, id, hw)
		buf := make([]byte, 19)
		host.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(host, buf); err != nil || string(buf) != ", some of it unread" {
			t.Fatalf("turn %d: read %q, %v", i, buf, err)
		}
		host.SetReadDeadline(time.Time{})
		say(t, host, peer, "by shadow", 9)
		say(t, peer, host, "and back", 8)
	}
	s.upload(id, hw)
	up, down := stream(t, host, peer, 1<<20), stream(t, peer, host, 1<<20)
	wait(t, "host to peer", up)
	wait(t, "peer to host", down)
}
