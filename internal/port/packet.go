package port

import (
	"errors"

	"toehold/internal/frame"
)

// Packet is a port.
type Packet struct{}

func (p *Packet) FD() int                                       { return -1 }
func (p *Packet) Receive(into []Received) (int, error)          { return 0, errors.ErrUnsupported }
func (p *Packet) Queue(header []byte, pieces []frame.Span) bool { return false }
func (p *Packet) Flush() (bool, error)                          { return true, nil }
func (p *Packet) Pending() int                                  { return 0 }
func (p *Packet) Stats() Stats                                  { return Stats{} }
func (p *Packet) Close() error                                  { return nil }

// NewPacket makes the port of a socket from OpenPacketSocket.
func NewPacket(fd int, pool *frame.Pool) (*Packet, error) { return nil, errors.ErrUnsupported }
