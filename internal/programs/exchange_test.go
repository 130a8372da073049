package programs

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"toehold/internal/rig"
	"toehold/internal/testnet"
)

// exchangeSize is what each side sends, in octets; at the peer's pace it takes
// long enough for a dozen moves.
const (
	exchangeSize    = 16 << 20
	paceOctets      = 128 << 10
	pacePause       = 4 * time.Millisecond
	exchangeTimeout = 60 * time.Second
	minMoves        = 3 // each way, and in each direction of the data
)

// newRig starts a rig that ends with the test.
func newRig(t *testing.T) *rig.Rig {
	t.Helper()
	r, err := rig.Start(t.Context(), rig.Options{Name: "prog"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the daemon's log ends in\n%s", r.Log())
		}
	})
	return r
}

// A process is a running program.
type process struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	lines   *bufio.Scanner
	address netip.AddrPort
}

// startProgram starts a program that prints the address it listens on.
func startProgram(t *testing.T, ns *testnet.Namespace, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: rig.Command(ns, name, args...)}
	p.cmd.Stderr = os.Stderr
	var err1, err2 error
	p.stdin, err1 = p.cmd.StdinPipe()
	out, err2 := p.cmd.StdoutPipe()
	if err := firstError(err1, err2); err != nil {
		t.Fatal(err)
	}
	if err := rig.Run(p.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); p.cmd.Wait() })
	p.lines = bufio.NewScanner(out)
	line := p.line(t)
	var err error
	if p.address, err = netip.ParseAddrPort(line); err != nil {
		t.Fatalf("%s printed %q instead of its address", name, line)
	}
	return p
}

// line is the next line that the program prints.
func (p *process) line(t *testing.T) string {
	t.Helper()
	timer := time.AfterFunc(exchangeTimeout, func() { p.cmd.Process.Kill() })
	defer timer.Stop()
	if !p.lines.Scan() {
		t.Fatalf("the program's output ended: %v", p.lines.Err())
	}
	return p.lines.Text()
}

// A mover takes one connection to the device and back until it is stopped.
type mover struct {
	rig    *rig.Rig
	peer   netip.AddrPort
	random *rand.Rand

	offloads, uploads, refusals int
	err                         error
	stop                        context.CancelFunc
	done                        chan struct{}
}

func startMover(t *testing.T, r *rig.Rig, c net.Conn, seed uint64) *mover {
	ctx, cancel := context.WithCancel(t.Context())
	m := &mover{rig: r, peer: rig.Address(c.LocalAddr()), random: rand.New(rand.NewPCG(seed, 1)), stop: cancel, done: make(chan struct{})}
	go m.run(ctx)
	return m
}

func (m *mover) run(ctx context.Context) {
	defer close(m.done)
	for ctx.Err() == nil && m.err == nil {
		// A move that has begun ends, whatever the test does.
		m.err = m.backAndForth(context.WithoutCancel(ctx))
	}
}

func (m *mover) backAndForth(ctx context.Context) error {
	r, err := m.rig.Offload(ctx, rig.Peer(m.peer))
	if err != nil {
		return fmt.Errorf("offload: %w", err)
	}
	m.offloads += len(r.Moved)
	m.refusals += len(r.Refused)
	m.pause()
	if r, err = m.rig.Upload(ctx, rig.Peer(m.peer)); err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	m.uploads += len(r.Moved)
	m.pause()
	return nil
}

func (m *mover) pause() { time.Sleep(time.Duration(m.random.Int64N(int64(20 * time.Millisecond)))) }

// finish stops the mover; what it did must be enough.
func (m *mover) finish(t *testing.T, when string) {
	t.Helper()
	m.stop()
	<-m.done
	if m.err != nil {
		t.Errorf("%s: %v", when, m.err)
	}
	if m.offloads < minMoves || m.uploads < minMoves {
		t.Errorf("%s: only %d offloads and %d uploads, %d refusals", when, m.offloads, m.uploads, m.refusals)
	}
}

// paced copies n octets, slowly enough for moves in the middle.
func paced(w io.Writer, r io.Reader, n int64) error {
	for n > 0 {
		piece := min(n, paceOctets)
		if _, err := io.CopyN(struct{ io.Writer }{w}, r, piece); err != nil {
			return err
		}
		n -= piece
		time.Sleep(pacePause)
	}
	return nil
}

// talk sends and receives what a program expects and answers, at a pace, and
// returns the digests.
func talk(c net.Conn, duplex bool) (sent, received string, err error) {
	out, in := sha256.New(), sha256.New()
	err = inTurn(duplex,
		func() error { return paced(c, io.TeeReader(rig.NewStream(peerSeed), out), exchangeSize) },
		func() error { return paced(in, c, exchangeSize) })
	return rig.Hex(out), rig.Hex(in), err
}

// converse is the peer's side of an exchange, moved all the time. It returns
// the digests of what the peer sent and received.
func converse(t *testing.T, r *rig.Rig, p *process, duplex bool) (sent, received string) {
	t.Helper()
	c, err := r.Net.Peer.Dial("tcp", p.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(exchangeTimeout))
	out, in := sha256.New(), sha256.New()
	send := func() error { return paced(c, io.TeeReader(rig.NewStream(peerSeed), out), exchangeSize) }
	receive := func() error { return paced(in, c, exchangeSize) }
	m := startMover(t, r, c, uint64(p.address.Port()))
	if duplex {
		err = inTurn(true, send, receive)
	} else {
		if err = send(); err == nil {
			m.finish(t, "while the program receives")
			m = startMover(t, r, c, uint64(p.address.Port())+1)
			err = receive()
		}
	}
	m.finish(t, "in the end")
	if err != nil {
		t.Errorf("the peer's side: %v", err)
	}
	return rig.Hex(out), rig.Hex(in)
}

// check compares the peer's digests with those that the program prints.
func (p *process) check(t *testing.T, sent, received string) {
	t.Helper()
	if got := p.line(t); got != "received "+sent {
		t.Errorf("the peer sent %s, the program says %s", sent, got)
	}
	if got := p.line(t); got != "sent "+received {
		t.Errorf("the peer received %s, the program says %s", received, got)
	}
	p.stdin.Close()
	if p.lines.Scan() {
		t.Errorf("the program also printed %q", p.lines.Text())
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the program: %v", err)
	}
}

// families are the host's addresses by name.
func families(n *testnet.Net) map[string]netip.Addr {
	return map[string]netip.Addr{"IPv4": n.HostIP4, "IPv6": n.HostIP6}
}

func TestStyles(t *testing.T) {
	r := newRig(t)
	for _, name := range slices.Sorted(maps.Keys(styles)) {
		for family, a := range families(r.Net) {
			t.Run(name+"/"+family, func(t *testing.T) {
				p := startProgram(t, r.Net.Host, "/proc/self/exe", programName, name, netip.AddrPortFrom(a, 0).String(), strconv.Itoa(exchangeSize))
				sent, received := converse(t, r, p, styles[name].duplex)
				p.check(t, sent, received)
			})
		}
	}
	awaitNothingOffloaded(t, r)
}

func TestPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Log("python3 is not installed; the other styles stand for it")
		return
	}
	script, err := filepath.Abs("testdata/exchange.py")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	for _, mode := range []string{"plain", "fork"} {
		for family, a := range families(r.Net) {
			t.Run(mode+"/"+family, func(t *testing.T) {
				p := startProgram(t, r.Net.Host, python, script, a.String(), "0", strconv.Itoa(exchangeSize), mode)
				sent, received := converse(t, r, p, false)
				p.check(t, sent, received)
			})
		}
	}
}

// awaitNothingOffloaded returns when the device has let go of everything.
func awaitNothingOffloaded(t *testing.T, r *rig.Rig) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		d, err := r.Device(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d.Connections == 0 {
			return
		}
		if time.Since(begin) > 10*time.Second {
			all, err := r.Control.List(t.Context(), rig.All)
			var lines []string
			for _, c := range all {
				lines = append(lines, fmt.Sprint(c))
			}
			t.Fatalf("%d connections are still on the device: %v\n%s", d.Connections, err, strings.Join(lines, "\n"))
		}
	}
}
