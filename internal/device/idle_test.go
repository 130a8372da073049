package device

import (
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
)

// idlers is how many connections are to cost nothing.
const idlers = 100000

// newIdlers is a device with n owned connections over which nothing has gone
// for some seconds.
func newIdlers(tb testing.TB, n int) *belt {
	b := newBeltOf(tb, n)
	offers, owns := make([]abi.Offer, n), make([]abi.Command, n)
	for i := range offers {
		offers[i] = abi.Offer{Key: testKey, MSS: mss}
		offers[i].Key.Remote[3], offers[i].Key.RemotePort = byte(i>>16), [2]byte{byte(i >> 8), byte(i)}
	}
	for i := range offers {
		b.device.Handle(b.now, abi.Append(nil, abi.Admit, 1, offers[i:i+1]))
		if i%64 == 0 {
			b.turn()
		}
	}
	b.turn()
	for i := range owns {
		c := b.device.slots[i].conn
		owns[i].HWID = c.id
		part := &b.device.blocks[i].Kernel
		part.HWID, part.Key, part.State = c.id, c.key, beltState
		b.device.Handle(b.now, abi.Append(nil, abi.Own, 1, owns[i:i+1]))
		if i%64 == 0 {
			b.turn()
		}
	}
	for end := b.now.Add(4 * time.Second); b.now < end; b.now = b.now.Add(50 * time.Millisecond) {
		b.turn()
	}
	return b
}

// TestIdleConnectionsCostNothing counts: of 100 000 idle connections none has a
// timer, waits to be looked at, or holds a buffer; and a turn of the device
// allocates nothing.
func TestIdleConnectionsCostNothing(t *testing.T) {
	b := newIdlers(t, idlers)
	d := b.device
	if s := d.Stats(); s.Owned != idlers {
		t.Fatalf("%d owned", s.Owned)
	}
	if d.wheel.armed != 0 || len(d.dirty) != 0 || d.pool.Used() != 0 || d.Busy() {
		t.Errorf("%d timers, %d to look at, %d octets of buffers", d.wheel.armed, len(d.dirty), d.pool.Used())
	}
	for _, c := range d.flows {
		if at := mono.Earliest(c.wire.Deadline(), c.host.Deadline()); at != 0 || c.held() != 0 {
			t.Fatalf("a connection has a timer at %v and holds %d octets", at, c.held())
		}
	}
	if next := d.wheel.next(b.now, time.Hour); next != b.now.Add(time.Hour) {
		t.Errorf("the device would wake after %v", next.Sub(b.now))
	}
	if n := testing.AllocsPerRun(100, b.turn); n != 0 {
		t.Errorf("%v allocations in a turn", n)
	}
}

// BenchmarkTurn is a turn of a device without anything to do, with and without
// idle connections.
func BenchmarkTurn(b *testing.B) {
	for _, n := range []int{1, idlers} {
		name := "alone"
		if n > 1 {
			name = "100000 idle"
		}
		b.Run(name, func(b *testing.B) {
			belt := newIdlers(b, n)
			b.ReportAllocs()
			for b.Loop() {
				belt.now += 100000
				belt.turn()
			}
		})
	}
}
