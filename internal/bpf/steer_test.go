package bpf

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
)

// exchange sends n octets both ways at once, closes both ways, and compares
// what arrived with what was sent.
func exchange(t *testing.T, s, peer *net.TCPConn, n int64) {
	t.Helper()
	type result struct {
		name      string
		sent, got [32]byte
		err       error
	}
	results := make(chan result, 2)
	one := func(name string, from, to *net.TCPConn, seed byte) {
		r := result{name: name}
		sent, got := sha256.New(), sha256.New()
		done := make(chan error, 1)
		go func() {
			source := io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
			_, err := io.CopyBuffer(struct{ io.Writer }{from}, io.TeeReader(source, sent), make([]byte, 256<<10))
			if err == nil {
				err = from.CloseWrite()
			}
			done <- err
		}()
		_, r.err = io.CopyBuffer(got, struct{ io.Reader }{to}, make([]byte, 256<<10))
		if err := <-done; r.err == nil {
			r.err = err
		}
		r.sent, r.got = [32]byte(sent.Sum(nil)), [32]byte(got.Sum(nil))
		results <- r
	}
	deadline := time.Now().Add(30 * time.Second)
	s.SetDeadline(deadline)
	peer.SetDeadline(deadline)
	go one("to the peer", s, peer, 1)
	go one("to the host", peer, s, 2)
	for range 2 {
		if r := <-results; r.err != nil || r.sent != r.got {
			t.Errorf("%s: hash sent %x, received %x, %v", r.name, r.sent[:4], r.got[:4], r.err)
		}
	}
}

func TestConnectionGoesOnWhileItIsSteeredBackAndForth(t *testing.T) {
	r := newRig(t)
	r.start(t)
	for name, host := range map[string]netip.Addr{"IPv4": r.HostIP4, "IPv6": r.HostIP6} {
		t.Run(name, func(t *testing.T) {
			s, peer := r.connect(t, host)
			before := r.counters()
			stop := make(chan struct{})
			stopped := make(chan int)
			go func() { stopped <- r.steerBackAndForth(t, s, stop) }()
			exchange(t, s, peer, 64<<20)
			close(stop)
			moves := <-stopped
			c := r.counters()
			toDevice, dropped, injected := c.ToDevice-before.ToDevice, c.Dropped-before.Dropped, c.Injected-before.Injected
			if moves < 2 || toDevice == 0 || dropped == 0 || injected == 0 {
				t.Errorf("%d moves, %d frames to the device, %d kept from the kernel, %d injected", moves, toDevice, dropped, injected)
			}
			if c.Fenced != 0 || c.Fences != 0 {
				t.Errorf("fenced %d, %d times", c.Fenced, c.Fences)
			}
			// However steering and frames met, each frame went one way.
			if got := r.accepted(t); got != dropped {
				t.Errorf("the filter accepted %d frames, the kernel was spared %d", got, dropped)
			}
		})
	}
}

// accepted counts the frames that the filter has accepted since it was asked
// last, once no more come.
func (r *rig) accepted(t *testing.T) uint64 {
	t.Helper()
	stats, err := unix.GetsockoptTpacketStats(r.packet, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(stats.Packets)
}

// steerBackAndForth counts how often it steered.
func (r *rig) steerBackAndForth(t *testing.T, s net.Conn, stop <-chan struct{}) (moves int) {
	keys, ids := []flow.Key{keyOf(s)}, []abi.HWID{abi.MakeHWID(0, 1)}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ; ; moves++ {
		select {
		case <-stop:
			return moves
		case <-tick.C:
		}
		if err := r.set.Steer(keys, ids); err != nil {
			t.Errorf("steer: %v", err)
		}
		<-tick.C
		if err := r.set.Unsteer(keys); err != nil {
			t.Errorf("unsteer: %v", err)
		}
	}
}

// The injected frames are the very super-segments that the wire brought, with
// partial checksums: S acknowledges far fewer times than there are segments.
func TestSuperSegmentsCrossWhole(t *testing.T) {
	r := newRig(t)
	r.start(t)
	for name, host := range map[string]netip.Addr{"IPv4": r.HostIP4, "IPv6": r.HostIP6} {
		t.Run(name, func(t *testing.T) {
			s, peer := r.connect(t, host)
			r.steer(t, s)
			defer r.unsteer(t, s)
			const octets = 32 << 20
			before := r.counters()
			exchange(t, s, peer, octets)
			c := r.counters()
			for direction, frames := range map[string]uint64{"to the device": c.ToDevice - before.ToDevice, "injected": c.Injected - before.Injected} {
				if frames == 0 || frames > octets/1448/2 {
					t.Errorf("%d frames %s for %d octets: they are not super-segments", frames, direction, octets)
				}
			}
		})
	}
}

// With neither driver nor device running, a stale heartbeat alone gives the
// flows back.
func TestStaleHeartbeatGivesFlowsBack(t *testing.T) {
	r := newRig(t)
	for name, host := range map[string]netip.Addr{"IPv4": r.HostIP4, "IPv6": r.HostIP6} {
		t.Run(name, func(t *testing.T) {
			r.start(t)
			s, peer := r.connect(t, host)
			r.steer(t, s)
			defer r.unsteer(t, s)
			ping(t, s, peer)
			r.halt() // it may have been injecting the last acknowledgement
			before := r.counters()
			atomic.StoreUint64(&r.set.Control().StaleAfter, uint64(staleSoon))
			defer atomic.StoreUint64(&r.set.Control().StaleAfter, uint64(staleAfter))
			start := time.Now()
			ping(t, s, peer)
			// What was sent before the fence is lost, and S and peer send
			// it again after some 200 ms.
			if took := time.Since(start); took > staleSoon+2*time.Second {
				t.Errorf("a round trip took %v", took)
			}
			exchange(t, s, peer, 4<<20)
			c := r.counters()
			if c.Fenced != 1 || c.Fences != before.Fences+1 || c.Bypassed == before.Bypassed {
				t.Errorf("fenced %d, %d times; %d frames bypassed the device", c.Fenced, c.Fences-before.Fences, c.Bypassed-before.Bypassed)
			}
			if c.Injected != before.Injected {
				t.Error("a device that is not there injected")
			}
		})
	}
}

// ping sends an octet from the peer and back.
func ping(t *testing.T, s, peer net.Conn) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	s.SetDeadline(deadline)
	peer.SetDeadline(deadline)
	for _, way := range [][2]net.Conn{{peer, s}, {s, peer}} {
		if _, err := way[0].Write([]byte{42}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(way[1], make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

// A heartbeat that was written after the time was read is no old one.
func TestHeartbeatOfTheFutureIsAlive(t *testing.T) {
	r := newRig(t)
	r.start(t)
	s, peer := r.connect(t, r.HostIP4)
	r.steer(t, s)
	r.halt()
	atomic.StoreUint64(&r.set.Pulse().Heartbeat, 1<<63)
	before := r.counters()
	if _, err := peer.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the frame is kept from the kernel", func() bool { return r.counters().Dropped > before.Dropped })
	if r.counters().Fenced != 0 {
		t.Error("the device was fenced")
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}
