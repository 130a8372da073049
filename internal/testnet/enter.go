package testnet

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Do runs f inside the namespace, on a thread that is locked meanwhile.
// Goroutines that f starts are outside. What f opens (sockets, netlink)
// belongs to the namespace for ever. Do may be nested.
func (ns *Namespace) Do(f func() error) error {
	runtime.LockOSThread()
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer before.Close()
	if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer func() {
		// A thread that cannot go back stays locked, and so is never
		// given to another goroutine.
		if unix.Setns(int(before.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Listen opens a listening socket in the namespace. The address is a literal
// one: a name would be looked up outside.
func (ns *Namespace) Listen(network, address string) (l net.Listener, err error) {
	err = ns.Do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Dial connects from inside the namespace to a literal address.
func (ns *Namespace) Dial(network, address string) (c net.Conn, err error) {
	err = ns.Do(func() error {
		c, err = net.Dial(network, address)
		return err
	})
	return c, err
}

// enterName is the name under which this package's init makes a process of
// any binary that has it enter a namespace and become another program. A
// child that is forked on a locked thread would do as well, but then the
// caller could not start it as it likes.
const enterName = "toehold-enter-namespace"

// Command is exec.Command for a program that runs inside the namespace. The
// namespace must stay open until it has been started.
func (ns *Namespace) Command(name string, arg ...string) *exec.Cmd {
	path, err := exec.LookPath(name)
	if err != nil {
		path = name // the error comes from the child, as exit status 126
	}
	namespace := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD())
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{enterName, namespace, path, name}, arg...)
	return cmd
}

func init() {
	if os.Args[0] != enterName || len(os.Args) < 4 {
		return
	}
	err := enter(os.Args[1], os.Args[2], os.Args[3:])
	os.Stderr.WriteString(enterName + " " + strconv.Quote(os.Args[2]) + ": " + err.Error() + "\n")
	os.Exit(126)
}

// enter does not return but for an error.
func enter(namespace, path string, args []string) error {
	runtime.LockOSThread()
	fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return err
	}
	return syscall.Exec(path, args, os.Environ())
}
