package mono

import "golang.org/x/sys/unix"

// Now reads CLOCK_MONOTONIC. Only loops that wait call it; everything under
// them is given the time.
func Now() Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("mono: no monotonic clock: " + err.Error())
	}
	return Time(ts.Nano())
}
