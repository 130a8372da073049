package device

import (
	"io"
	"log/slog"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/port"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// A track of bulk: a sender, the device and a receiver in one thread, joined
// by pipes, with nothing between them that allocates.
type belt struct {
	tb           testing.TB
	now          mono.Time
	device       *Device
	sender       tcp.Conn
	receiver     tcp.Conn
	toSender     port.Port // the sender's end of its pipe
	toReceiver   port.Port
	fromSender   wire.Template
	fromReceiver wire.Template
	pool         *frame.Pool
	got          uint64
	rx           [32]port.Received
	out          wire.Out
	header       [wire.MaxHeaders]byte
	id           abi.HWID
	answers      []abi.Answer
	control      string // the connection's congestion control; empty is the device's
	ecn          bool
	mark         int // one in so many frames that are ECN-capable is marked; 0: none
	capable      int
	marked       int
	waits        int // bursts of S that the device did not send at once
}

// newBelt makes one whose sender is the peer, so that octets go towards S.
func newBelt(tb testing.TB) *belt { return newBeltWith(tb, "", 0) }

// newBeltWith makes one with a congestion control, and where mark is not 0 with
// ECN.
func newBeltWith(tb testing.TB, control string, mark int) *belt {
	b := newBeltOf(tb, 1)
	b.control, b.ecn, b.mark = control, mark > 0, mark
	b.endpoints()
	offer := abi.Offer{Key: testKey, MSS: mss}
	copy(offer.CongestionControl[:], control)
	b.device.Handle(b.now, abi.Append(nil, abi.Admit, 1, []abi.Offer{offer}))
	b.turn()
	b.id = b.answers[0].HWID
	return b
}

// newBeltOf makes one whose device has room for n connections and has none.
func newBeltOf(tb testing.TB, n int) *belt {
	b := &belt{tb: tb, now: mono.Time(time.Hour), pool: frame.NewPool(1 << 30)}
	pool := frame.NewPool(1 << 30)
	var up, host port.Port
	up, b.toSender = port.NewPipe(pool, b.pool)
	host, b.toReceiver = port.NewPipe(pool, b.pool)
	blocks := make([]abi.Block, n)
	b.device = New(b.now, Parts{
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Pool: pool, Uplink: up, Host: host,
		LinkHeader: etherLen, Control: &abi.Control{}, Blocks: blocks, Send: b.hear,
		Clock: func() mono.Time { return b.now },
	})
	return b
}

func (b *belt) hear(msg []byte) {
	h, octets, err := abi.ParseHeader(msg)
	if err == nil {
		b.answers, err = abi.Parse(b.answers[:0], h, octets)
	}
	if err != nil {
		b.tb.Fatal(err)
	}
}

func (b *belt) endpoints() {
	snap := tcb.Snapshot{
		State: tcb.Established, SndUna: 1000, SndNxt: 1000, SndWnd: 4 << 20, SndWL1: 5000, SndWL2: 1000,
		RcvNxt: 5000, RcvAcked: 5000, RcvEdge: 5000 + 4<<20, SndWscale: 8, RcvWscale: 8, MSS: mss,
		SACK: true, Timestamps: true, Cwnd: 1000, Ssthresh: 1000,
		TSRecent: uint32(b.now.Milliseconds()), ECN: b.ecn,
	}
	if err := b.sender.Restore(b.now, &snap, tcp.Options{CC: "none", RcvBuf: 4 << 20}); err != nil {
		b.tb.Fatal(err)
	}
	snap.SndUna, snap.SndNxt, snap.RcvNxt, snap.RcvAcked, snap.RcvEdge = 5000, 5000, 1000, 1000, 1000+4<<20
	snap.SndWL1, snap.SndWL2 = 1000, 5000
	if err := b.receiver.Restore(b.now, &snap, tcp.Options{CC: "none", RcvBuf: 4 << 20}); err != nil {
		b.tb.Fatal(err)
	}
	link := append(make([]byte, 12), 0x08, 0)
	b.fromSender.Set(&wire.Packet{Key: testKey.Reverse(), Link: link, TTL: 64, DF: true})
	b.fromReceiver.Set(&wire.Packet{Key: testKey, Link: link, TTL: 64, DF: true})
}

// beltState is what the kernel knows of a belt's connection.
var beltState = abi.KernelState{
	SndUna: 5000, SndNxt: 5000, RcvNxt: 1000, SndWnd: 4 << 20, RcvWnd: 4 << 20, MSS: mss,
	SndWscale: 8, RcvWscale: 8, SndCwnd: 1000, SndSsthresh: 1000, Flags: abi.FlagSACK | abi.FlagTimestamps,
}

// own makes the device own the connection.
func (b *belt) own() {
	part := &b.device.blocks[0].Kernel
	part.HWID, part.Key = b.id, testKey
	part.State = beltState
	copy(part.State.CongestionControl[:], b.control)
	if b.ecn {
		part.State.Flags |= abi.FlagECN
	}
	b.device.Handle(b.now, abi.Append(nil, abi.Own, 1, []abi.Command{{HWID: b.id}}))
	b.turn()
	if len(b.answers) != 1 || b.answers[0].Reason != abi.None {
		b.tb.Fatalf("not owned: %+v", b.answers)
	}
}

func (b *belt) turn() {
	if _, err := b.device.Turn(b.now); err != nil {
		b.tb.Fatal(err)
	}
}

// carry moves n super-segments' worth of octets from end to end.
func (b *belt) carry(n int) {
	for range n {
		b.now += 1000
		buf := b.pool.Get(frame.Large)
		b.sender.Send(frame.Span{Buf: buf, Len: 65160})
		b.transmit(&b.sender, &b.fromSender, b.toSender)
		b.turn()
		b.take(&b.receiver, b.toReceiver)
		b.transmit(&b.receiver, &b.fromReceiver, b.toReceiver)
		b.turn()
		b.take(&b.sender, b.toSender)
		b.pool.Recycle()
	}
}

func (b *belt) transmit(c *tcp.Conn, t *wire.Template, p port.Port) {
	for c.Output(b.now, &b.out) {
		b.pathMarks(&b.out.ECN)
		n := t.Build(b.header[:], &b.out)
		if !p.Queue(b.header[:n], b.out.Pieces[:b.out.NPieces]) {
			b.tb.Fatal("pipe full")
		}
	}
	p.Flush()
}

func (b *belt) take(c *tcp.Conn, p port.Port) {
	n, err := p.Receive(b.rx[:])
	if err != nil {
		b.tb.Fatal(err)
	}
	var packet wire.Packet
	for _, f := range b.rx[:n] {
		if v := wire.Parse(f.Buf, f.N, etherLen, &packet); v != wire.OK {
			b.tb.Fatal(v)
		}
		b.pathMarks(&packet.Seg.ECN)
		c.Receive(b.now, &packet.Seg)
		f.Buf.Release()
	}
	var s frame.Span
	for c.Next(&s) {
		b.got += uint64(s.Len)
		s.Buf.Release()
	}
}

// pathMarks is a queue that marks what passes it, into the device and out of it.
func (b *belt) pathMarks(ecn *uint8) {
	if b.mark == 0 || *ecn != wire.ECT0 {
		return
	}
	if b.capable++; b.capable%b.mark == 0 {
		b.marked++
		*ecn = wire.CE
	}
}

// burst is how many super-segments S has to send at once.
const burst = 32

// carryBack moves n bursts of octets from S to the peer, as the device's
// congestion control and its pacing let them.
func (b *belt) carryBack(n int) {
	for range n {
		for range burst {
			b.receiver.Send(frame.Span{Buf: b.pool.Get(frame.Large), Len: 65160})
		}
		for want, i := b.got+burst*65160, 0; b.got < want; i++ {
			if i == 10000 {
				b.tb.Fatalf("%d octets of a burst did not arrive", want-b.got)
			}
			b.now += mono.Time(20 * time.Microsecond)
			b.transmit(&b.receiver, &b.fromReceiver, b.toReceiver)
			b.turn()
			before := b.got
			b.take(&b.sender, b.toSender)
			b.now += mono.Time(20*time.Microsecond) + mono.Time(b.got-before) // at an octet a nanosecond
			b.transmit(&b.sender, &b.fromSender, b.toSender)
			b.turn()
			b.take(&b.receiver, b.toReceiver)
			b.pool.Recycle()
			b.waits += min(i, 1)
		}
	}
}

// No segment costs an allocation, neither passed nor owned.
func TestNoAllocationPerSegment(t *testing.T) {
	for _, owned := range []bool{false, true} {
		b := newBelt(t)
		if owned {
			b.own()
		}
		b.carry(2000)
		if n := testing.AllocsPerRun(200, func() { b.carry(1) }); n != 0 {
			t.Errorf("owned %v: %v allocations for a super-segment and its acknowledgement", owned, n)
		}
		if want := uint64(2201 * 65160); b.got != want {
			t.Errorf("owned %v: %d octets arrived, want %d", owned, b.got, want)
		}
	}
}

// No segment costs an allocation with ECN either, marks and answers to them
// included, nor with a congestion control that paces.
func TestNoAllocationPerSegmentWithECNOrBBR(t *testing.T) {
	for _, tt := range []struct {
		control string
		mark    int
	}{{"cubic", 47}, {"reno", 47}, {"dctcp", 7}, {"bbr", 0}} {
		t.Run(tt.control, func(t *testing.T) {
			b := newBeltWith(t, tt.control, tt.mark)
			b.own()
			b.carry(500)
			b.carryBack(200)
			before := b.marked
			n := testing.AllocsPerRun(50, func() {
				b.carry(1)
				b.carryBack(1)
			})
			if n != 0 {
				t.Errorf("%v allocations for a super-segment one way, and a burst the other", n)
			}
			if want := uint64(551*65160 + 251*burst*65160); b.got != want {
				t.Errorf("%d octets arrived, want %d", b.got, want)
			}
			if (tt.mark > 0) != (b.marked > before) {
				t.Errorf("%d of %d frames were marked", b.marked-before, b.capable)
			}
			if b.waits == 0 {
				t.Error("neither window nor pacing made anything wait")
			}
			if m := b.device.find(b.id).metrics(); (tt.mark > 0) != (m.Cwnd < 1000) {
				t.Errorf("the window is of %d segments", m.Cwnd)
			}
		})
	}
}

// BenchmarkPipe is the device alone: memory to memory through pipe ports,
// sender and receiver on the same core.
func BenchmarkPipe(b *testing.B) {
	for _, owned := range []bool{false, true} {
		name := "passed"
		if owned {
			name = "owned"
		}
		b.Run(name, func(b *testing.B) {
			belt := newBelt(b)
			if owned {
				belt.own()
			}
			belt.carry(100)
			b.SetBytes(65160)
			b.ReportAllocs()
			b.ResetTimer()
			belt.carry(b.N)
			b.ReportMetric(float64(b.N)*65160*8/float64(b.Elapsed().Nanoseconds()), "Gbit/s")
		})
	}
}
