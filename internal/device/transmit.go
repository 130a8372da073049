package device

import (
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/port"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// etherLen is the link header of every frame of the host port, whatever the
// uplink's is.
const etherLen = 14

// The link headers that frames to S get when the uplink has none.
var (
	ether4 = []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00}
	ether6 = []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd}
)

func etherHeader(family uint8) []byte {
	if family == 4 {
		return ether4
	}
	return ether6
}

// queueRoom is how many frames may wait in a port before it is flushed.
const queueRoom = 48

// drain sends what an engine has to send; false when the port takes no more.
func (d *Device) drain(now mono.Time, e *tcp.Conn, s *side, p port.Port) bool {
	for {
		if !d.room(p) {
			return false
		}
		if !e.Output(now, &d.out) {
			return true
		}
		d.transmit(&d.out, s, p)
	}
}

// room makes sure that p takes one more frame.
func (d *Device) room(p port.Port) bool {
	if p.Pending() < queueRoom {
		return true
	}
	done, err := p.Flush()
	return done && err == nil
}

// transmit queues one segment. A frame that is not taken is lost as on any
// wire, and repaired as there.
func (d *Device) transmit(out *wire.Out, s *side, p port.Port) {
	n := s.template.Build(d.header[:], out)
	if n == 0 { // no headers are known, or none can be built
		d.stats.DroppedTransmit++
		return
	}
	d.queue(p, d.header[:n], out.Pieces[:out.NPieces])
}

func (d *Device) queue(p port.Port, header []byte, pieces []frame.Span) bool {
	if !d.room(p) || !p.Queue(header, pieces) {
		d.stats.DroppedTransmit++
		return false
	}
	return true
}

// forward passes a frame on as it is, from one link layer to the other. False
// means that the port did not take it.
func (d *Device) forward(to port.Port, p *wire.Packet, raw rawFrame) bool {
	if d.linkHeader == etherLen {
		d.whole[0] = frame.Span{Buf: raw.buf, Len: uint32(raw.n)}
		return d.queue(to, nil, d.whole[:])
	}
	n, rest := p.Relink(d.header[:], raw.buf, d.linkTo(to, p.Key.Family))
	d.whole[0] = rest
	return d.queue(to, d.header[:n], d.whole[:])
}

// linkTo is the link header of frames to a port when the uplink has none.
func (d *Device) linkTo(to port.Port, family uint8) []byte {
	if to == d.host {
		return etherHeader(family)
	}
	return nil
}
