package driver_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"toehold/internal/control"
	"toehold/internal/driver"
)

// echo answers each octet on its connections until the listener is closed.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for b := make([]byte, 1); ; {
				if _, err := c.Read(b); err != nil {
					return
				}
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}()
	}
}

// echoes is a listener on the host that echo serves.
func (r *rig) echoes() net.Listener {
	r.t.Helper()
	l, err := r.Host.Listen("tcp", r.HostIP4.String()+":0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	go echo(l)
	return l
}

// dial connects from the peer.
func (r *rig) dial(l net.Listener) net.Conn {
	r.t.Helper()
	c, err := r.Peer.Dial("tcp", l.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// ask sends an octet and waits for its answer.
func ask(c net.Conn) error {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	b := []byte{7}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := c.Read(b)
	return err
}

// median of n asks.
func median(c net.Conn, n int) (time.Duration, error) {
	took := make([]time.Duration, n)
	for i := range took {
		start := time.Now()
		if err := ask(c); err != nil {
			return 0, err
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[n/2], nil
}

// Short connections come and go by the hundred while all of them are to be
// offloaded, again and again. They get no more than their quota, nothing grows
// in the driver, and a connection in the kernel goes on as ever.
func TestFloodOfShortConnections(t *testing.T) {
	const quota, places, attackers = 4, 8, 12
	r := newRig(t, "--max-connections", fmt.Sprint(places), "--per-prefix", fmt.Sprint(quota))
	l, old := r.echoes(), r.dial(r.echoes())
	before, err := median(old, 200)
	if err != nil {
		t.Fatal(err)
	}
	attacked := driver.Selector{Local: endpoint(l.Addr())}
	var over atomic.Bool
	var short atomic.Int64
	var flood, greedy sync.WaitGroup
	for range attackers {
		flood.Go(func() {
			for ; !over.Load(); short.Add(1) {
				if err := r.visit(l); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	alone, err := median(old, 200)
	if err != nil {
		t.Error(err)
	}
	greedy.Go(func() {
		for d := (driver.Device{}); (d.Refused["prefix-quota"] < 10 || d.Offloads < 10 || short.Load() < 200) && !over.Load(); {
			if _, err := r.client.Offload(ctx, attacked, driver.Options{}); err != nil && !noMatch(err) {
				t.Error(err)
				return
			}
			all, err := r.client.Devices(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			d = all[0]
			if d.Connections > quota || d.Moving > quota || d.Waiting > places || d.Requests > 1 {
				t.Errorf("%d connections, %d moving, %d wait, %d requests", d.Connections, d.Moving, d.Waiting, d.Requests)
				return
			}
		}
	})
	enough := time.AfterFunc(20*time.Second, func() { over.Store(true); t.Error("that takes too long") })
	during, err := median(old, 200)
	if err != nil {
		t.Error(err)
	}
	greedy.Wait()
	enough.Stop()
	over.Store(true)
	flood.Wait()
	d := r.device()
	if d.State != "running" || d.Restarts != 0 {
		t.Errorf("the device is %+v", d)
	}
	t.Logf("an answer took %v at the median before the flood, %v during it, and %v while it was offloaded too; of %d connections %d were, and %d refused",
		before, alone, during, short.Load(), d.Offloads, d.Refused["prefix-quota"])
	// With the flood gone there is room for the one that stays.
	r.upload(driver.Selector{All: true})
	eventually(t, "the flood has gone", func() bool { return r.device().Connections == 0 })
	r.moved(r.offload(driver.Selector{Remote: endpoint(old.LocalAddr())}), 1)
	if err := ask(old); err != nil {
		t.Error(err)
	}
}

// visit is one short connection of the peer's.
func (r *rig) visit(l net.Listener) error {
	c, err := r.Peer.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	for range 5 {
		if err := ask(c); err != nil {
			return err
		}
	}
	return nil
}

func endpoint(a net.Addr) driver.Endpoint {
	ap := addrOf(a)
	return driver.Endpoint{Addr: ap.Addr(), Port: ap.Port()}
}

// noMatch says that a selector named nothing.
func noMatch(err error) bool {
	var e *control.Error
	return errors.As(err, &e) && e.Kind == control.NoMatch
}
