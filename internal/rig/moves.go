package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"toehold/internal/driver"
)

// All names every connection.
var All = driver.Selector{All: true}

// Peer names the connection whose other end has the address given.
func Peer(a netip.AddrPort) driver.Selector {
	return driver.Selector{Remote: driver.Endpoint{Addr: a.Addr(), Port: a.Port()}}
}

// Address is the address of one end of a TCP connection, as the driver names
// it.
func Address(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), uint16(tcp.Port))
}

// Offload moves the connections that s names to the device.
func (r *Rig) Offload(ctx context.Context, s driver.Selector) (driver.Result, error) {
	return r.OffloadAs(ctx, s, "")
}

// OffloadAs moves the connections that s names to the device, with an
// attachment by its name; "": as the driver sees fit.
func (r *Rig) OffloadAs(ctx context.Context, s driver.Selector, attachment string) (driver.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	return r.Control.Offload(ctx, s, driver.Options{Attachment: attachment})
}

// Upload moves the connections that s names to the kernel.
func (r *Rig) Upload(ctx context.Context, s driver.Selector) (driver.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	return r.Control.Upload(ctx, s)
}

// Device is the state of the rig's one device.
func (r *Rig) Device(ctx context.Context) (driver.Device, error) {
	devices, err := r.Control.Devices(ctx)
	if err != nil {
		return driver.Device{}, err
	}
	if len(devices) != 1 {
		return driver.Device{}, fmt.Errorf("the daemon has %d devices instead of one", len(devices))
	}
	return devices[0], nil
}

// KillDevice sends the device SIGKILL and returns the process it was.
func (r *Rig) KillDevice(ctx context.Context) (int, error) {
	d, err := r.Device(ctx)
	if err != nil {
		return 0, err
	}
	if d.PID <= 0 {
		return 0, fmt.Errorf("the device is %s and has no process", d.State)
	}
	return d.PID, syscall.Kill(d.PID, syscall.SIGKILL)
}

// AwaitDevice waits until a device runs that is not the process old, and
// returns it.
func (r *Rig) AwaitDevice(ctx context.Context, old int) (int, error) {
	for {
		d, err := r.Device(ctx)
		if err == nil && d.State == "running" && d.PID != old {
			return d.PID, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no device in place of process %d (now %s): %w", old, d.State, errors.Join(err, ctx.Err()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Toehold runs a command of the program in the host's namespace, against the
// rig's daemon, and returns what it printed and its exit status. The error is
// about running it.
func (r *Rig) Toehold(ctx context.Context, args ...string) (stdout, stderr []byte, code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	cmd := Command(r.Net.Host, r.program, args...)
	cmd.Env = append(os.Environ(), "TOEHOLD_SOCKET="+r.Socket)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := Run(cmd); err != nil {
		return nil, nil, 0, err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	if !stop() {
		return nil, nil, 0, fmt.Errorf("toehold %s: %w", strings.Join(args, " "), ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return out.Bytes(), errs.Bytes(), cmd.ProcessState.ExitCode(), err
}
