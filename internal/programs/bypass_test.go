package programs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// bypassable are the styles of programs that bypass is for; all others are
// kept in shadow, for the reason that is given.
var (
	bypassable   = []string{"epoll", "go-net", "level", "web"}
	unbypassable = map[string]string{
		"waitall": "blocking-socket", "peek": "blocking-socket", "lowat": "blocking-socket", "splice": "blocking-socket",
		"sendfile": "blocking-socket", "threaded": "blocking-socket", "forked": "blocking-socket",
	}
)

// A wanderer takes one connection from kernel to shadow to bypass and back, in
// any order, until it is stopped.
type wanderer struct {
	rig    *rig.Rig
	peer   netip.AddrPort
	random *rand.Rand

	moves map[string]int // by what the connection was after them
	kept  map[string]int // in shadow, by the reason
	err   error
	stop  context.CancelFunc
	done  chan struct{}
}

func startWanderer(t *testing.T, r *rig.Rig, c net.Conn, seed uint64) *wanderer {
	ctx, cancel := context.WithCancel(t.Context())
	w := &wanderer{
		rig: r, peer: rig.Address(c.LocalAddr()), random: rand.New(rand.NewPCG(seed, 1)),
		moves: make(map[string]int), kept: make(map[string]int), stop: cancel, done: make(chan struct{}),
	}
	go w.run(ctx)
	return w
}

func (w *wanderer) run(ctx context.Context) {
	defer close(w.done)
	for ctx.Err() == nil && w.err == nil {
		w.err = w.move(context.WithoutCancel(ctx))
		time.Sleep(time.Duration(w.random.Int64N(int64(10 * time.Millisecond))))
	}
}

func (w *wanderer) move(ctx context.Context) error {
	var r driver.Result
	var err error
	switch w.random.IntN(4) {
	case 0:
		r, err = w.rig.Offload(ctx, rig.Peer(w.peer))
	case 1:
		r, err = w.rig.Upload(ctx, rig.Peer(w.peer))
		for range r.Moved {
			w.moves[driver.InKernel]++
		}
		return err
	default:
		r, err = w.rig.OffloadAs(ctx, rig.Peer(w.peer), driver.Bypass)
	}
	for _, m := range r.Moved {
		w.moves[m.Attachment]++
		if m.Reason != "" {
			w.kept[m.Reason]++
		}
	}
	for _, m := range r.Refused {
		w.kept[m.Reason]++
	}
	return err
}

// finish stops the wanderer.
func (w *wanderer) finish(t *testing.T) {
	t.Helper()
	w.stop()
	<-w.done
	if w.err != nil {
		t.Error(w.err)
	}
}

// wander is an exchange between a program and its peer, moved all the time.
func wander(t *testing.T, r *rig.Rig, p *process, seed uint64, duplex bool) *wanderer {
	t.Helper()
	c, err := r.Net.Peer.Dial("tcp", p.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(exchangeTimeout))
	w := startWanderer(t, r, c, seed)
	sent, received, err := talk(c, duplex)
	w.finish(t)
	if err != nil {
		t.Errorf("seed %d: the peer's side: %v", seed, err)
	}
	c.Close()
	p.check(t, sent, received)
	return w
}

func TestStylesInBypass(t *testing.T) {
	r := newRig(t)
	for i, name := range bypassable {
		for family, a := range families(r.Net) {
			t.Run(name+"/"+family, func(t *testing.T) {
				p := startProgram(t, r.Net.Host, "/proc/self/exe", programName, name, netip.AddrPortFrom(a, 0).String(), strconv.Itoa(exchangeSize))
				w := wander(t, r, p, uint64(i), styles[name].duplex)
				for _, place := range []string{driver.InKernel, driver.Bypass} {
					if w.moves[place] < minMoves {
						t.Errorf("only %d moves to %s: %v, kept in shadow %v", w.moves[place], place, w.moves, w.kept)
					}
				}
				t.Logf("moves %v, kept in shadow %v", w.moves, w.kept)
			})
		}
	}
	awaitNothingOffloaded(t, r)
}

func TestStylesKeptOutOfBypass(t *testing.T) {
	r := newRig(t)
	for name, why := range unbypassable {
		t.Run(name, func(t *testing.T) {
			p := startProgram(t, r.Net.Host, "/proc/self/exe", programName, name, netip.AddrPortFrom(r.Net.HostIP4, 0).String(), strconv.Itoa(exchangeSize))
			w := wander(t, r, p, 7, styles[name].duplex)
			if w.moves[driver.Bypass] != 0 || w.kept[why] < minMoves {
				t.Errorf("moves %v, kept in shadow %v; want %s", w.moves, w.kept, why)
			}
		})
	}
	awaitNothingOffloaded(t, r)
}

// All styles are spoken of.
func TestEveryStyleIsForBypassOrNot(t *testing.T) {
	for name := range styles {
		if slices.Contains(bypassable, name) == (unbypassable[name] != "") {
			t.Errorf("%s is to be bypassable or not", name)
		}
	}
}

// The device dies again and again while connections are bypassed.
func TestDeviceDeathInBypass(t *testing.T) {
	r := newRig(t)
	p := startProgram(t, r.Net.Host, "/proc/self/exe", programName, "epoll", netip.AddrPortFrom(r.Net.HostIP4, 0).String(), strconv.Itoa(exchangeSize))
	c, err := r.Net.Peer.Dial("tcp", p.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(exchangeTimeout))
	ctx, cancel := context.WithCancel(t.Context())
	killed := make(chan string)
	go func() { killed <- killInBypass(ctx, r, rig.Address(c.LocalAddr())) }()
	sent, received, err := talk(c, false)
	cancel()
	if what := <-killed; what != "" {
		t.Error(what)
	}
	if err != nil {
		t.Errorf("the peer's side: %v", err)
	}
	c.Close()
	p.check(t, sent, received)
}

// killInBypass says what went wrong.
func killInBypass(ctx context.Context, r *rig.Rig, peer netip.AddrPort) string {
	kills := 0
	for ctx.Err() == nil {
		moved, err := r.OffloadAs(context.WithoutCancel(ctx), rig.Peer(peer), driver.Bypass)
		if err != nil {
			return err.Error()
		}
		time.Sleep(5 * time.Millisecond)
		pid, err := r.KillDevice(context.WithoutCancel(ctx))
		if err != nil {
			return err.Error()
		}
		if len(moved.Moved) == 1 && moved.Moved[0].Attachment == driver.Bypass {
			kills++
		}
		if _, err := r.AwaitDevice(context.WithoutCancel(ctx), pid); err != nil {
			return err.Error()
		}
	}
	if kills < minMoves {
		return fmt.Sprintf("only %d deaths with the connection in bypass", kills)
	}
	return ""
}
