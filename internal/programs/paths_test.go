package programs

import (
	"crypto/sha256"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"toehold/internal/rig"
	"toehold/internal/testnet"
)

// pathSize is what each end sends over an adverse path, in octets.
const pathSize = 1 << 20

// harms are paths on which segments, not super-segments, come to harm.
var harms = map[string]testnet.Path{
	"small queue":    {Rate: 30_000_000, Queue: 8000},
	"loss":           {Loss: 0.02},
	"bursts of loss": {Loss: 0.04, Burst: 4},
	"late":           {Late: 0.05, Behind: 3 * time.Millisecond},
	"doubled":        {Double: 0.05},
	"all":            {Rate: 30_000_000, Queue: 30_000, Loss: 0.02, Burst: 2, Late: 0.02, Behind: 3 * time.Millisecond, Double: 0.02},
}

// On adverse paths not an octet is lost, doubled or reordered, both ways at
// once: not when the device has the connection from its start to its end, and
// not when it moves back and forth meanwhile.
func TestAdversePaths(t *testing.T) {
	r, err := rig.Start(t.Context(), rig.Options{Name: "path", Bridged: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, path := range harms {
		path.Delay = 2 * time.Millisecond
		for family, a := range families(r.Net) {
			t.Run(name+"/"+family, func(t *testing.T) { overPath(t, r, a, path, false) })
		}
		t.Run(name+"/moved", func(t *testing.T) { overPath(t, r, r.Net.HostIP4, path, true) })
	}
	awaitNothingOffloaded(t, r)
}

// overPath exchanges octets with a program on the device.
func overPath(t *testing.T, r *rig.Rig, host netip.Addr, path testnet.Path, moved bool) {
	calm, seed := path.Harmless(), seed(t)
	r.Net.Bridge.Set(calm, calm, seed)
	p := startProgram(t, r.Net.Host, "/proc/self/exe", programName, "threaded", netip.AddrPortFrom(host, 0).String(), strconv.Itoa(pathSize))
	c, err := r.Net.Peer.Dial("tcp", p.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(exchangeTimeout))
	awaitOffload(t, r, c)
	r.Net.Bridge.Set(path, path, seed)
	finish := func() {}
	if moved {
		m := startMover(t, r, c, seed)
		finish = func() { m.stop(); <-m.done }
	}
	out, in := sha256.New(), sha256.New()
	err = inTurn(true,
		func() error { _, err := io.CopyN(c, io.TeeReader(rig.NewStream(peerSeed), out), pathSize); return err },
		func() error { _, err := io.CopyN(in, c, pathSize); return err })
	finish()
	if err != nil {
		t.Fatal(err)
	}
	harmed(t, r.Net.Bridge, path)
	r.Net.Bridge.Set(calm, calm, seed)
	c.Close()
	p.check(t, rig.Hex(out), rig.Hex(in))
}

// awaitOffload moves a connection to the device. The host gets the last
// segment of the handshake later than the peer sends it.
func awaitOffload(t *testing.T, r *rig.Rig, c net.Conn) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		result, err := r.Offload(t.Context(), rig.Peer(rig.Address(c.LocalAddr())))
		if err == nil && len(result.Moved) == 1 {
			return
		}
		if time.Since(begin) > exchangeTimeout {
			t.Fatalf("no offload: %+v, %v", result, err)
		}
	}
}

// harmed checks that the path did what it is there for. With more than a
// thousand frames, the least of the shares leaves a doubt of 1 in 10^8.
func harmed(t *testing.T, b *testnet.Bridge, p testnet.Path) {
	t.Helper()
	to, from := b.Counts()
	if p.Loss > 0 && to.Lost+from.Lost == 0 || p.Double > 0 && to.Doubled+from.Doubled == 0 ||
		p.Late > 0 && to.Delayed+from.Delayed == 0 || p.Queue > 0 && p.Loss == 0 && to.Overflowed+from.Overflowed == 0 {
		t.Errorf("to the peer %+v, to the host %+v", to, from)
	}
}
