// Package bpf holds the BPF programs of a device and their maps.
package bpf

import (
	"errors"
	"fmt"
	"io"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
)

// A Config sizes a Set.
type Config struct {
	MaxConnections uint32
	StaleAfter     time.Duration // how long a heartbeat counts
}

// A Set is the programs and maps of one device on one uplink.
type Set struct{}

func Load(c Config) (*Set, error)                                 { return nil, errors.ErrUnsupported }
func (s *Set) AttachUplink(ifindex int) error                     { return errors.ErrUnsupported }
func (s *Set) AttachHostPort(ifindex int) (io.Closer, error)      { return nil, errors.ErrUnsupported }
func (s *Set) Filter() int                                        { return -1 }
func (s *Set) ControlFD() int                                     { return -1 }
func (s *Set) BlocksFD() int                                      { return -1 }
func (s *Set) Control() *abi.Control                              { return nil }
func (s *Set) Blocks() []abi.Block                                { return nil }
func (s *Set) Steer(keys []flow.Key, ids []abi.HWID) error        { return errors.ErrUnsupported }
func (s *Set) Unsteer(keys []flow.Key) error                      { return errors.ErrUnsupported }
func (s *Set) Steered() ([]flow.Key, error)                       { return nil, errors.ErrUnsupported }
func (s *Set) Probe(keys []flow.Key, out []abi.KernelState) error { return errors.ErrUnsupported }
func (s *Set) Close() error                                       { return nil }

// A Check is the verdict on one feature that the project needs.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Since  string `json:"since,omitempty"` // first kernel that has it
	Fix    string `json:"fix,omitempty"`   // what to do when it is not OK
}

// Doctor checks everything.
func Doctor() []Check { return nil }

// A MissingFeature is something that this kernel, or this user, has not.
type MissingFeature struct {
	Feature string
	Since   string // first kernel that has it
	Err     error
}

func (m *MissingFeature) Error() string {
	return fmt.Sprintf("%s is missing (in Linux since %s): %v", m.Feature, m.Since, m.Err)
}

func (m *MissingFeature) Unwrap() error { return m.Err }
