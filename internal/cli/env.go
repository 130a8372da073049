package cli

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/bpf"
	"toehold/internal/control"
	"toehold/internal/device"
	"toehold/internal/driver"
)

// System is the Env of the real process.
func System() *Env {
	return &Env{
		Out: os.Stdout, Err: os.Stderr,
		Terminal: isTerminal(os.Stderr),
		Getenv:   os.Getenv,
		Now:      time.Now,
		Dial:     func(socket string) Client { return control.NewClient(socket) },
		Kernel:   driver.InKernelOnly,
		Doctor:   bpf.Doctor,
		Daemon:   Daemon,
		Device:   device.Run,
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
