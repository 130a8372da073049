package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/rig"
)

// serverName is the first argument of the benchmark's server, the program whose
// connections move.
const serverName = "bench-server"

// roles are what any binary that has this package becomes when it is started
// with their names.
var roles = map[string]func(args []string) error{serverName: serve, echoName: serveEcho, spareName: countSpare, pinName: becomePinned}

func init() {
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		return
	}
	if err := roles[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, os.Args[1]+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// What the first octet on a connection asks the server for.
const (
	askSend    = 's' // send without end
	askReceive = 'r' // read without end
	askEcho    = 'e' // send back every octet
	askIdle    = 'i' // nothing
)

// serve serves on the addresses until SIGTERM.
func serve(addresses []string) error {
	os.WriteFile("/proc/self/comm", []byte(serverName), 0)
	failed := make(chan error, len(addresses))
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		go func() { failed <- accept(l) }()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	select {
	case <-stop:
		return nil
	case err := <-failed:
		return err
	}
}

func accept(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go answer(c)
	}
}

func answer(c net.Conn) {
	defer c.Close()
	var ask [1]byte
	if _, err := io.ReadFull(c, ask[:]); err != nil {
		return
	}
	switch ask[0] {
	case askSend:
		pump(c, new(atomic.Int64))
	case askReceive:
		drain(c, new(atomic.Int64))
	case askEcho:
		echo(c)
	case askIdle:
		io.Copy(io.Discard, c)
	}
}

// bufferSize is what a program writes or reads at once.
const bufferSize = 256 << 10

// pump writes until the connection ends.
func pump(c net.Conn, octets *atomic.Int64) error {
	b := make([]byte, bufferSize)
	rig.NewStream(1).Read(b)
	for {
		n, err := c.Write(b)
		octets.Add(int64(n))
		if err != nil {
			return err
		}
	}
}

// drain reads until the connection ends.
func drain(c net.Conn, octets *atomic.Int64) error {
	b := make([]byte, bufferSize)
	for {
		n, err := c.Read(b)
		octets.Add(int64(n))
		if err != nil {
			return err
		}
	}
}

// blocking takes the descriptor out of a connection, for plain blocking reads
// and writes: Go's poller costs some microseconds a request, which would be
// measured with the rest.
func blocking(c net.Conn) (int, error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return -1, errors.New("not a TCP connection")
	}
	f, err := tcp.File()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		return -1, err
	}
	return fd, errors.Join(unix.SetNonblock(fd, false), c.Close())
}

func echo(c net.Conn) error {
	fd, err := blocking(c)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		if _, err := unix.Write(fd, b[:n]); err != nil {
			return err
		}
	}
}

// A flood is bulk traffic over some connections, seen from the peer.
type flood struct {
	conns  []net.Conn
	octets atomic.Int64 // that the peer has sent or received
	done   sync.WaitGroup
}

// startFlood opens n connections and lets the program send, or receive.
func (b *bench) startFlood(n int, ask byte) (*flood, error) {
	f := new(flood)
	for range n {
		c, err := b.ask(ask)
		if err != nil {
			f.stop()
			return nil, err
		}
		f.conns = append(f.conns, c)
		carry := drain // the program sends
		if ask == askReceive {
			carry = pump
		}
		f.done.Go(func() { carry(c, &f.octets) })
	}
	return f, nil
}

func (f *flood) stop() {
	for _, c := range f.conns {
		c.Close()
	}
	f.done.Wait()
}

// ask connects from the peer and says what for.
func (b *bench) ask(what byte) (net.Conn, error) {
	c, err := b.rig.Net.Peer.Dial("tcp", b.address)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{what}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// requestSize is the size of a request and of its answer, in octets.
const requestSize = 64

// A caller makes requests over one connection, by blocking calls.
type caller struct{ fd int }

func (b *bench) newCaller() (*caller, error) {
	c, err := b.ask(askEcho)
	if err != nil {
		return nil, err
	}
	fd, err := blocking(c)
	if err != nil {
		return nil, err
	}
	limit := unix.NsecToTimeval(int64(answerTimeout))
	return &caller{fd}, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
}

const answerTimeout = 10 * time.Second

func (c *caller) close() { unix.Close(c.fd) }

// calls makes requests for a while and returns how long each took, in ns.
func (c *caller) calls(window time.Duration) ([]int64, error) {
	var took []int64
	b := make([]byte, requestSize)
	for begin := time.Now(); time.Since(begin) < window; {
		start := time.Now()
		if err := c.call(b); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start).Nanoseconds())
	}
	return took, nil
}

func (c *caller) call(b []byte) error {
	if _, err := unix.Write(c.fd, b); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	for got := 0; got < len(b); {
		n, err := unix.Read(c.fd, b[got:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		if n == 0 {
			return errors.New("the connection ended")
		}
		got += n
	}
	return nil
}
