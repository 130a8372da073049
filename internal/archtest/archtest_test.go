package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func TestPackagesKeepToTheLayers(t *testing.T) {
	sources, err := Parse(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(sources) < 10 {
		t.Fatalf("only %d files found: the root is wrong", len(sources))
	}
	for _, line := range Check(Layers, sources) {
		t.Error(line)
	}
}

// maxLines bounds a file; generated ones are nobody's to read.
const maxLines = 800

func TestNoFileIsTooLong(t *testing.T) {
	sources, err := Parse(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sources {
		if s.Lines > maxLines && !ast.IsGenerated(s.File) {
			t.Errorf("%s has %d lines, more than %d", s.Path, s.Lines, maxLines)
		}
	}
}

func TestNoPackageStandsInTwoLayers(t *testing.T) {
	seen := map[string]string{}
	for _, l := range Layers {
		for _, p := range l.Packages {
			if seen[p] != "" {
				t.Errorf("%s is in %s and in %s", p, seen[p], l.Name)
			}
			seen[p] = l.Name
		}
	}
}

// source makes a Source of a text, for what Check should find.
func source(t *testing.T, pkg, text string) Source {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\n"+text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return Source{Path: pkg + "/x.go", Package: pkg, File: f}
}

func TestCheckFindsWhatBreaksTheTable(t *testing.T) {
	tests := []struct {
		name, pkg, text string
		want            string // part of the only finding; "" for none
	}{
		{"down", "internal/tcp", `import _ "toehold/internal/wire"`, ""},
		{"sibling word", "internal/abi", `import _ "toehold/internal/flow"`, ""},
		{"up", "internal/wire", `import _ "toehold/internal/tcp"`, "minds are above words"},
		{"half to half", "internal/device", `import _ "toehold/internal/driver"`, "halves do not import each other"},
		{"mind to mind", "internal/handover", `import _ "toehold/internal/tcp"`, "minds do not import each other"},
		{"grounds in a half", "internal/driver", `import _ "toehold/internal/testnet"`, "grounds are not for it"},
		{"grounds in the demo", "internal/demo", `import _ "toehold/internal/testnet"`, ""},
		{"tool in the binary", "cmd/toehold", `import _ "toehold/internal/archtest"`, "tools are above binary"},
		{"no place", "internal/util", ``, "has no place"},
		{"import without a place", "internal/cli", `import _ "toehold/internal/util"`, "has no place"},
		{"system", "internal/tcp", `import _ "os"`, "imports os"},
		{"system in a hand", "internal/port", `import _ "os"`, ""},
		{"goroutine", "internal/handover", `func f() { go f() }`, "starts a goroutine"},
		{"clock", "internal/tcp", `import "time"; var _ = time.Now()`, "reads a clock"},
		{"own clock", "internal/tcp", `import "toehold/internal/mono"; var _ = mono.Now()`, "reads a clock"},
		{"durations are no clock", "internal/tcp", `import "time"; var _ = 3 * time.Second`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Check(Layers, []Source{source(t, tt.pkg, tt.text)})
			if tt.want == "" && len(got) == 0 {
				return
			}
			if len(got) != 1 || tt.want == "" || !strings.Contains(got[0], tt.want) {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTheClockIsReadInOnePlace(t *testing.T) {
	s := source(t, "internal/mono", `import _ "golang.org/x/sys/unix"`)
	if got := Check(Layers, []Source{s}); len(got) != 1 {
		t.Errorf("another file of mono: %q", got)
	}
	s.Path = clockFile
	if got := Check(Layers, []Source{s}); len(got) != 0 {
		t.Errorf("the clock's own file: %q", got)
	}
}

func TestParseOfNoProject(t *testing.T) {
	if _, err := Parse(t.TempDir()); err == nil {
		t.Error("an empty folder has no error")
	}
}

func TestSourcesAreNoTests(t *testing.T) {
	sources, err := Parse(root)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(sources, func(s Source) bool { return strings.HasSuffix(s.Path, "_test.go") }) {
		t.Error("tests among the sources")
	}
}
