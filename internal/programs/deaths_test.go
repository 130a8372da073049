package programs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// A dialogue is a connection with octets going both ways until it is told to
// end, both ends of it hashed by the peer: the program sends back what it
// gets.
type dialogue struct {
	conn   net.Conn
	octets atomic.Int64
	stop   chan struct{}
	done   chan error
}

// echoProgram is a server for any number of connections that sends back all
// that it gets.
func echoProgram(t *testing.T, r *rig.Rig) map[string]netip.AddrPort {
	t.Helper()
	at := map[string]netip.AddrPort{}
	for family, a := range families(r.Net) {
		p := startProgram(t, r.Net.Host, "/proc/self/exe", programName, "echo", netip.AddrPortFrom(a, 0).String())
		at[family] = p.address
	}
	return at
}

// runEcho is that server's main function.
func runEcho(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			c.(*net.TCPConn).CloseWrite()
			c.Close()
		}()
	}
}

func startDialogue(t *testing.T, r *rig.Rig, at netip.AddrPort, seed uint64) *dialogue {
	t.Helper()
	c, err := r.Net.Peer.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(exchangeTimeout))
	d := &dialogue{conn: c, stop: make(chan struct{}), done: make(chan error, 1)}
	go func() { d.done <- d.run(seed) }()
	return d
}

func (d *dialogue) run(seed uint64) error {
	defer d.conn.Close()
	out, in := sha256.New(), sha256.New()
	var wg sync.WaitGroup
	var sent error
	wg.Go(func() {
		sent = d.talk(io.TeeReader(rig.NewStream(seed), out))
		sent = errors.Join(sent, d.conn.(*net.TCPConn).CloseWrite())
	})
	_, err := io.Copy(in, &counting{d.conn, &d.octets})
	wg.Wait()
	if err := errors.Join(sent, err); err != nil {
		return err
	}
	if rig.Hex(out) != rig.Hex(in) {
		return fmt.Errorf("of %d octets others came back than were sent", d.octets.Load())
	}
	return nil
}

// talk sends until it is told to stop, at a pace that leaves the machine some
// time for deaths.
func (d *dialogue) talk(from io.Reader) error {
	for {
		select {
		case <-d.stop:
			return nil
		default:
		}
		if err := paced(d.conn, from, paceOctets); err != nil {
			return err
		}
	}
}

type counting struct {
	io.Reader
	octets *atomic.Int64
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.octets.Add(int64(n))
	return n, err
}

// awaitMore returns when every dialogue has gone on.
func awaitMore(t *testing.T, r *rig.Rig, all []*dialogue) {
	t.Helper()
	for i, d := range all {
		before := d.octets.Load()
		for begin := time.Now(); d.octets.Load() == before; time.Sleep(time.Millisecond) {
			if time.Since(begin) > 10*time.Second {
				t.Fatalf("dialogue %d stands still after %d octets\n%s", i, before, d.show(r))
			}
		}
	}
}

// show is what the daemon knows of a dialogue.
func (d *dialogue) show(r *rig.Rig) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	detail, err := r.Control.Show(ctx, rig.Peer(rig.Address(d.conn.LocalAddr())))
	if err != nil {
		return err.Error()
	}
	b, err := json.MarshalIndent(detail, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// end ends the dialogues, and every one must have been perfect.
func end(t *testing.T, all []*dialogue) {
	t.Helper()
	for _, d := range all {
		close(d.stop)
	}
	for i, d := range all {
		if err := <-d.done; err != nil {
			t.Errorf("dialogue %d: %v", i, err)
		}
	}
}

func startDialogues(t *testing.T, r *rig.Rig) []*dialogue {
	var all []*dialogue
	for family, at := range echoProgram(t, r) {
		for i := range 3 {
			all = append(all, startDialogue(t, r, at, uint64(len(family)*100+i)))
		}
	}
	awaitMore(t, r, all)
	return all
}

// eachAttachment runs a test with each way in which a device can have a connection.
func eachAttachment(t *testing.T, f func(t *testing.T, attachment string)) {
	for _, attachment := range []string{driver.Shadow, driver.Bypass} {
		t.Run(attachment, func(t *testing.T) { f(t, attachment) })
	}
}

// offloadAll moves all dialogues; a device that has just started may refuse
// for a moment, and a program may not have read all for another.
func offloadAll(t *testing.T, r *rig.Rig, attachment string, n int) {
	t.Helper()
	arrived := map[netip.AddrPort]bool{} // some may be in shadow again when the last one arrives
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		result, err := r.OffloadAs(t.Context(), rig.All, attachment)
		if err != nil {
			t.Fatal(err)
		}
		for _, moved := range result.Moved {
			if moved.Attachment == attachment {
				arrived[moved.Remote] = true
			}
		}
		for _, refused := range result.Refused {
			if refused.Reason == "already-on-device" {
				arrived[refused.Remote] = true
			}
		}
		if len(arrived) == n {
			return
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("%d of %d came to the device; %+v", len(arrived), n, result)
		}
	}
}

// seed is random, and can be given to play a failure again.
func seed(t *testing.T) uint64 {
	s := uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv("TOEHOLD_SEED"), 10, 64); err == nil {
		s = given
	}
	t.Logf("TOEHOLD_SEED=%d", s)
	return s
}

// The device is killed at random moments, the middle of a move among them.
func TestDeathsOfTheDevice(t *testing.T) { eachAttachment(t, deathsOfTheDevice) }

func deathsOfTheDevice(t *testing.T, attachment string) {
	const deaths = 8
	r := newRig(t)
	all := startDialogues(t, r)
	random := rand.New(rand.NewPCG(seed(t), 2))
	ctx, cancel := context.WithTimeout(t.Context(), exchangeTimeout)
	defer cancel()
	for death := range deaths {
		if death%2 == 0 {
			offloadAll(t, r, attachment, len(all)) // it dies while it owns them
		}
		var moving sync.WaitGroup
		moving.Go(func() {
			r.OffloadAs(ctx, rig.All, attachment)
			r.Upload(ctx, rig.All)
		})
		time.Sleep(time.Duration(random.Int64N(int64(30 * time.Millisecond))))
		old, err := r.KillDevice(ctx)
		if err != nil {
			t.Fatal(err)
		}
		awaitMore(t, r, all)
		if _, err := r.AwaitDevice(ctx, old); err != nil {
			t.Fatal(err)
		}
		moving.Wait()
	}
	offloadAll(t, r, attachment, len(all))
	awaitMore(t, r, all)
	end(t, all)
	awaitNothingOffloaded(t, r)
}

// A device that hangs is shut off by its stale heartbeat, in the kernel.
func TestDeviceThatHangs(t *testing.T) { eachAttachment(t, deviceThatHangs) }

func deviceThatHangs(t *testing.T, attachment string) {
	r := newRig(t)
	all := startDialogues(t, r)
	offloadAll(t, r, attachment, len(all))
	d, err := r.Device(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(d.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	awaitMore(t, r, all)
	ctx, cancel := context.WithTimeout(t.Context(), exchangeTimeout)
	defer cancel()
	if _, err := r.AwaitDevice(ctx, d.PID); err != nil {
		t.Fatal(err)
	}
	offloadAll(t, r, attachment, len(all))
	awaitMore(t, r, all)
	end(t, all)
}

// Driver and device die together; the connections are the kernel's. Bypassed ones
// do not survive that (docs/CRASH.md).
func TestDeathOfTheDaemon(t *testing.T) {
	r, err := rig.Start(t.Context(), rig.Options{Name: "prog"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.Close() == nil {
			t.Error("a daemon that was killed ended well")
		}
	})
	all := startDialogues(t, r)
	offloadAll(t, r, driver.Shadow, len(all))
	device, err := r.Device(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.KillDaemon(); err != nil {
		t.Fatal(err)
	}
	awaitMore(t, r, all)
	if alive(device.PID) {
		t.Error("the device outlives its driver")
	}
	end(t, all)
}

// alive reports whether a process still runs, and is no zombie that its new
// parent has not waited for.
func alive(pid int) bool {
	for range 500 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

// SIGTERM brings every connection home first.
func TestEndOfTheDaemon(t *testing.T) { eachAttachment(t, endOfTheDaemon) }

func endOfTheDaemon(t *testing.T, attachment string) {
	r, err := rig.Start(t.Context(), rig.Options{Name: "prog"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all := startDialogues(t, r)
	offloadAll(t, r, attachment, len(all))
	if err := r.StopDaemon(); err != nil {
		t.Error(err)
	}
	awaitMore(t, r, all)
	end(t, all)
}
