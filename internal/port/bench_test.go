package port

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"toehold/internal/flow"
	"toehold/internal/frame"
	"toehold/internal/testnet"
	"toehold/internal/wire"
)

// shipment is one frame to send again and again: TCP to nobody, in two
// pieces, of so many octets with a segment size of 1448.
type shipment struct {
	header []byte
	pieces []frame.Span
	octets int
}

func newShipment(pool *frame.Pool, octets int) shipment {
	var tpl wire.Template
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	tpl.Set(&wire.Packet{
		Key: flow.Make(a, b).Key(), TTL: 64, DF: true,
		Link: []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0},
	})
	out := wire.Out{Length: uint32(octets)}
	out.Flags, out.TSOK, out.Size = wire.ACK, true, 1448
	header := make([]byte, wire.MaxHeaders)
	header = header[:tpl.Build(header, &out)]
	half := uint32(octets / 2)
	return shipment{header, []frame.Span{
		{Buf: pool.Get(frame.Large), Len: half}, {Buf: pool.Get(frame.Large), Len: uint32(octets) - half},
	}, octets}
}

// send queues and flushes n frames.
func (s *shipment) send(b testing.TB, p Port, n int) {
	for range n {
		if !p.Queue(s.header, s.pieces) {
			b.Fatal("the batch is full")
		}
	}
	if done, err := p.Flush(); !done || err != nil {
		b.Fatalf("flush: %v, %v", done, err)
	}
}

// pairs are the ways from one port to another that are measured.
func pairs(b *testing.B, pool *frame.Pool) map[string][2]Port {
	h := newHostOn(b, pool)
	n := testnet.New(b)
	return map[string][2]Port{
		"packet": {packetOn(b, n.Host, n.HostIf, pool), packetOn(b, n.Peer, n.PeerIf, pool)},
		"tap":    {h.beside, h.tap},
	}
}

func packetOn(b *testing.B, ns *testnet.Namespace, name string, pool *frame.Pool) Port {
	var p *Packet
	in(b, ns, func() error {
		fd, err := OpenPacketSocket(index(b, name), -1, 0)
		if err == nil {
			p, err = NewPacket(fd, pool)
		}
		return err
	})
	b.Cleanup(func() { p.Close() })
	return p
}

var benchSizes = []int{45 * 1448, 1448}

const benchBatch = 8

func gigabits(b *testing.B, octets int) {
	b.SetBytes(int64(octets))
	b.ReportMetric(float64(b.N)*float64(octets)*8/float64(b.Elapsed().Nanoseconds()), "Gbit/s")
}

// BenchmarkSend: one core sends, and the receiving kernel's work up to the
// drop of the frame is part of it, as it is on a veth.
func BenchmarkSend(b *testing.B) {
	pool := frame.NewPool(256 << 20)
	n := testnet.New(b)
	ports := map[string]Port{"packet": packetOn(b, n.Host, n.HostIf, pool), "tap": newTAPAlone(b, pool)}
	for name, p := range ports {
		for _, size := range benchSizes {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				s := newShipment(pool, size)
				b.ReportAllocs()
				for b.Loop() {
					s.send(b, p, benchBatch)
				}
				gigabits(b, benchBatch*size)
			})
		}
	}
}

func newTAPAlone(b *testing.B, pool *frame.Pool) Port {
	var tap *TAP
	in(b, namespace(b), func() error {
		fd, _, _, err := OpenTAP("toe%d")
		if err == nil {
			tap, err = NewTAP(fd, pool)
		}
		return err
	})
	b.Cleanup(func() { tap.Close() })
	return tap
}

// BenchmarkReceive: one core receives what waits; sending is not counted.
func BenchmarkReceive(b *testing.B) {
	pool := frame.NewPool(256 << 20)
	for name, pair := range pairs(b, pool) {
		for _, size := range benchSizes {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				s := newShipment(pool, size)
				into := make([]Received, benchBatch)
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					s.send(b, pair[0], benchBatch)
					b.StartTimer()
					drain(b, pair[1], into, pool)
				}
				gigabits(b, benchBatch*size)
			})
		}
	}
}

// drain receives until nothing waits, and gives everything back.
func drain(b *testing.B, p Port, into []Received, pool *frame.Pool) {
	for {
		n, err := p.Receive(into)
		if err != nil {
			b.Fatal(err)
		}
		if n == 0 {
			return
		}
		for _, r := range into[:n] {
			r.Buf.Release()
		}
		pool.Recycle()
	}
}

func BenchmarkPipe(b *testing.B) {
	pool := frame.NewPool(256 << 20)
	x, y := NewPipe(pool, pool)
	into := make([]Received, benchBatch)
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := newShipment(pool, size)
			b.ReportAllocs()
			for b.Loop() {
				s.send(b, x, benchBatch)
				drain(b, y, into, pool)
			}
			gigabits(b, benchBatch*size)
		})
	}
}

// BenchmarkTCP: one connection between two kernels over a veth, straight and
// through the relay, with every party on the cores there are.
func BenchmarkTCP(b *testing.B) {
	for _, relayed := range []bool{false, true} {
		for _, up := range []bool{true, false} {
			b.Run(fmt.Sprintf("relay=%v/up=%v", relayed, up), func(b *testing.B) {
				n := testnet.New(b)
				if relayed {
					newRelay(b, n.Host, n.HostIf, uplinkKind{link: wire.EtherLen})
				}
				l, c, s := connection(b, n)
				defer l.Close()
				if !up {
					c, s = s, c
				}
				stream(b, c, s)
			})
		}
	}
}

func connection(b *testing.B, n *testnet.Net) (net.Listener, net.Conn, net.Conn) {
	l, err := n.Peer.Listen("tcp", netip.AddrPortFrom(n.PeerIP4, 0).String())
	if err != nil {
		b.Fatal(err)
	}
	c, err := n.Host.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	return l, c, s
}

// stream sends pieces of 256 KB from c to s.
func stream(b *testing.B, c, s net.Conn) {
	const piece = 256 << 10
	done := make(chan struct{})
	go func() {
		defer close(done)
		into := make([]byte, piece)
		for {
			if _, err := s.Read(into); err != nil {
				return
			}
		}
	}()
	from := make([]byte, piece)
	for b.Loop() {
		if _, err := c.Write(from); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	<-done
	s.Close()
	gigabits(b, piece)
}
