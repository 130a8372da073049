package bpf

import (
	"errors"

	"toehold/internal/abi"
	"toehold/internal/flow"
)

type prober struct{}

func (p *prober) load() error  { return nil }
func (p *prober) Close() error { return nil }

func (s *Set) Probe(keys []flow.Key, out []abi.KernelState) error { return errors.ErrUnsupported }
