package driver

import (
	"reflect"
	"testing"
	"time"

	"toehold/internal/kernel"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, 10 * time.Microsecond, 11 * time.Microsecond, 5 * time.Second, time.Minute} {
		h.observe(d)
	}
	last := len(Bounds)
	if h.Count[0] != 2 || h.Count[1] != 1 || h.Count[last-1] != 1 || h.Count[last] != 1 || h.Sum != 65*time.Second+21*time.Microsecond {
		t.Errorf("%+v", h)
	}
	for i := range Bounds[1:] {
		if Bounds[i] >= Bounds[i+1] {
			t.Errorf("bound %d, %v, is not below the next", i, Bounds[i])
		}
	}
}

func TestTallies(t *testing.T) {
	j := testJournal()
	for range 3 {
		j.AddMove(numbered(1), 1, Event{Kind: EventOffloaded, Device: "eth0", Reason: "asked", Elapsed: 200, Stall: 3})
	}
	j.AddMove(numbered(1), 1, Event{Kind: EventUploaded, Device: "eth0", Reason: "device-died"})
	j.AddMove(numbered(2), 2, Event{Kind: EventRefused, Reason: "nat", Elapsed: 5})
	counts, timings := j.Tallies()
	want := []Tally{{EventOffloaded, "eth0", "asked", 3}, {EventRefused, "", "nat", 1}, {EventUploaded, "eth0", "device-died", 1}}
	if !reflect.DeepEqual(counts, want) {
		t.Errorf("counted %+v", counts)
	}
	// What came home with a lost device was not timed, nor a refusal.
	if len(timings) != 1 || timings[0].Kind != EventOffloaded || timings[0].Took.Sum != 600*time.Microsecond || timings[0].Stall.Sum != 9*time.Microsecond {
		t.Errorf("timed %+v", timings)
	}
}

// TestLedger looks at connections as they come, grow, move and go.
func TestLedger(t *testing.T) {
	var l ledger
	look := func(conns ...found) KernelTraffic { return l.enter(conns) }
	conn := func(n int, inode, sent uint64, edit func(*found)) found {
		f := found{socket: &kernel.Socket{Flow: numbered(n)}}
		f.socket.State.Inode, f.socket.State.BytesSent, f.socket.State.BytesReceived = inode, sent, 2*sent
		if edit != nil {
			edit(&f)
		}
		return f
	}
	onDevice := func(f *found) { f.placed = new(placed) }
	for i, step := range []struct {
		what string
		look []found
		want uint64 // octets sent in all
	}{
		{"the first look counts nothing", []found{conn(1, 1, 100, nil)}, 0},
		{"what is beyond it counts", []found{conn(1, 1, 150, nil)}, 50},
		{"a new connection counts whole", []found{conn(1, 1, 150, nil), conn(2, 2, 7, nil)}, 57},
		{"one that is gone takes nothing with it", []found{conn(1, 1, 150, nil)}, 57},
		{"on the device nothing counts", []found{conn(1, 1, 900, onDevice)}, 57},
		{"nor in a time in which it moved", []found{conn(1, 1, 950, nil)}, 57},
		{"at home it does again", []found{conn(1, 1, 960, nil)}, 67},
		{"another socket of the same flow begins anew", []found{conn(1, 9, 5, nil)}, 72},
		{"a count that went back is no wonder", []found{conn(1, 9, 4, nil)}, 72},
	} {
		if got := look(step.look...); got.BytesSent != step.want || got.BytesReceived != 2*step.want {
			t.Errorf("step %d, %s: %+v, want %d sent", i, step.what, got, step.want)
		}
	}
}

func TestPopulations(t *testing.T) {
	c := func(place, device string) found { return found{conn: Connection{Place: place, Device: device}} }
	got := populations([]found{c(OnDevice, "eth0"), c(InKernel, ""), c(OnDevice, "eth0"), c(OnTheWay, "eth1")})
	want := []Population{{Place: InKernel, Count: 1}, {Place: OnDevice, Device: "eth0", Count: 2}, {Place: OnTheWay, Device: "eth1", Count: 1}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got := populations(nil); !reflect.DeepEqual(got, []Population{{Place: InKernel}}) {
		t.Errorf("of none: %+v", got)
	}
}
