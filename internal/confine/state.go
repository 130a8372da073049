package confine

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A State is what the kernel says a process may do: of all its threads, the most.
type State struct {
	UID, GID     string // real, effective, saved and of the file system, as they stand in proc(5)
	Groups       string
	Capabilities bool // one of the five sets of a thread has some
	NoNewPrivs   bool // of each thread
	Filtered     bool // each thread has a seccomp filter
	Threads      int
}

// Confined reports whether a process with this State has been shed and has entered.
func (s *State) Confined() bool {
	return s.Threads > 0 && !s.Capabilities && s.NoNewPrivs && s.Filtered && s.Groups == "" && !root(s.UID) && !root(s.GID)
}

func root(ids string) bool {
	for _, id := range strings.Fields(ids) {
		if id == "0" {
			return true
		}
	}
	return false
}

// String says it in words for an operator.
func (s *State) String() string {
	user, _, _ := strings.Cut(s.UID, " ")
	if s.Confined() {
		return "user " + user + ", no capabilities, seccomp"
	}
	said := "NOT CONFINED: user " + user
	if s.Capabilities {
		said += ", with capabilities"
	}
	if !s.NoNewPrivs || !s.Filtered {
		said += ", without seccomp"
	}
	return said
}

// Of reads the State of a process from /proc.
func Of(pid int) (s State, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return s, err
	}
	s.NoNewPrivs, s.Filtered = true, true
	for _, path := range threads {
		octets, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		s.Threads++
		s.add(string(octets))
	}
	if s.Threads == 0 {
		return State{}, fmt.Errorf("process %d is gone", pid)
	}
	return s, nil
}

// add takes what is said of one thread.
func (s *State) add(status string) {
	for lines := bufio.NewScanner(strings.NewReader(status)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.Join(strings.Fields(value), " ")
		switch name {
		case "Uid":
			s.UID = most(s.UID, value)
		case "Gid":
			s.GID = most(s.GID, value)
		case "Groups":
			s.Groups = most(s.Groups, value)
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
			s.Capabilities = s.Capabilities || strings.Trim(value, "0") != ""
		case "NoNewPrivs":
			s.NoNewPrivs = s.NoNewPrivs && value == "1"
		case "Seccomp":
			s.Filtered = s.Filtered && value == "2" // SECCOMP_MODE_FILTER
		}
	}
}

// most is both, where threads differ.
func most(was, now string) string {
	if was == "" || was == now {
		return now
	}
	return was + " " + now
}
