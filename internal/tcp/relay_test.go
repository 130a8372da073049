package tcp_test

import (
	"fmt"
	"testing"
	"time"

	"toehold/internal/tcp"
	"toehold/internal/tcptest"
)

// relayRun is one connection through a relay, which is moved now and then and
// may die; what the two ends read must be what was written.
func relayRun(seed uint64) error {
	w := tcptest.NewWorld(seed)
	r := w.Rand
	a := w.NewEnd("peer", octets(seed, r.IntN(200000)), octets(seed+1, r.IntN(80000)*r.IntN(3)))
	b := w.NewEnd("program", a.Want, a.Source)
	inner := tcptest.Path{Delay: time.Duration(r.IntN(200)) * time.Microsecond, Whole: true}
	if r.IntN(2) == 0 {
		inner = weather(r)
	}
	relay := tcptest.NewRelay(w, a, b, weather(r), weather(r), inner)
	sa, sb := shape(r).Snapshots(w.Now)
	if err := relay.Restore(sa, sb, w); err != nil {
		return err
	}
	cc := []string{"cubic", "reno"}
	if err := a.Restore(w.Now, sa, tcp.Options{CC: cc[r.IntN(2)], RcvBuf: uint32(4000 + r.IntN(300000))}); err != nil {
		return err
	}
	if err := b.Restore(w.Now, sb, tcp.Options{CC: cc[r.IntN(2)], RcvBuf: uint32(4000 + r.IntN(300000))}); err != nil {
		return err
	}
	a.Chunk, b.Chunk = 1+r.IntN(60000), 1+r.IntN(3000)
	a.Pump()
	b.Pump()
	var err error
	for range r.IntN(4) {
		w.After(time.Duration(r.IntN(2000))*time.Millisecond, func() {
			if e := relay.Move(); e != nil && !relay.Dead {
				err = e
			}
		})
	}
	if r.IntN(3) == 0 {
		w.After(time.Duration(r.IntN(4000))*time.Millisecond, relay.Die)
	}
	failed := func() bool { return a.Err != nil || b.Err != nil || relay.Err != nil || err != nil }
	ok := w.Run(2*time.Hour, 1<<20, func() bool { return a.Done() && b.Done() || failed() })
	if failed() {
		return fmt.Errorf("%v, %v, %v, %v", a.Err, b.Err, relay.Err, err)
	}
	if !ok {
		return fmt.Errorf("not done at %v, dead %v: peer wrote %d/%d read %d/%d %+v\nprogram wrote %d/%d read %d/%d %+v\nwire %+v\nhost %+v", time.Duration(w.Now), relay.Dead,
			a.Wrote, len(a.Source), a.Read, len(a.Want), *a.Stats(),
			b.Wrote, len(b.Source), b.Read, len(b.Want), *b.Stats(), *relay.Wire.Stats(), *relay.Host.Stats())
	}
	return nil
}

func TestLawThroughRelay(t *testing.T) {
	for seed := range uint64(500) {
		if err := relayRun(seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
