package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ticksPerSecond is USER_HZ, which Linux has fixed at 100 for programs.
const ticksPerSecond = 100

// machineCPU is how long the processors were busy since the machine started,
// in seconds: all of /proc/stat's first line but idle, iowait and the guests'
// time, which user and nice hold already.
func machineCPU() (float64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return parseMachine(line)
}

func parseMachine(line string) (float64, error) {
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7} { // user nice system irq softirq
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return float64(ticks) / ticksPerSecond, nil
}

// processCPU is how long the threads of a process have run, in seconds. The
// scheduler counts in nanoseconds what /proc/PID/stat has in hundredths.
func processCPU(pid int) (float64, error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("process %d is gone", pid)
	}
	var seconds float64
	for _, p := range paths {
		b, e := os.ReadFile(p)
		if errors.Is(e, os.ErrNotExist) {
			continue // a thread that has just ended
		}
		s, e2 := parseSchedstat(b)
		err = errors.Join(err, e, e2)
		seconds += s
	}
	return seconds, err
}

func parseSchedstat(b []byte) (float64, error) {
	fields := bytes.Fields(b)
	if len(fields) == 0 {
		return 0, errors.New("an empty schedstat")
	}
	ns, err := strconv.ParseUint(string(fields[0]), 10, 64)
	return float64(ns) / 1e9, err
}
