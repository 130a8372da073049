// Command go connects to an echo server, asks for its own connection to be
// offloaded, and says where it is. docs/SOCKET-OPTION.md is about it.
package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// toeholdOffload is TOEHOLD_OFFLOAD, at level SOL_TCP.
const toeholdOffload = 0x7061

// What a program may wish.
const (
	auto = iota
	never
	now
)

var places = []string{"kernel", "moving", "device"}

// An offload is where a connection is, and why.
type offload struct {
	Place, Wish uint32
	ID          uint64
	Reason      [40]byte
}

func (o *offload) String() string {
	reason, _, _ := bytes.Cut(o.Reason[:], []byte{0})
	return fmt.Sprintf("%s %s", places[o.Place], reason)
}

// set asks for a connection.
func set(c *net.TCPConn, wish int) error {
	return control(c, func(fd uintptr) error {
		return syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, toeholdOffload, wish)
	})
}

// get says where a connection is.
func get(c *net.TCPConn) (o offload, err error) {
	size := uint32(unsafe.Sizeof(o))
	err = control(c, func(fd uintptr) error {
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, toeholdOffload,
			uintptr(unsafe.Pointer(&o)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return os.NewSyscallError("getsockopt", errno)
		}
		return nil
	})
	return o, err
}

func control(c *net.TCPConn, f func(fd uintptr) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(fd) }); err != nil {
		return err
	}
	return inner
}

// settled waits until a move has ended, one way or the other.
func settled(c *net.TCPConn) (o offload, err error) {
	for range 1000 {
		if o, err = get(c); err != nil || o.Place != 1 && o.Reason[0] != 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return o, err
}

func run(address string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := conn.(*net.TCPConn)
	if err := set(c, now); err != nil {
		return fmt.Errorf("ask for an offload: %w", err)
	}
	o, err := settled(c)
	if err != nil {
		return err
	}
	fmt.Println(&o)
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return err
	}
	echo := make([]byte, 6)
	if _, err := c.Read(echo); err != nil {
		return err
	}
	fmt.Printf("%s", echo)
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go HOST:PORT")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
