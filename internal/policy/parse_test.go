package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestFiles reads policy files, bad ones for the most part: what is said of
// each, with its line and column, is in the scripts.
func TestFiles(t *testing.T) {
	known := Known{Devices: []string{"eth0", "eth1"}, Congestion: []string{"cubic", "reno"}}
	datadriven.Walk(t, "testdata/files", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			p, err := Parse("p.yaml", []byte(strings.ReplaceAll(d.Input, "<tab>", "\t")), known)
			if err != nil {
				return err.Error() + "\n"
			}
			return describe(p) + warnings(p)
		})
	})
}

func warnings(p *Policy) string {
	var b strings.Builder
	for _, w := range p.Unreachable() {
		fmt.Fprintln(&b, "warning:", w)
	}
	return b.String()
}

func describe(p *Policy) string {
	var b strings.Builder
	for _, r := range p.Rules {
		fmt.Fprintf(&b, "%s: %s when %s", r.Name, r.Action, strings.Join(strings.Fields(r.Condition.String()), " "))
		if r.Action == Offload {
			fmt.Fprintf(&b, " for %v attachment %q priority %d device %q control %q quota %d", r.For, r.Attachment, r.Priority, r.Device, r.Congestion, r.Quota)
		}
		fmt.Fprintf(&b, " (line %d)\n", r.Line)
	}
	fmt.Fprintf(&b, "default: %s, %d moves a second, stay %v, retry after %v\n", p.Default, p.Limits.MovesPerSecond, p.Limits.MinStay, p.Limits.RetryAfter)
	return b.String()
}

// The policy that comes with the program offloads long-lived bulk, and leaves
// the rest.
func TestDefault(t *testing.T) {
	p, err := Parse(DefaultName, []byte(DefaultSource()), Known{})
	if err != nil {
		t.Fatal(err)
	}
	bulk := Facts{Age: time.Minute, Rate: 1e6, BytesSent: 1e8}
	for name, tt := range map[string]struct {
		edit func(*Facts)
		want Action
	}{
		"bulk":    {func(*Facts) {}, Offload},
		"young":   {func(f *Facts) { f.Age = time.Second }, Leave},
		"slow":    {func(f *Facts) { f.Rate = 1000 }, Leave},
		"little":  {func(f *Facts) { f.BytesSent = 1000 }, Leave},
		"nothing": {func(f *Facts) { *f = Facts{} }, Leave},
	} {
		f := bulk
		tt.edit(&f)
		if got := p.action(p.Match(&f)); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestTooLarge(t *testing.T) {
	_, err := Parse("big", make([]byte, MaxFile+1), Known{})
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Error(err)
	}
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range maxRules + 1 {
		fmt.Fprintf(&b, "- {name: r%d, action: leave}\n", i)
	}
	if _, err := Parse("many", []byte(b.String()), Known{}); err == nil || !strings.Contains(err.Error(), "many:1002:3: more than 1000 rules") {
		t.Error(err)
	}
}

// What is in one another is not gone into, however much of it there is: the
// parser would take minutes.
func TestNested(t *testing.T) {
	for _, deep := range []string{"[", "{a: ", "- ", "? ", "]["} {
		_, err := Parse("deep", []byte(strings.Repeat(deep, MaxFile/8/len(deep))), Known{})
		if err == nil || !strings.HasPrefix(err.Error(), "deep:1:") {
			t.Errorf("%q again and again: %.200v", deep, err)
		}
	}
}

// Whatever a file has in it, reading it ends, and with a policy or with
// problems that have a place in the file.
func FuzzParse(f *testing.F) {
	f.Add(DefaultSource())
	f.Add("rules:\n- name: a\n  when: remote.within('10.0.0.0/8') && local.port in [80]\n  action: never\n")
	f.Add("rules: &a\n- *a\n")
	f.Fuzz(func(t *testing.T, source string) {
		p, err := Parse("f", []byte(source), Known{})
		if err == nil {
			p.Match(&Facts{})
			return
		}
		lines := strings.Count(source, "\n") + strings.Count(source, "\r") + 1
		for _, problem := range err.(Problems) {
			if problem.Line < 1 || problem.Line > lines+1 || problem.Column < 1 {
				t.Errorf("%v of %d lines", problem, lines)
			}
		}
	})
}
