package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A MissingFeature is something that this kernel lacks, or that this process
// may not use.
type MissingFeature struct {
	Feature string
	Since   string // first kernel that has it
	Err     error
}

func (m *MissingFeature) Error() string {
	var verifier *ebpf.VerifierError // its EACCES says that a program is wrong
	refused := errors.As(m.Err, &verifier)
	switch {
	case errors.Is(m.Err, unix.EPERM), !refused && errors.Is(m.Err, unix.EACCES):
		return fmt.Sprintf("%s: not permitted (needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN): %v", m.Feature, m.Err)
	case refused:
		return fmt.Sprintf("%s: this kernel does not take the program (in Linux since %s): %v", m.Feature, m.Since, m.Err)
	}
	return fmt.Sprintf("%s: not in this kernel (in Linux since %s): %v", m.Feature, m.Since, m.Err)
}

func (m *MissingFeature) Unwrap() error { return m.Err }

// Missing makes err a *MissingFeature if it says that the kernel does not know
// or not permit something.
func Missing(feature, since string, err error) error {
	for _, sign := range []error{ebpf.ErrNotSupported, unix.EPERM, unix.EACCES, unix.EINVAL, unix.EOPNOTSUPP, unix.ENOSYS} {
		if errors.Is(err, sign) {
			return &MissingFeature{feature, since, err}
		}
	}
	return err
}
