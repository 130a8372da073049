package driver_test

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/driver"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/testnet"
	"toehold/internal/wire"
)

// What options of the flow do, on the wire and to the program. Each is tried on
// a connection that the device has, and on one of the kernel's, to show that the
// kernel does the same.
var flowOptions = map[string]func(t *testing.T, r *rig, p *pair, a *arrivals){
	"NODELAY": noDelay, "no NODELAY": delay, "CORK": cork, "QUICKACK": quickAck, "LINGER": linger,
	"RCVLOWAT": lowWaterMark, "RCVBUF": receiveBuffer, "SNDBUF": sendBuffer,
}

func TestOptionsOfTheFlow(t *testing.T) {
	all := newRig(t)
	all.keepNeighbour()
	all.inHost(func() error { // a tail loss probe takes what Nagle holds back along
		return os.WriteFile("/proc/sys/net/ipv4/tcp_early_retrans", []byte("0"), 0)
	})
	for name, f := range flowOptions {
		for _, place := range places {
			if name == "QUICKACK" && place == driver.Bypass {
				continue // always quick
			}
			t.Run(name+"/"+place, func(t *testing.T) {
				r := all.of(t)
				p := r.connect(1, false)[0]
				r.place(p, place)
				a := r.arrivals(p)
				const text = "as it was"
				p.exchange(t, text)
				eventually(t, "that has been seen", func() bool { n, _ := a.octets(0); return n == uint32(len(text)) })
				f(t, r, p, a)
			})
		}
	}
}

// leaving are the options that take a connection from bypass to shadow, by the
// value that does not.
var leaving = map[option]string{
	{unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1}: "low-water-mark", {unix.SOL_SOCKET, unix.SO_SNDBUF, -1}: "socket-option",
	{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, -1}: "socket-option", {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}: "socket-option",
	{unix.IPPROTO_TCP, unix.TCP_CORK, 0}: "socket-option",
}

// followsIntoShadow waits until a connection that is bypassed is in shadow, if an
// option takes it there.
func (r *rig) followsIntoShadow(p *pair, set option) {
	r.t.Helper()
	why := ""
	if set.level == unix.IPPROTO_IP || set.level == unix.IPPROTO_IPV6 {
		why = "socket-option"
	}
	for o, reason := range leaving {
		if o.level == set.level && o.name == set.name && o.value != set.value {
			why = reason
		}
	}
	if why == "" {
		return
	}
	p.changed = nil // it stays there
	eventually(r.t, "it is in shadow", func() bool { return r.list(p.selector())[0].Attachment == driver.Shadow })
	if got := r.list(p.selector())[0].Reason; got != why {
		r.t.Errorf("it is in shadow for %s, not for %s", got, why)
	}
}

// places are where a connection is tried, by attachment to the device.
var places = []string{driver.InKernel, driver.Shadow, driver.Bypass}

// place brings a connection to one of them.
func (r *rig) place(p *pair, place string) {
	r.t.Helper()
	if place == driver.InKernel {
		return
	}
	eventually(r.t, "it is in "+place, func() bool { // a busy program reads late
		res, err := r.client.Offload(ctx, p.selector(), driver.Options{Attachment: place})
		if err != nil {
			r.t.Fatal(err)
		}
		return len(res.Moved) == 1 && res.Moved[0].Attachment == place
	})
	if place == driver.Bypass {
		p.changed = func(level, name, value int) { r.followsIntoShadow(p, option{level, name, value}) }
	}
}

// of is r for a part of its test.
func (r *rig) of(t *testing.T) *rig {
	part := *r
	part.t = t
	return &part
}

// octets is how many octets of payload have come since begin, and in how many
// segments.
func (a *arrivals) octets(begin int) (octets uint32, segments int) {
	known := map[uint32]bool{}
	for _, s := range a.since(begin) {
		if n := s.Seg.Payload.Len; n > 0 {
			segments++
			if !known[uint32(s.Seg.Seq)] {
				octets += n
			}
			known[uint32(s.Seg.Seq)] = true
		}
	}
	return octets, segments
}

// With TCP_NODELAY nothing that is small waits.
func noDelay(t *testing.T, r *rig, p *pair, a *arrivals) {
	p.set(t, unix.IPPROTO_TCP, unix.TCP_NODELAY, 0)
	p.set(t, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	r.Peer.Lose(t, r.PeerIf, 1, testnet.In)
	begin := a.now()
	p.send(t, 100)
	p.send(t, 200)
	eventually(t, "all comes", func() bool { n, _ := a.octets(begin); return n == 300 })
}

// Without it, what is small waits while something small is not acknowledged.
func delay(t *testing.T, r *rig, p *pair, a *arrivals) {
	p.set(t, unix.IPPROTO_TCP, unix.TCP_NODELAY, 0)
	stop := r.Peer.Lose(t, r.PeerIf, 1, testnet.In)
	begin := a.now()
	p.send(t, 100)
	p.send(t, 200)
	eventually(t, "the first is sent again", func() bool { _, n := a.octets(begin); return n >= 2 })
	if n, _ := a.octets(begin); n != 100 {
		t.Errorf("%d octets have come", n)
	}
	stop()
	eventually(t, "the rest comes", func() bool { n, _ := a.octets(begin); return n == 300 })
}

// soonest is the shortest time in which something happened, of several.
func soonest(times int, try func() time.Duration) time.Duration {
	least := time.Hour
	for range times {
		least = min(least, try())
	}
	return least
}

// TCP_CORK holds what is small back, for 200 ms at most.
func cork(t *testing.T, r *rig, p *pair, a *arrivals) {
	p.set(t, unix.IPPROTO_TCP, unix.TCP_NODELAY, 0) // with it, the first may pass
	p.set(t, unix.IPPROTO_TCP, unix.TCP_CORK, 1)
	next := seqnum.Value(r.show(p.selector()).Kernel.SndNxt)
	arrives := func() time.Duration {
		since := mono.Now()
		p.send(t, 100)
		s := a.await("it comes", 0, func(s *seen) bool { return s.Seg.Seq == next && s.Seg.Payload.Len > 0 })
		next = next.Add(100)
		return s.at.Sub(since)
	}
	if took := soonest(2, arrives); took < 150*time.Millisecond {
		t.Errorf("corked, it came after %v", took)
	}
	p.set(t, unix.IPPROTO_TCP, unix.TCP_CORK, 0)
	if took := soonest(20, arrives); took > 100*time.Millisecond {
		t.Errorf("not corked, it came after %v", took)
	}
}

// TCP_QUICKACK is when the peer is acknowledged to.
func quickAck(t *testing.T, r *rig, p *pair, a *arrivals) {
	const octets = 10
	next := seqnum.Value(r.show(p.selector()).Kernel.RcvNxt)
	acknowledged := func(quick int) func() time.Duration {
		return func() time.Duration {
			next = next.Add(octets)
			p.set(t, unix.IPPROTO_TCP, unix.TCP_QUICKACK, quick)
			since := mono.Now()
			if _, err := p.peer.Write(make([]byte, octets)); err != nil {
				t.Fatal(err)
			}
			s := a.await("it is acknowledged", 0, func(s *seen) bool { return next.LessEq(s.Seg.Ack) })
			return s.at.Sub(since)
		}
	}
	if took := soonest(5, acknowledged(0)); took < 30*time.Millisecond {
		t.Errorf("not quick, it took %v", took)
	}
	if took := soonest(20, acknowledged(1)); took > 30*time.Millisecond {
		t.Errorf("quick, it took %v", took)
	}
}

// SO_LINGER of no time makes a close a reset.
func linger(t *testing.T, _ *rig, p *pair, a *arrivals) {
	p.control(t, func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	p.host.Close()
	a.await("the peer is reset", 0, func(s *seen) bool { return s.Seg.Flags&wire.RST != 0 })
}

// SO_RCVLOWAT is when a reader is woken.
func lowWaterMark(t *testing.T, r *rig, p *pair, _ *arrivals) {
	p.set(t, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1000)
	unread, ready := 0, 0
	look := func(timeout int) {
		p.control(t, func(fd int) (err error) {
			if unread, err = unix.IoctlGetInt(fd, unix.SIOCINQ); err == nil {
				ready, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, timeout)
			}
			return err
		})
	}
	p.peer.Write(make([]byte, 400))
	eventually(t, "400 octets are there", func() bool { look(0); return unread == 400 })
	if ready != 0 {
		t.Error("400 octets woke the reader")
	}
	p.peer.Write(make([]byte, 700))
	if look(10000); ready != 1 {
		t.Error("1100 octets did not wake the reader")
	}
}

// SO_RCVBUF is what the peer is offered.
func receiveBuffer(t *testing.T, r *rig, p *pair, a *arrivals) {
	scale := r.show(p.selector()).Kernel.RcvWscale
	window := func() int {
		all := a.since(0)
		return int(all[len(all)-1].Seg.Window) << scale
	}
	eventually(t, "the window is large", func() bool { return a.now() > 0 && window() > 30000 })
	const buffer = 8000 // which the kernel doubles
	p.set(t, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	const octets = 300000
	eventually(t, "the window is of the buffer", func() bool {
		go p.peer.Write(make([]byte, octets))
		p.receive(t, octets)
		return window() <= 2*buffer
	})
}

// receive reads at the host's end.
func (p *pair) receive(t testing.TB, octets int) {
	t.Helper()
	p.host.SetReadDeadline(time.Now().Add(10 * time.Second))
	for b := make([]byte, 1<<16); octets > 0; {
		n, err := p.host.Read(b)
		if err != nil {
			t.Fatalf("%d octets short: %v", octets, err)
		}
		octets -= n
	}
}

// SO_SNDBUF is how far a writer gets ahead of the peer.
func sendBuffer(t *testing.T, r *rig, p *pair, _ *arrivals) {
	r.Peer.Lose(t, r.PeerIf, 1, testnet.In)
	taken := 0
	fill := func() {
		p.control(t, func(fd int) error {
			for b := make([]byte, 1000); ; {
				n, err := unix.Write(fd, b)
				if err == unix.EAGAIN {
					return nil
				}
				if err != nil {
					return err
				}
				taken += n
			}
		})
	}
	p.set(t, unix.SOL_SOCKET, unix.SO_SNDBUF, 10000) // which the kernel doubles
	if fill(); taken > 100000 {
		t.Errorf("a small buffer took %d octets", taken)
	}
	p.set(t, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2<<20)
	if fill(); taken < 1<<20 {
		t.Errorf("a large buffer took %d octets", taken)
	}
}

// TCP_CONGESTION is followed: the device changes its own, whatever the program
// changes it to, and the operator's choice of another one counts then too.
func TestOptionCongestion(t *testing.T) {
	r := newRig(t, "--congestion-control", "bbr=dctcp")
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	for _, tt := range []struct{ program, device string }{{"reno", "reno"}, {"bbr", "dctcp"}, {"cubic", "cubic"}} {
		p.use(t, tt.program)
		eventually(t, "the device uses "+tt.device, func() bool {
			p.exchange(t, "to do something")
			h := r.show(p.selector()).Hardware
			return h != nil && h.CongestionControl == tt.device
		})
	}
	r.onDevice(p)
	p.use(t, "reno")
	r.moved(r.upload(p.selector()), 1)
	if k := r.show(p.selector()).Kernel; k.CongestionControl != "reno" {
		t.Errorf("at home it has %s", k.CongestionControl)
	}
}
