package cli

import (
	"context"
	"errors"
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
		Screen:   func() (Screen, error) { return newTerminal(os.Stdin, os.Stdout) },
		Getenv:   os.Getenv,
		ReadFile: os.ReadFile,
		Now:      time.Now,
		Dial:     func(socket string) Client { return control.NewClient(socket) },
		Kernel:   driver.InKernelOnly,
		Doctor:   bpf.Doctor,
		Daemon:   Daemon,
		Device:   runDevice,
	}
}

// runDevice is device.Run for who has been given its descriptors.
func runDevice(ctx context.Context, c device.Config) error {
	if kind, err := unix.GetsockoptInt(c.Socket, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		return errors.New("the device is started by the daemon, which gives it what it needs: toehold daemon --uplink IF")
	}
	return device.Run(ctx, c)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
