// Package mono is the project's time: nanoseconds of CLOCK_MONOTONIC, the
// clock that the kernel's TCP timestamps and bpf_ktime_get_ns run on too.
// Pure logic is given a Time; only the outermost loops read the clock.
package mono

import "time"

// Time is nanoseconds since an arbitrary start. The zero Time means "never"
// where a deadline is meant.
type Time int64

// Add returns t moved by d.
func (t Time) Add(d time.Duration) Time { return t + Time(d) }

// Sub returns the duration t-u.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// Milliseconds returns t in whole milliseconds, the unit of Linux's default
// TCP timestamp clock (tcp_clock_ms).
func (t Time) Milliseconds() int64 { return int64(t) / int64(time.Millisecond) }

// Earliest returns the sooner of two deadlines, of which 0 is never.
func Earliest(a, b Time) Time {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}
