package driver

import (
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/mono"
)

// loadedUplink has its programs and maps, attached to nothing, and a device
// process that has greeted and is nobody.
func loadedUplink(t *testing.T) *uplink {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("BPF programs need root")
	}
	u := testUplink()
	set, err := bpf.Load(bpf.Config{MaxConnections: 4, StaleAfter: u.cfg.StaleAfter})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set.Close() })
	u.set, u.up = set, true
	u.proc = &process{socket: -1, exited: make(chan struct{}), greeting: abi.Greeting{Version: abi.Version}}
	close(u.proc.exited) // there is nothing to kill
	u.setFence(0)
	return u
}

func (u *uplink) setFence(v uint32) { atomic.StoreUint32(&u.set.Control().Fenced, v) }

func (u *uplink) setHeartbeat(at mono.Time) {
	atomic.StoreUint64(&u.set.Pulse().Heartbeat, uint64(at))
}

// A stale heartbeat counts only when the driver has been awake for a while
// and seen none: after a pause of the whole machine it is stale, and the
// device well.
func TestHeartbeat(t *testing.T) {
	u := loadedUplink(t)
	now := mono.Time(time.Hour)
	tick := func(after time.Duration) bool {
		now = now.Add(after)
		u.supervise(now)
		return u.proc.doomed
	}
	u.setHeartbeat(now)
	for range 10 {
		u.setHeartbeat(now)
		if tick(tickEvery) {
			t.Fatal("a device in order was given up")
		}
	}
	if tick(10 * time.Second) {
		t.Fatal("given up in the first tick after a pause")
	}
	u.setHeartbeat(now)
	if tick(tickEvery) {
		t.Fatal("given up though it came back")
	}
	for n := 1; !tick(tickEvery); n++ {
		if n > 20 {
			t.Fatal("a hung device is not found")
		}
	}
	if age := u.heartbeatAge(now); age <= u.cfg.StaleAfter {
		t.Errorf("given up after %v", age)
	}
	events := u.journal.Events()
	if e := events[len(events)-1]; e.Kind != EventDeviceLost || e.Reason != "device-hung" || !strings.Contains(e.Detail, "no heartbeat for") {
		t.Errorf("the event is %+v", e)
	}
	if atomic.LoadUint32(&u.set.Control().Fenced) == 0 {
		t.Error("it is not fenced")
	}
	if u.heartbeatAge(0) != 0 {
		t.Error("a heartbeat from the future has an age")
	}
}

// The steering programs found it stale before the driver did.
func TestFencedByPrograms(t *testing.T) {
	u := loadedUplink(t)
	u.setHeartbeat(mono.Time(time.Hour))
	u.setFence(1)
	if u.death() != abi.DeviceHung {
		t.Error("its end is not for being hung")
	}
	u.supervise(mono.Time(time.Hour))
	if !u.proc.doomed || u.journal.Events()[0].Reason != "device-hung" {
		t.Errorf("the events are %+v", u.journal.Events())
	}
	u.lose(mono.Time(time.Hour), abi.DeviceDied, "again")
	if n := len(u.journal.Events()); n != 1 {
		t.Errorf("it was lost %d times", n)
	}
}

// A device that greets out of place, or is another version, does not serve.
func TestHello(t *testing.T) {
	greeting := func(version uint32, n int) (abi.Header, []byte) {
		g := make([]abi.Greeting, n)
		for i := range g {
			g[i] = abi.Greeting{Version: version, Capacity: 4}
		}
		h, octets, err := abi.ParseHeader(abi.Append(nil, abi.Hello, 0, g))
		if err != nil {
			t.Fatal(err)
		}
		return h, octets
	}
	for _, tt := range []struct {
		name string
		edit func(*process)
		n    int
		ver  uint32
		want string
	}{
		{"in order", func(p *process) {}, 1, abi.Version, ""},
		{"twice", func(p *process) { p.greeting.Version = 1 }, 1, abi.Version, "out of place"},
		{"two at once", func(p *process) {}, 2, abi.Version, "out of place"},
		{"none", func(p *process) {}, 0, abi.Version, "out of place"},
		{"after its end", func(p *process) { p.doomed = true }, 1, abi.Version, "out of place"},
		{"of another version", func(p *process) {}, 1, abi.Version + 1, "version"},
	} {
		u := loadedUplink(t)
		u.proc.greeting = abi.Greeting{}
		u.setFence(1)
		tt.edit(u.proc)
		h, octets := greeting(tt.ver, tt.n)
		err := u.hello(7, h, octets)
		fenced := atomic.LoadUint32(&u.set.Control().Fenced) != 0
		if tt.want == "" && (err != nil || fenced || atomic.LoadUint64(&u.set.Pulse().Heartbeat) == 0) {
			t.Errorf("%s: %v, fenced %v", tt.name, err, fenced)
		}
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !fenced) {
			t.Errorf("%s: %v, fenced %v", tt.name, err, fenced)
		}
	}
}

// Blocks are written whole, and read only when they are the connection's.
func TestBlocks(t *testing.T) {
	u := loadedUplink(t)
	id := abi.MakeHWID(2, 9)
	c := &handover.Conn{Flow: numbered(1), Key: numbered(1).Key(), HWID: id, Path: handover.Path{MTU: 1400, NextHop: [6]byte{1}}}
	c.State = abi.KernelState{MSS: 1448, WriteSeq: 110, SndUna: 100, RcvNxt: 20, CopiedSeq: 15, Socket: abi.SocketState{SndBuf: 77}}
	if err := u.Describe(c); err != nil {
		t.Fatal(err)
	}
	b := &u.set.Blocks()[2]
	if b.Kernel.HWID != id || b.Kernel.Key != c.Key || b.Kernel.PathMTU != 1400 || b.Kernel.State.MSS != 1448 || b.Kernel.Sequence&1 != 0 {
		t.Errorf("the kernel part is %+v", b.Kernel)
	}
	if b.Socket.Queued != 10 || b.Socket.Unread != 5 || b.Socket.Sequence&1 != 0 || b.Socket.HWID != c.HWID || b.Socket.State.SndBuf != 77 || b.Kernel.State.Socket.SndBuf != 0 {
		t.Errorf("the socket part is %+v", b.Socket)
	}
	if u.hardware(id) != nil {
		t.Error("a hardware part that was never written was read")
	}
	b.Hardware.HWID, b.Hardware.Cwnd = id, 33
	if h := u.hardware(id); h == nil || h.Cwnd != 33 {
		t.Errorf("the hardware part is %+v", h)
	}
	b.Hardware.Sequence = 1 // a writer that died
	if u.hardware(id) != nil || u.hardware(abi.MakeHWID(2, 8)) != nil || u.hardware(abi.MakeHWID(99, 1)) != nil || u.hardware(0) != nil {
		t.Error("what is not whole, or another's, was read")
	}
	c.HWID = abi.MakeHWID(4, 1)
	if err := u.Describe(c); err == nil {
		t.Error("a block beyond the table was written")
	}
}

// A new device starts with an empty steering map.
func TestSweepOut(t *testing.T) {
	u := loadedUplink(t)
	keys := []flow.Key{numbered(1).Key(), numbered(2).Key()}
	if err := u.Steer(keys, []abi.HWID{1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := u.sweepOut(); err != nil {
		t.Fatal(err)
	}
	if left, err := u.set.Steered(); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := u.sweepOut(); err != nil {
		t.Errorf("nothing to sweep: %v", err)
	}
}

// The sweep lets go of sockets that are gone, and learns of the others.
func TestRefresh(t *testing.T) {
	for _, tt := range []struct {
		name string
		now  abi.KernelState
		want bool
	}{
		{"the same", abi.KernelState{Inode: 5, MSS: 1400}, true},
		{"closed by its program", abi.KernelState{MSS: 1400}, true},
		{"another one", abi.KernelState{Inode: 6, MSS: 1400}, false},
		{"gone", abi.KernelState{Special: abi.SpecialMissing}, false},
	} {
		u := loadedUplink(t)
		c := &handover.Conn{HWID: abi.MakeHWID(1, 1), State: abi.KernelState{Inode: 5, MSS: 1448}}
		if got := u.refresh(c, &tt.now); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
		if tt.want && (c.State.MSS != 1400 || c.State.Inode != 5 || u.set.Blocks()[1].Kernel.State.MSS != 1400) {
			t.Errorf("%s: learned %+v", tt.name, c.State)
		}
	}
}

// Nothing to sweep, nothing is probed; what is there comes by portions.
func TestNextSwept(t *testing.T) {
	u := testUplink()
	if some := u.nextSwept(1); len(some) != 0 || u.sweepAt != mono.Time(1).Add(sweepEvery) {
		t.Errorf("of nothing: %v, next at %v", some, u.sweepAt)
	}
	u.sweep = numberedFlows(sweepAtOnce + 3)
	if some := u.nextSwept(2); len(some) != sweepAtOnce {
		t.Errorf("%d at once", len(some))
	}
	if some := u.nextSwept(3); len(some) != 3 || len(u.sweep) != 0 {
		t.Errorf("then %d", len(some))
	}
}
