package device

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/kernel"
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
