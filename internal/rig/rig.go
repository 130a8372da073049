// Package rig runs a whole toehold in a network of its own: two namespaces,
// a daemon with its device in one of them, and programs in both. The demo,
// the benchmark and the tests with real programs stand on it.
package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"toehold/internal/control"
	"toehold/internal/testnet"
)

// How long the parts of a rig may take before they count as hung.
const (
	startTimeout = 20 * time.Second
	stopTimeout  = 10 * time.Second
	moveTimeout  = 30 * time.Second
)

// staleAfter is long for a rig: its programs, client and device often share
// two processors, where a device is off them for a tenth of a second.
const staleAfter = "500ms"

// Options say what kind of rig to start.
type Options struct {
	Name    string    // of the network's interfaces, at most 10 octets
	Program string    // the toehold binary; empty: this process's own
	Daemon  []string  // more arguments of the daemon
	Bridged bool      // the wire is a Bridge, whose paths can do harm
	Log     io.Writer // what the daemon logs; nil: kept for error messages only
}

// A Rig is a network with a daemon in its host namespace.
type Rig struct {
	Net     *testnet.Net
	Socket  string // of the daemon's control API
	Control *control.Client

	program string
	folder  string
	daemon  *exec.Cmd
	ended   chan struct{} // closed when the daemon has ended
	log     *tail
	closing sync.Once
	closed  error
}

// Start makes the network and starts the daemon, and returns when it serves.
// The context is for the start alone.
func Start(ctx context.Context, o Options) (*Rig, error) {
	if o.Program == "" {
		o.Program = "/proc/self/exe"
	}
	folder, err := os.MkdirTemp("", "toehold-")
	if err != nil {
		return nil, err
	}
	r := &Rig{
		Socket: filepath.Join(folder, "control.sock"), program: o.Program, folder: folder,
		ended: make(chan struct{}), log: &tail{copy: o.Log},
	}
	r.Control = control.NewClient(r.Socket)
	makeNet := testnet.NewPair
	if o.Bridged {
		makeNet = testnet.NewBridged
	}
	if r.Net, err = makeNet(o.Name); err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	if err := r.startDaemon(ctx, o.Daemon); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// startDaemon starts the daemon and waits for the line that says that it
// serves.
func (r *Rig) startDaemon(ctx context.Context, more []string) error {
	args := append([]string{"daemon", "--uplink", r.Net.HostIf, "--socket", r.Socket, "--stale-after", staleAfter}, more...)
	r.daemon = Command(r.Net.Host, r.program, args...)
	r.daemon.Stderr = r.log
	out, err := r.daemon.StdoutPipe()
	if err != nil {
		return err
	}
	if err := Run(r.daemon); err != nil {
		close(r.ended)
		return fmt.Errorf("start daemon: %w", err)
	}
	ready := make(chan struct{})
	go r.watch(out, ready)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-ready:
		return nil
	case <-r.ended:
		return fmt.Errorf("the daemon ended at its start: %s", r.log)
	case <-ctx.Done():
		return fmt.Errorf("the daemon is not ready: %w: %s", ctx.Err(), r.log)
	}
}

// watch reads the daemon's output until its end, and then waits for it.
func (r *Rig) watch(out io.Reader, ready chan struct{}) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "ready" && ready != nil {
			close(ready)
			ready = nil
		}
	}
	r.daemon.Wait()
	close(r.ended)
}

// Command is a program that runs in a namespace and dies with this process.
// It is started by Run.
func Command(ns *testnet.Namespace, name string, args ...string) *exec.Cmd {
	cmd := ns.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// forks are commands to start. They are started on one thread that never
// ends: the signal that ends a child is about the thread that forked it.
var forks = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// Run starts a Command.
func Run(cmd *exec.Cmd) error {
	done := make(chan error)
	forks() <- func() { done <- cmd.Start() }
	return <-done
}

// Log returns the end of what the daemon logged.
func (r *Rig) Log() string { return r.log.String() }

// Close stops the daemon, which uploads everything first, and removes the
// network. The error says whether the daemon ended as it should.
func (r *Rig) Close() error {
	r.closing.Do(func() {
		r.Control.Close()
		r.closed = errors.Join(r.StopDaemon(), r.Net.Close(), os.RemoveAll(r.folder))
	})
	return r.closed
}

// StopDaemon has the daemon upload everything and end; a daemon that does not
// end well is an error.
func (r *Rig) StopDaemon() error {
	if r.daemon == nil || r.daemon.Process == nil {
		return nil
	}
	if err := Stop(r.daemon.Process, r.ended); err != nil {
		return fmt.Errorf("daemon: %w: %s", err, r.log)
	}
	if state := r.daemon.ProcessState; !state.Success() {
		return fmt.Errorf("the daemon ended with %s: %s", state, r.log)
	}
	return nil
}

// KillDaemon sends the daemon SIGKILL and returns when it has ended.
func (r *Rig) KillDaemon() error {
	if err := r.daemon.Process.Kill(); err != nil {
		return err
	}
	select {
	case <-r.ended:
		return nil
	case <-time.After(stopTimeout):
		return errors.New("the daemon does not end of SIGKILL")
	}
}

// Stop sends a process SIGTERM, and SIGKILL when it takes too long to end;
// ended is closed by whoever waits for it.
func Stop(p *os.Process, ended <-chan struct{}) error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-ended:
		return nil
	case <-time.After(stopTimeout):
	}
	p.Kill()
	<-ended
	return fmt.Errorf("process %d did not end within %s of SIGTERM", p.Pid, stopTimeout)
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
	copy io.Writer
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if len(t.kept) > tailSize {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-tailSize:]...)
	}
	if t.copy != nil {
		t.copy.Write(b)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.kept) == 0 {
		return "it logged nothing"
	}
	return string(t.kept)
}
