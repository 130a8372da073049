package programs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"toehold/internal/rig"
)

// A style is how a program uses its socket: it receives so many octets into a
// hash, and sends the octets of a stream.
type style struct {
	receive func(fd int, n int64, into hash.Hash) error
	send    func(fd int, n int64, from io.Reader) error
	duplex  bool // both at once, on two threads
	forked  bool // in a child that inherits the socket
}

var styles = map[string]style{
	"waitall":  {receive: receiveWaitAll, send: sendBlocking},
	"peek":     {receive: receivePeek, send: sendMore},
	"lowat":    {receive: receiveLowat, send: sendZeroCopy},
	"splice":   {receive: receiveSplice, send: sendSplice},
	"sendfile": {receive: receiveScattered, send: sendFile},
	"epoll":    {receive: receiveEpoll, send: sendEpoll},
	"level":    {receive: receiveLevel, send: sendLevel},
	"web":      {receive: receivePeekLevel, send: sendFileLevel},
	"threaded": {receive: receiveBlocking, send: sendBlocking, duplex: true},
	"forked":   {receive: receiveBlocking, send: sendBlocking, forked: true},
	"go-net":   {receive: receiveGo, send: sendGo, duplex: true},
}

// runProgram is the main function of a program: it listens on args[0] and
// serves one connection, receiving and sending args[1] octets.
func runProgram(name string, args []string) error {
	switch {
	case name == "script":
		return runScript(args)
	case name == "echo" && len(args) > 0:
		return runEcho(args[0])
	}
	s, ok := styles[name]
	if !ok || len(args) < 2 {
		return fmt.Errorf("usage: %s ADDRESS OCTETS", name)
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	if args[0] == inherited {
		return exchange(s, inheritedFD, n)
	}
	fd, err := acceptOne(args[0])
	if err != nil {
		return err
	}
	if s.forked {
		return fork(name, fd, args[1])
	}
	return exchange(s, fd, n)
}

// A child is told that its connection is there already.
const (
	inherited   = "inherited"
	inheritedFD = 3
)

// fork gives the connection to a child and closes it.
func fork(name string, fd int, octets string) error {
	f := os.NewFile(uintptr(fd), "connection")
	child := exec.Command("/proc/self/exe", programName, name, inherited, octets)
	child.Stdout, child.Stderr, child.ExtraFiles = os.Stdout, os.Stderr, []*os.File{f}
	if err := child.Start(); err != nil {
		return err
	}
	f.Close()
	return child.Wait()
}

// acceptOne listens, says where, and accepts one connection by plain blocking
// calls.
func acceptOne(address string) (int, error) {
	runtime.LockOSThread()
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return -1, err
	}
	family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(a.Port())})
	if a.Addr().Is4() {
		sa.(*unix.SockaddrInet4).Addr = a.Addr().As4()
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	l, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(l)
	if err := errors.Join(unix.Bind(l, sa), unix.Listen(l, 1)); err != nil {
		return -1, err
	}
	bound, err := unix.Getsockname(l)
	if err != nil {
		return -1, err
	}
	port := 0
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		port = b.Port
	case *unix.SockaddrInet6:
		port = b.Port
	}
	fmt.Println(netip.AddrPortFrom(a.Addr(), uint16(port)))
	return retry(func() (int, error) {
		fd, _, err := unix.Accept(l)
		return fd, err
	})
}

// exchange receives and sends, and prints both digests.
func exchange(s style, fd int, n int64) error {
	in, out := sha256.New(), sha256.New()
	receive := func() error { return s.receive(fd, n, in) }
	send := func() error { return s.send(fd, n, io.TeeReader(rig.NewStream(programSeed), out)) }
	err := inTurn(s.duplex, receive, send)
	if err != nil {
		return err
	}
	fmt.Println("received", rig.Hex(in))
	fmt.Println("sent", rig.Hex(out))
	return awaitEnd(fd)
}

// awaitEnd waits for the peer to close, as a server does that lets its client
// speak last.
func awaitEnd(fd int) error {
	n, err := retry(func() (int, error) { return unix.Read(fd, make([]byte, 1)) })
	if err == unix.EAGAIN { // a style that left the socket non-blocking
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err == nil {
			n, err = unix.Read(fd, make([]byte, 1))
		}
	}
	if n != 0 || err != nil {
		return fmt.Errorf("instead of the end came %d octets, %w", n, err)
	}
	return unix.Close(fd)
}

func inTurn(duplex bool, first, second func() error) error {
	if !duplex {
		if err := first(); err != nil {
			return err
		}
		return second()
	}
	var wg sync.WaitGroup
	var errs [2]error
	for i, f := range []func() error{first, second} {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			errs[i] = f()
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// Seeds of what programs and peers send.
const (
	programSeed = 101
	peerSeed    = 202
)

// retry repeats a call that a signal interrupted.
func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// fileConn is a Go net connection of the same socket.
func fileConn(fd int) (net.Conn, error) {
	other, err := unix.Dup(fd)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(other), "connection")
	defer f.Close()
	return net.FileConn(f)
}
