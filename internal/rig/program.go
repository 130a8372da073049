package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"toehold/internal/testnet"
)

// A Program is a server that runs in a namespace.
type Program struct {
	Name  string
	cmd   *exec.Cmd
	ended chan struct{}
}

const programTimeout = 10 * time.Second

// StartProgram starts a Command as a server. What it prints goes to a file of
// its name in the folder, unless the command says where to.
func StartProgram(cmd *exec.Cmd, name, folder string) (*Program, error) {
	p := &Program{Name: name, cmd: cmd, ended: make(chan struct{})}
	log, err := os.Create(filepath.Join(folder, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	if err := Run(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// PID is its process.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Stop ends the program.
func (p *Program) Stop() error {
	if err := Stop(p.cmd.Process, p.ended); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return nil
}

// AwaitListen returns when the program answers at an address of its namespace.
func (p *Program) AwaitListen(ctx context.Context, ns *testnet.Namespace, address string) error {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	for {
		c, err := ns.Dial("tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended at its start: %s", p.Name, p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen on %s: %w", p.Name, address, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
