package bpf

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// Fit makes programs that read a socket's state (c/state.h) fit the running
// kernel, and returns the options to load them with.
func Fit(spec *ebpf.CollectionSpec) (*ebpf.CollectionOptions, error) {
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
