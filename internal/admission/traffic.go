package admission

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
)

// Totals are what kernel or device has counted of a connection.
type Totals struct {
	Sent, Resent             uint64 // octets: with retransmissions, and those alone
	Received                 uint64 // octets in order
	Segments                 uint64 // that carried Sent and Received
	SegsReceived, OutOfOrder uint64
}

// A Recent is the traffic of a connection, of late. What was counts half after
// halfLife.
type Recent struct {
	counted, active                                            mono.Time // when last; when octets last moved
	totals                                                     Totals
	sent, resent, received, segments, segsReceived, outOfOrder float64
}

const halfLife = 10 * time.Second

// What must have been seen before a share is believed.
const (
	enoughOctets   = 64 << 10
	enoughSegments = 64
)

// Count takes the totals as they are now. The first ones, and those of a time
// that does not count, are where the next begin.
func (r *Recent) Count(now mono.Time, t Totals, counts bool) {
	past, was := now.Sub(r.counted), r.totals
	first := r.counted == 0
	r.counted, r.totals = now, t
	if first || t.Sent+t.Received != was.Sent+was.Received {
		r.active = now
	}
	if first || !counts || past < 0 {
		return
	}
	keep := math.Exp2(-past.Seconds() / halfLife.Seconds())
	for _, c := range [...]struct {
		of       *float64
		now, was uint64
	}{
		{&r.sent, t.Sent, was.Sent}, {&r.resent, t.Resent, was.Resent}, {&r.received, t.Received, was.Received},
		{&r.segments, t.Segments, was.Segments}, {&r.segsReceived, t.SegsReceived, was.SegsReceived}, {&r.outOfOrder, t.OutOfOrder, was.OutOfOrder},
	} {
		*c.of = *c.of*keep + float64(c.now-min(c.now, c.was))
	}
}

// Loss is the share of the octets sent that were sent again.
func (r *Recent) Loss() float64 { return share(r.resent, r.sent, enoughOctets) }

// Reordering is the share of the segments received that came after a gap.
func (r *Recent) Reordering() float64 { return share(r.outOfOrder, r.segsReceived, enoughSegments) }

// SmallIO is 1 less the mean payload divided by the MSS.
func (r *Recent) SmallIO(mss uint32) float64 {
	if r.segments < enoughSegments || mss == 0 {
		return 0
	}
	return max(0, 1-(r.sent+r.received)/r.segments/float64(mss))
}

// Idle is the time since octets were last sent or received, as far as Count
// has seen.
func (r *Recent) Idle(now mono.Time) time.Duration { return now.Sub(r.active) }

func share(part, whole, enough float64) float64 {
	if whole < enough {
		return 0
	}
	return min(1, part/whole)
}

// Thresholds are what of its traffic speaks against a connection's place. 0 is
// off.
type Thresholds struct {
	Loss, Reordering, SmallIO float64 // shares, up to 1
	Idle                      time.Duration
}

// DefaultRefusals are what a policy's connections are refused for: paths that
// are broken rather than bad. A policy has conditions for what is finer.
var DefaultRefusals = Thresholds{Loss: 0.3, Reordering: 0.7}

// On says that there is any.
func (t *Thresholds) On() bool { return *t != Thresholds{} }

// Exceeded is the first threshold that a connection's traffic has reached, or
// None.
func (t *Thresholds) Exceeded(now mono.Time, r *Recent, mss uint32) (abi.Reason, string) {
	switch loss, disorder, small, idle := r.Loss(), r.Reordering(), r.SmallIO(mss), r.Idle(now); {
	case t.Loss > 0 && loss >= t.Loss:
		return abi.Loss, fmt.Sprintf("%s of the octets sent were sent again, %s is the limit", percent(loss), percent(t.Loss))
	case t.Reordering > 0 && disorder >= t.Reordering:
		return abi.Reordering, fmt.Sprintf("%s of the segments received came after a gap, %s is the limit", percent(disorder), percent(t.Reordering))
	case t.SmallIO > 0 && small >= t.SmallIO:
		return abi.SmallIO, fmt.Sprintf("segments lack %s of the payload that they could have, %s is the limit", percent(small), percent(t.SmallIO))
	case t.Idle > 0 && idle >= t.Idle:
		return abi.Idle, fmt.Sprintf("nothing was sent or received for %v, %v is the limit", idle.Round(time.Second), t.Idle)
	}
	return abi.None, ""
}

func percent(share float64) string {
	return strconv.FormatFloat(math.Round(1000*share)/10, 'f', -1, 64) + "%"
}

// share of a threshold, by its name: that of the reason.
func (t *Thresholds) share(name string) *float64 {
	switch name {
	case abi.Loss.String():
		return &t.Loss
	case abi.Reordering.String():
		return &t.Reordering
	case abi.SmallIO.String():
		return &t.SmallIO
	}
	return nil
}

// ParseThresholds reads NAME=VALUE[,NAME=VALUE...], as String writes it; ""
// is none.
func ParseThresholds(text string) (t Thresholds, err error) {
	if text == "" {
		return t, nil
	}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(pair, "=")
		share := t.share(name)
		switch {
		case !ok:
			return t, fmt.Errorf("%q is not of the form NAME=VALUE", pair)
		case share != nil:
			*share, err = parsePercent(value)
		case name == abi.Idle.String():
			t.Idle, err = parseIdle(value)
		default:
			err = fmt.Errorf("it is none of loss, reordering, small-io and idle")
		}
		if err != nil {
			return t, fmt.Errorf("%s: %w", name, err)
		}
	}
	return t, nil
}

func parsePercent(text string) (float64, error) {
	number, ok := strings.CutSuffix(text, "%")
	p, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !(p > 0 && p <= 100) {
		return 0, fmt.Errorf("%q is no share, such as 20%%, above 0%% and up to 100%%", text)
	}
	return p / 100, nil
}

func parseIdle(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("%q is no duration of at least 1s, such as 10m", text)
	}
	return d, nil
}

// String is the form that ParseThresholds reads.
func (t *Thresholds) String() string {
	var all []string
	for _, r := range []abi.Reason{abi.Loss, abi.Reordering, abi.SmallIO} {
		if s := *t.share(r.String()); s > 0 {
			all = append(all, r.String()+"="+percent(s))
		}
	}
	if t.Idle > 0 {
		all = append(all, abi.Idle.String()+"="+t.Idle.String())
	}
	return strings.Join(all, ",")
}

// Set and Type make it the value of a flag.
func (t *Thresholds) Set(text string) (err error) {
	*t, err = ParseThresholds(text)
	return err
}

// Type is what help calls the value.
func (t *Thresholds) Type() string { return "NAME=VALUE,..." }
