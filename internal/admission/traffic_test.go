package admission

import (
	"strings"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
)

// A life is a Recent and the totals that it is told once a second.
type life struct {
	r      Recent
	now    mono.Time
	totals Totals
}

func newLife() *life {
	l := &life{now: mono.Time(time.Hour), totals: Totals{Sent: 1 << 40, Resent: 1 << 39, SegsReceived: 1 << 30, OutOfOrder: 1 << 29, Segments: 1 << 30}}
	l.r.Count(l.now, l.totals, true)
	return l
}

// live adds per to the totals, each second for d.
func (l *life) live(d time.Duration, counts bool, per Totals) {
	for range int(d / time.Second) {
		l.now = l.now.Add(time.Second)
		t := &l.totals
		t.Sent, t.Resent, t.Received = t.Sent+per.Sent, t.Resent+per.Resent, t.Received+per.Received
		t.Segments, t.SegsReceived, t.OutOfOrder = t.Segments+per.Segments, t.SegsReceived+per.SegsReceived, t.OutOfOrder+per.OutOfOrder
		l.r.Count(l.now, l.totals, counts)
	}
}

var (
	bulk   = Totals{Sent: 1_448_000, Segments: 1000, SegsReceived: 500}
	lossy  = Totals{Sent: 1_448_000, Resent: 724_000, Segments: 1000, SegsReceived: 500}
	shaken = Totals{Received: 1_448_000, Segments: 1000, SegsReceived: 1000, OutOfOrder: 600}
	tiny   = Totals{Sent: 1000, Received: 1000, Segments: 200, SegsReceived: 200}
	few    = Totals{Sent: 200, Resent: 200, Segments: 2, SegsReceived: 2, OutOfOrder: 2}
)

// What is measured is of the last seconds, and only of what counts.
func TestExceeded(t *testing.T) {
	all := Thresholds{Loss: 0.3, Reordering: 0.5, SmallIO: 0.9, Idle: time.Minute}
	for _, tt := range []struct {
		what string
		live func(l *life)
		want abi.Reason
		told string
	}{
		{"what was before the first look", func(l *life) {}, abi.None, ""},
		{"bulk", func(l *life) { l.live(20*time.Second, true, bulk) }, abi.None, ""},
		{"losses", func(l *life) { l.live(20*time.Second, true, lossy) }, abi.Loss, "50% of the octets sent were sent again, 30% is the limit"},
		{"losses that have passed", func(l *life) {
			l.live(20*time.Second, true, lossy)
			l.live(20*time.Second, true, bulk)
		}, abi.None, ""},
		{"losses of another hop", func(l *life) { l.live(20*time.Second, false, lossy) }, abi.None, ""},
		{"disorder", func(l *life) { l.live(20*time.Second, true, shaken) }, abi.Reordering, "60% of the segments received came after a gap, 50% is the limit"},
		{"tiny pieces", func(l *life) { l.live(20*time.Second, true, tiny) }, abi.SmallIO, "segments lack 99.3% of the payload that they could have, 90% is the limit"},
		{"too little to judge", func(l *life) { l.live(20*time.Second, true, few) }, abi.None, ""},
		{"silence", func(l *life) { l.live(70*time.Second, true, Totals{}) }, abi.Idle, "nothing was sent or received for 1m10s, 1m0s is the limit"},
		{"a counter that went back", func(l *life) { l.totals = Totals{}; l.live(time.Second, true, Totals{}) }, abi.None, ""},
	} {
		t.Run(tt.what, func(t *testing.T) {
			l := newLife()
			tt.live(l)
			if got, told := all.Exceeded(l.now, &l.r, 1448); got != tt.want || told != tt.told {
				t.Errorf("%v: %q, want %v: %q", got, told, tt.want, tt.told)
			}
			if got, _ := (&Thresholds{}).Exceeded(l.now, &l.r, 1448); got != abi.None {
				t.Errorf("without thresholds: %v", got)
			}
		})
	}
}

// A gate that has shut does not open at the next smaller value.
func TestGate(t *testing.T) {
	g := Gate{Limit: 100}
	for _, tt := range []struct {
		v    float64
		shut bool
	}{{0, false}, {99, false}, {100, true}, {99, true}, {80, true}, {79, false}, {99, false}, {1000, true}} {
		if g.Measure(tt.v); g.Shut() != tt.shut {
			t.Errorf("at %v it is shut: %v", tt.v, g.Shut())
		}
	}
	var none Gate
	if none.Measure(1e9); none.Shut() {
		t.Error("a gate without a limit has shut")
	}
}

func TestThresholdsText(t *testing.T) {
	for _, text := range []string{"", "loss=30%", "loss=0.5%,reordering=70%,small-io=95%,idle=10m0s"} {
		var th Thresholds
		if err := th.Set(text); err != nil || th.String() != text {
			t.Errorf("%q is read as %q, %v", text, th.String(), err)
		}
		if th.On() != (text != "") {
			t.Errorf("%q is on: %v", text, th.On())
		}
	}
	for text, want := range map[string]string{
		"loss":          "not of the form",
		"losses=3%":     "none of loss, reordering, small-io and idle",
		"loss=0.3":      "no share",
		"loss=0%":       "no share",
		"loss=NaN%":     "no share",
		"small-io=101%": "no share",
		"idle=5":        "no duration",
		"idle=10ms":     "no duration of at least 1s",
		"idle=1m,":      "not of the form",
	} {
		if _, err := ParseThresholds(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestFeatures(t *testing.T) {
	for _, text := range []string{"", "ipv6", "ipv4,ipv6,timestamps,sack,window-scale,ecn"} {
		var f Features
		if err := f.Set(text); err != nil || f.String() != text {
			t.Errorf("%q is read as %q, %v", text, f.String(), err)
		}
	}
	var f Features
	if err := f.Set("sack,quic"); err == nil || !strings.Contains(err.Error(), `"quic" is none of ipv4, ipv6,`) {
		t.Errorf("an unknown one: %v", err)
	}
}

// A connection is refused for what it uses, not for what it could.
func TestLacks(t *testing.T) {
	for _, tt := range []struct {
		without string
		family  uint8
		flags   uint32
		want    bool
	}{
		{"", 4, abi.FlagECN | abi.FlagSACK | abi.FlagPeerFIN, false},
		{"", 4, 1 << 20, true},
		{"ipv6", 4, 0, false},
		{"ipv6", 6, 0, true},
		{"ipv4", 4, 0, true},
		{"ecn", 4, abi.FlagSACK | abi.FlagTimestamps | abi.FlagWindowScale, false},
		{"ecn", 6, abi.FlagECN, true},
		{"sack", 4, abi.FlagSACK, true},
		{"timestamps", 4, abi.FlagTimestamps, true},
		{"window-scale", 4, abi.FlagWindowScale, true},
	} {
		var c Capability
		if err := c.Without.Set(tt.without); err != nil {
			t.Fatal(err)
		}
		o := &abi.Offer{Flags: tt.flags}
		o.Key.Family = tt.family
		if got := c.Lacks(o); got != tt.want {
			t.Errorf("without %q, family %d, flags %x: %v", tt.without, tt.family, tt.flags, got)
		}
	}
}

func TestCapabilityCheck(t *testing.T) {
	for _, tt := range []struct {
		c    Capability
		want string
	}{
		{Capability{}, ""},
		{Capability{Segments: 1000, Busy: 100}, ""},
		{Capability{Segments: -1}, "-1 segments a second"},
		{Capability{Busy: 101}, "101 percent"},
		{Capability{Busy: -1}, "-1 percent"},
	} {
		err := tt.c.Check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt.c, err)
		}
	}
}
