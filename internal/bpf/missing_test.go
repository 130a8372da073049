package bpf

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestMissing(t *testing.T) {
	for _, tt := range []struct {
		err     error
		feature bool
		says    string
	}{
		{nil, false, ""},
		{io.EOF, false, ""},
		{fmt.Errorf("attach: %w", ebpf.ErrNotSupported), true, "tcx: not in this kernel (in Linux since 6.6)"},
		{fmt.Errorf("attach: %w", unix.EINVAL), true, "tcx: not in this kernel"},
		{fmt.Errorf("attach: %w", unix.EPERM), true, "tcx: not permitted"},
		{fmt.Errorf("open: %w", unix.EACCES), true, "tcx: not permitted"},
		{fmt.Errorf("load: %w", &ebpf.VerifierError{Cause: unix.EACCES}), true, "tcx: this kernel does not take the program"},
		{fmt.Errorf("load: %w", &ebpf.VerifierError{Cause: unix.EPERM}), true, "tcx: not permitted"},
	} {
		err := Missing("tcx", "6.6", tt.err)
		var m *MissingFeature
		if errors.As(err, &m) != tt.feature || !errors.Is(err, tt.err) {
			t.Errorf("%v became %v", tt.err, err)
		}
		if m != nil && !strings.HasPrefix(m.Error(), tt.says) {
			t.Errorf("%v says %q", tt.err, m)
		}
	}
}

func TestLoadWithoutPrivileges(t *testing.T) {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // capabilities are the thread's, which ends
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(&header, &make([]unix.CapUserData, 2)[0]); err != nil {
			t.Error(err)
		}
		s, err := Load(Config{MaxConnections: 1, StaleAfter: time.Second})
		if err == nil {
			s.Close()
		}
		result <- err
	}()
	var m *MissingFeature
	if err := <-result; !errors.As(err, &m) || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("got %v", err)
	}
}
