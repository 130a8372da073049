// Package archtest holds the project's layers as a table, and reads from the
// source whether the packages keep to it. docs/ARCHITECTURE.md explains the
// layers; the test of this package is what makes them true.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// module is the path that the project's own imports begin with.
const module = "toehold/"

// A Layer is a group of packages. A package imports from its own layer, when
// Siblings allows it, and from the layers before it in the table.
type Layer struct {
	Name     string
	Packages []string // folders, from the module's root
	Siblings bool     // packages of the layer may import each other
	Pure     bool     // no system, no clock, no goroutine, no log
	// Only names the layers or packages that may import this one; empty: all
	// that come later in the table.
	Only []string
}

// Layers is the table, lowest layer first.
var Layers = []Layer{
	{Name: "words", Siblings: true, Pure: true, Packages: []string{
		"internal/abi", "internal/flow", "internal/frame", "internal/mono",
		"internal/seqnum", "internal/tcb", "internal/wire"}},
	{Name: "minds", Pure: true, Packages: []string{
		"internal/admission", "internal/handover", "internal/policy", "internal/recovery", "internal/tcp"}},
	{Name: "hands", Siblings: true, Packages: []string{
		"internal/bpf", "internal/confine", "internal/freeze", "internal/kernel", "internal/port", "internal/shm"}},
	// Namespaces and scripts are for tests, and for the rooms that make their
	// own network.
	{Name: "grounds", Packages: []string{"internal/tcptest", "internal/testnet"},
		Only: []string{"internal/bench", "internal/demo", "internal/rig"}},
	{Name: "halves", Packages: []string{"internal/device", "internal/driver"},
		Only: []string{"rooms", "binary"}},
	{Name: "rooms", Siblings: true, Packages: []string{
		"internal/bench", "internal/cli", "internal/control", "internal/demo",
		"internal/metrics", "internal/rig"}},
	{Name: "binary", Packages: []string{"cmd/toehold"}},
	{Name: "tools", Packages: []string{"internal/abi/reasondoc", "internal/archtest"},
		Only: []string{"nothing"}},
}

// systemImports are what pure packages may not import: each is a way out of
// the process, or to something that differs from one run to the next.
var systemImports = []string{
	"log", "log/slog", "math/rand", "math/rand/v2", "crypto/rand", "net", "net/http",
	"os", "os/exec", "os/signal", "runtime", "sync", "sync/atomic", "syscall",
	"golang.org/x/sys/unix",
}

// clockCalls are the functions of package time that read or wait on a clock.
var clockCalls = []string{
	"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until",
}

// clockFile is the one file of the pure layers that reads the clock; the
// outermost loops call it.
const clockFile = "internal/mono/clock.go"

// A Source is one Go file of the module, tests left out.
type Source struct {
	Path    string // from the module's root
	Package string // its folder
	File    *ast.File
	Lines   int
}

// Parse reads the Go files under root's cmd and internal folders.
func Parse(root string) ([]Source, error) {
	var all []Source
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !isSource(d.Name()) {
				return err
			}
			s, err := parseFile(root, path)
			all = append(all, s)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func isSource(name string) bool {
	return strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
}

func parseFile(root, path string) (Source, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return Source{}, err
	}
	rel, err := filepath.Rel(root, path)
	return Source{
		Path:    filepath.ToSlash(rel),
		Package: filepath.ToSlash(filepath.Dir(rel)),
		File:    file,
		Lines:   set.File(file.Pos()).LineCount(),
	}, err
}

// Check returns what in the sources breaks the table, a line each.
func Check(layers []Layer, sources []Source) []string {
	var wrong []string
	for _, s := range sources {
		rank := rankOf(layers, s.Package)
		if rank < 0 {
			wrong = append(wrong, s.Path+": package "+s.Package+" has no place in the layers")
			continue
		}
		wrong = append(wrong, checkImports(layers, rank, s)...)
		if layers[rank].Pure && s.Path != clockFile {
			wrong = append(wrong, checkPure(s)...)
		}
	}
	return wrong
}

// rankOf is the layer that a package stands in, -1 for none.
func rankOf(layers []Layer, pkg string) int {
	return slices.IndexFunc(layers, func(l Layer) bool { return slices.Contains(l.Packages, pkg) })
}

func checkImports(layers []Layer, rank int, s Source) []string {
	var wrong []string
	for _, path := range imports(s) {
		pkg, own := strings.CutPrefix(path, module)
		if !own {
			continue
		}
		if reason := refuse(layers, rank, s.Package, pkg); reason != "" {
			wrong = append(wrong, fmt.Sprintf("%s imports %s: %s", s.Path, pkg, reason))
		}
	}
	return wrong
}

// refuse says why from, a package of layer rank, may not import pkg; "" when
// it may.
func refuse(layers []Layer, rank int, from, pkg string) string {
	target := rankOf(layers, pkg)
	switch {
	case target < 0:
		return "it has no place in the layers"
	case target > rank:
		return fmt.Sprintf("%s are above %s", layers[target].Name, layers[rank].Name)
	case target == rank && !layers[rank].Siblings:
		return layers[rank].Name + " do not import each other"
	case target == rank:
		return ""
	}
	only := layers[target].Only
	if len(only) > 0 && !slices.Contains(only, from) && !slices.Contains(only, layers[rank].Name) {
		return layers[target].Name + " are not for it"
	}
	return ""
}

func imports(s Source) []string {
	var paths []string
	for _, spec := range s.File.Imports {
		if path, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

// checkPure finds imports of the system, goroutines and readings of a clock.
func checkPure(s Source) []string {
	var wrong []string
	for _, path := range imports(s) {
		if slices.Contains(systemImports, path) {
			wrong = append(wrong, s.Path+" imports "+path+" and should be pure")
		}
	}
	ast.Inspect(s.File, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			wrong = append(wrong, s.Path+" starts a goroutine and should be pure")
		case *ast.SelectorExpr:
			if readsClock(n) {
				wrong = append(wrong, s.Path+" reads a clock and should be pure")
			}
		}
		return true
	})
	return wrong
}

func readsClock(n *ast.SelectorExpr) bool {
	x, ok := n.X.(*ast.Ident)
	if !ok {
		return false
	}
	return x.Name == "time" && slices.Contains(clockCalls, n.Sel.Name) ||
		x.Name == "mono" && n.Sel.Name == "Now"
}
