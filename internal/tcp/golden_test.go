package tcp_test

import (
	"flag"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
)

// golden compares a text with a file, numbers within a tolerance: a fifth, and
// one of the unit that they are in. With -rewrite, a flag of datadriven, it
// writes the file.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if flag.Lookup("rewrite").Value.String() == "true" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	off := differences(got, string(want))
	if len(off) > 0 {
		t.Errorf("%s has changed:\n%s\nfor better or for worse? to accept it: go test ./internal/tcp -run '^%s$' -rewrite", path, strings.Join(off, "\n"), t.Name())
	}
}

// differences are the lines of got that are not as in want, each with what it
// was.
func differences(got, want string) []string {
	now, before := strings.Split(got, "\n"), strings.Split(want, "\n")
	if len(now) != len(before) {
		return []string{"another number of lines: " + strconv.Itoa(len(now)) + ", not " + strconv.Itoa(len(before))}
	}
	var off []string
	for i := range now {
		if !near(strings.Fields(now[i]), strings.Fields(before[i])) {
			off = append(off, "was "+before[i], "is  "+now[i])
		}
	}
	return off
}

// near compares word by word.
func near(got, want []string) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range got {
		a, errA := strconv.ParseFloat(strings.Trim(got[i], "|"), 64)
		b, errB := strconv.ParseFloat(strings.Trim(want[i], "|"), 64)
		if (errA != nil || errB != nil) && got[i] != want[i] || math.Abs(a-b) > 1+0.2*b {
			return false
		}
	}
	return true
}

func TestDifferences(t *testing.T) {
	const was = "reno\n1 %| 10.00 50.00 |\n"
	for _, tt := range []struct {
		got string
		n   int
	}{
		{was, 0},
		{"reno\n1 %| 12.90 41.00 |\n", 0},
		{"reno\n1 %| 13.10 50.00 |\n", 2},
		{"reno\n1 %| 10.00 38.00 |\n", 2},
		{"reno\n1 %| 10.00 |\n", 2},
		{"cubic\n1 %| 10.00 50.00 |\n", 2},
		{"reno\n", 1},
	} {
		if off := differences(tt.got, was); len(off) != tt.n {
			t.Errorf("%q: %q", tt.got, off)
		}
	}
}
