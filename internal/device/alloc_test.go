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
}

// newBelt makes one whose sender is the peer, so that octets go towards S.
func newBelt(tb testing.TB) *belt {
	b := newBeltOf(tb, 1)
	b.endpoints()
	b.device.Handle(b.now, abi.Append(nil, abi.Admit, 1, []abi.Offer{{Key: testKey, MSS: mss}}))
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
		TSRecent: uint32(b.now.Milliseconds()),
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
		c.Receive(b.now, &packet.Seg)
		f.Buf.Release()
	}
	var s frame.Span
	for c.Next(&s) {
		b.got += uint64(s.Len)
		s.Buf.Release()
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
