package port

import (
	"errors"

	"toehold/internal/frame"
)

// TAP is a port.
type TAP struct{}

func (p *TAP) FD() int                                       { return -1 }
func (p *TAP) Receive(into []Received) (int, error)          { return 0, errors.ErrUnsupported }
func (p *TAP) Queue(header []byte, pieces []frame.Span) bool { return false }
func (p *TAP) Flush() (bool, error)                          { return true, nil }
func (p *TAP) Pending() int                                  { return 0 }
func (p *TAP) Stats() Stats                                  { return Stats{} }
func (p *TAP) Close() error                                  { return nil }

// NewTAP makes the port of a descriptor from OpenTAP.
func NewTAP(fd int, pool *frame.Pool) (*TAP, error) { return nil, errors.ErrUnsupported }
