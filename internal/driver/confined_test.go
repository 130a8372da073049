package driver_test

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/cli"
	"toehold/internal/driver"
)

// crimes are what a device may have been made to try: the calls for which it is killed, and
// those that it is refused. They are about the driver, its parent.
var crimes = map[string]func() error{
	"ptrace":      func() error { return unix.PtraceSeize(os.Getppid()) },
	"pidfd_getfd": func() error { _, err := unix.PidfdGetfd(driver.DeviceSocket, 0, 0); return err },
	"bpf": func() error {
		if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, 0, 0); errno != 0 {
			return errno
		}
		return nil
	},
	"descriptors": func() error { _, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", os.Getppid())); return err },
	"memory":      func() error { _, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", os.Getppid())); return err },
	"kill":        func() error { return unix.Kill(os.Getppid(), unix.SIGKILL) },
	"filter": func() error {
		return unix.SetsockoptInt(driver.DeviceUplink, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	},
	"interface": func() error {
		return unix.Bind(driver.DeviceUplink, &unix.SockaddrLinklayer{Protocol: 0x300, Ifindex: 1})
	},
}

// traitor is a device as any other, until SIGUSR1 has it commit crimes.
func traitor(names string) int {
	now := make(chan os.Signal, 1)
	signal.Notify(now, unix.SIGUSR1)
	go func() {
		<-now
		for _, name := range strings.Split(names, ",") {
			fmt.Fprintf(os.Stderr, "traitor: %s: %v\n", name, crimes[name]())
		}
	}()
	return cli.Main()
}

// Every thread of a device, also at work, has no user of others, no capability and few system
// calls.
func TestDeviceIsConfined(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	p.exchange(t, "at work")
	d := r.device()
	if d.RunsAs != "user 65534, no capabilities, seccomp" {
		t.Errorf("it runs as %q", d.RunsAs)
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.PID))
	if err != nil || len(threads) < 2 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, path := range threads {
		status, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		for _, want := range []string{
			"Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "Groups:\t",
			"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
			"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
		} {
			if !strings.Contains(string(status), "\n"+want) {
				t.Errorf("%s: no %q in\n%s", path, want, status)
			}
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", d.PID))
	if err != nil || strings.Contains(string(limits), "Max core file size        unlimited") {
		t.Errorf("%v\n%s", err, limits)
	}
	for _, fd := range []int{driver.DeviceControl, driver.DeviceBlocks, driver.DeviceRings, driver.DevicePulse} {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", d.PID, fd)); err == nil && (strings.Contains(to, "bpf-map") || strings.Contains(to, "rings")) {
			t.Errorf("it still has %s", to)
		}
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", d.PID))
	if err != nil || strings.Contains(string(environment), "HOME=") {
		t.Errorf("its environment is %q, %v", environment, err)
	}
}

// A device that tries what it has no business with is killed, or refused. Its
// connections lose nothing, in shadow or in bypass.
func TestDeviceBetrays(t *testing.T) {
	for _, tt := range []struct {
		crimes string
		killed bool
	}{
		{"ptrace", true},
		{"pidfd_getfd", true},
		{"bpf", true},
		{"descriptors,memory,kill,filter,interface", false},
	} {
		t.Run(tt.crimes, func(t *testing.T) {
			r := fakeRig(t, "traitor:"+tt.crimes)
			pairs := r.connect(2, false)
			res, err := r.client.Offload(ctx, pairs[0].selector(), driver.Options{Attachment: driver.Bypass})
			if err != nil || len(res.Moved) != 1 || res.Moved[0].Attachment != driver.Bypass {
				t.Fatalf("%+v, %v", res, err)
			}
			r.moved(r.offload(pairs[1].selector()), 1)
			old := r.device().PID
			end := make(chan error, len(pairs))
			for _, p := range pairs {
				go func() { end <- p.stream(8<<20, func() { syscall.Kill(old, unix.SIGUSR1) }) }()
			}
			for range pairs {
				if err := <-end; err != nil {
					t.Error(err)
				}
			}
			if tt.killed {
				r.running(old)
				r.kernelAgain(2, "device-died")
				if said := r.errs.String(); strings.Contains(said, "traitor") {
					t.Errorf("it said %s", said)
				}
			} else {
				for _, name := range strings.Split(tt.crimes, ",") {
					eventually(t, name+" has been refused", func() bool { return refused(r.errs.String(), name) })
				}
				if d := r.device(); d.PID != old || d.Connections != 2 {
					t.Errorf("the device is %+v", d)
				}
			}
			for _, p := range pairs {
				p.exchange(t, "as ever")
			}
		})
	}
}

// refused finds what the traitor said of a crime.
func refused(log, name string) bool {
	_, said, ok := strings.Cut(log, "traitor: "+name+": ")
	said, _, _ = strings.Cut(said, "\n")
	return ok && strings.Contains(said, "operation not permitted")
}

// stream sends n octets of a pattern to the peer, calls halfway, and checks them there.
func (p *pair) stream(n int, halfway func()) error {
	sent := make(chan error, 1)
	deadline := time.Now().Add(20 * time.Second)
	p.host.SetDeadline(deadline)
	p.peer.SetDeadline(deadline)
	octet := func(i int) byte { return byte(i * 31 >> 3) }
	go func() {
		out := make([]byte, n)
		for i := range out {
			out[i] = octet(i)
		}
		_, err := p.host.Write(out[:n/2])
		halfway()
		if err == nil {
			_, err = p.host.Write(out[n/2:])
		}
		sent <- err
	}()
	in := make([]byte, n)
	if _, err := io.ReadFull(p.peer, in); err != nil {
		return err
	}
	for i, b := range in {
		if b != octet(i) {
			return fmt.Errorf("octet %d of %d is another", i, n)
		}
	}
	return <-sent
}
