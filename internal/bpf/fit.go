package bpf

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// LoadFitted loads programs that read a socket's state (c/state.h), made to fit
// the running kernel, into the struct that to points to. What and since are as
// Missing's.
func LoadFitted(spec *ebpf.CollectionSpec, to any, what, since string) error {
	options, err := fit(spec)
	if err != nil {
		return err
	}
	return Missing(what, since, spec.LoadAndAssign(to, options))
}

// fit sets what differs between kernels, and returns the options to load with.
func fit(spec *ebpf.CollectionSpec) (*ebpf.CollectionOptions, error) {
	var tick unix.Timespec
	// The coarse clocks advance with every jiffy.
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return nil, fmt.Errorf("length of a jiffy: %w", err)
	}
	if err := spec.Variables["tick_us"].Set(uint32(tick.Nano() / 1000)); err != nil {
		return nil, err
	}
	options := new(ebpf.CollectionOptions)
	for _, module := range []string{"tcp_cubic", "tcp_bbr", "tcp_dctcp"} {
		types, err := btf.LoadKernelModuleSpec(module)
		if errors.Is(err, fs.ErrNotExist) {
			continue // built in, or not there at all
		}
		if err != nil {
			return nil, fmt.Errorf("types of module %s: %w", module, err)
		}
		options.Programs.ExtraRelocationTargets = append(options.Programs.ExtraRelocationTargets, types)
	}
	return options, nil
}
