package abi

import (
	"strings"
	"testing"
)

func TestHWID(t *testing.T) {
	tests := []struct {
		id                HWID
		index, generation uint32
		text              string
	}{
		{MakeHWID(3, 1), 3, 1, "3-1"},
		{MakeHWID(0, 1), 0, 1, "0-1"},
		{MakeHWID(1<<32-1, 1<<32-1), 1<<32 - 1, 1<<32 - 1, "4294967295-4294967295"},
	}
	for _, tt := range tests {
		if tt.id.Index() != tt.index || tt.id.Generation() != tt.generation || tt.id.String() != tt.text {
			t.Errorf("%d: index %d, generation %d, text %q", tt.id, tt.id.Index(), tt.id.Generation(), tt.id)
		}
		if got, err := ParseHWID(tt.text); err != nil || got != tt.id {
			t.Errorf("ParseHWID(%q) = %v, %v", tt.text, got, err)
		}
	}
	if got := HWID(0).String(); got != "" {
		t.Errorf("no connection is called %q", got)
	}
}

func TestParseHWIDRefuses(t *testing.T) {
	for _, s := range []string{"", "3", "-", "3-", "-1", "3-0", "3-1-1", "x-1", "3-x", "4294967296-1", "3-4294967296", "+3-1", " 3-1"} {
		if id, err := ParseHWID(s); err == nil {
			t.Errorf("%q is taken for %v", s, id)
		} else if !strings.Contains(err.Error(), "INDEX-GENERATION") {
			t.Errorf("%q: the error %q does not say what is wanted", s, err)
		}
	}
}

func FuzzParseHWID(f *testing.F) {
	f.Add("3-1")
	f.Add("4294967295-4294967295")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseHWID(s)
		if err != nil {
			return
		}
		if again, err := ParseHWID(id.String()); err != nil || again != id {
			t.Errorf("%q is %v, and its text is %v, %v", s, id, again, err)
		}
	})
}

func TestReasonsAreWords(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Reasons() {
		name := r.String()
		if name == "" || name != strings.ToLower(name) || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("reason %d is called %q", r, name)
		}
		if seen[name] {
			t.Errorf("two reasons are called %q", name)
		}
		seen[name] = true
		if r.Text() == "" || strings.HasSuffix(r.Text(), ".") {
			t.Errorf("the text of %q is %q", name, r.Text())
		}
		if got, ok := ParseReason(name); !ok || got != r {
			t.Errorf("ParseReason(%q) = %v, %v", name, got, ok)
		}
	}
}

// What a connection was born with, it keeps; a full device does not stay full.
func TestLastingReasons(t *testing.T) {
	for r, want := range map[Reason]bool{TCPMD5: true, ULP: true, ECN: true, DeviceFull: false, NoUplink: false, None: false} {
		if r.Lasting() != want {
			t.Errorf("%s lasts: %v", r, !want)
		}
	}
}

func TestReasonsOutsideTheList(t *testing.T) {
	if None.String() != "" || Reason(1<<31).String() != "unknown" || Reason(1<<31).Text() == "" {
		t.Errorf("none %q, far %q", None, Reason(1<<31))
	}
	if got, ok := ParseReason(""); !ok || got != None {
		t.Errorf("no reason is %v, %v", got, ok)
	}
	if _, ok := ParseReason("because"); ok {
		t.Error("a name outside the list was found")
	}
}

func TestGenerations(t *testing.T) {
	for _, tt := range []struct{ first, step, latest, want uint32 }{
		{1, 1, 0, 1}, {1, 1, 1, 2}, {1, 1, 7, 8},
		{1, 3, 0, 1}, {1, 3, 1, 4}, {2, 3, 4, 5}, {2, 3, 5, 8}, {3, 3, 1, 3}, {1, 0, 1, 2},
	} {
		got := Generations{tt.first, tt.step}.After(tt.latest)
		if got.First != tt.want || got.First <= tt.latest {
			t.Errorf("from %d by %d after %d: %d, want %d", tt.first, tt.step, tt.latest, got.First, tt.want)
		}
	}
}
