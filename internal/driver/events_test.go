package driver

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"toehold/internal/policy"
)

var update = flag.Bool("update", false, "write docs/EVENTS.md")

const eventsPath = "../../docs/EVENTS.md"

// eventsDoc is docs/EVENTS.md.
func eventsDoc() string {
	var b strings.Builder
	b.WriteString(`# Events

What ` + "`toehold events`" + ` tells: the last 4096 events, and with ` + "`--follow`" + ` those to come. That goes on until it is ended; when the daemon stops before, or tells no more because the follower did not read fast
enough, it says so on stderr and ends with 1. With ` + "`--json`" + ` each is one object on a line of its own. Every event has
` + "`time` (RFC 3339) and `kind`" + `; fields without a value are left out. Reasons are those of [REASONS.md](REASONS.md), times are in microseconds, sizes in octets.

| kind | tells that | fields |
|---|---|---|
`)
	for _, k := range EventKinds() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.Name, k.Text, k.Fields)
	}
	b.WriteString(`
| field | is |
|---|---|
| ` + "`local`, `remote`" + ` | the connection's ends, this host's first |
| ` + "`id`" + ` | its hardware id, INDEX-GENERATION |
| ` + "`device`" + ` | the uplink's name |
| ` + "`reason`" + ` | why |
| ` + "`detail`" + ` | the same for a person; no script should read it |
| ` + "`elapsed_us`" + ` | from the request until the connection had moved |
| ` + "`stall_us`" + ` | how long neither stack could send |
| ` + "`bytes_moved`" + ` | octets that the device held at that moment |
| ` + "`count`" + ` | connections concerned |
| ` + "`attachment`" + ` | shadow or bypass: how the device has the connection |
`)
	return b.String()
}

// Whatever is wrong with a policy, and however long, its event has the first of
// it, and is short.
func TestPolicyRejected(t *testing.T) {
	long := strings.Repeat("ä", longestReason)
	for _, tt := range []struct {
		err  error
		want string
	}{
		{os.ErrNotExist, "file does not exist"},
		{policy.Problems{{File: "p", Line: 3, Column: 7, Message: "no"}}, "p:3:7: no"},
		{policy.Problems{{File: "p", Line: 3, Column: 7, Message: "no"}, {}, {}}, "p:3:7: no (and 2 more)"},
		{policy.Problems{{File: "p", Line: 3, Column: 7, Message: long}, {}}, "p:3:7: " + strings.Repeat("ä", 196) + "... (and 1 more)"},
	} {
		d := &Driver{journal: testJournal()}
		d.PolicyRejected(tt.err)
		if e := d.journal.Events(); len(e) != 1 || e[0].Kind != EventPolicyRejected || e[0].Detail != tt.want {
			t.Errorf("%+v, want %q", e, tt.want)
		}
	}
}

func TestEventsAreDocumented(t *testing.T) {
	if *update {
		if err := os.WriteFile(eventsPath, []byte(eventsDoc()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(eventsPath)
	if err != nil || string(got) != eventsDoc() {
		t.Errorf("docs/EVENTS.md is not the list of events (%v): go test ./internal/driver -run Events -update", err)
	}
}

// driverSource parses the package, tests left out.
func driverSource(t *testing.T) (files []*ast.File) {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// Every constant of a kind is in the list, and every event that the code makes
// is of such a constant.
func TestEveryKindOfEventIsInTheList(t *testing.T) {
	listed := map[string]bool{}
	for _, k := range EventKinds() {
		listed[`"`+k.Name+`"`] = true
	}
	constants, made := 0, 0
	for _, f := range driverSource(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if !strings.HasPrefix(name.Name, "Event") || len(n.Values) <= i {
						continue
					}
					constants++
					if text, ok := n.Values[i].(*ast.BasicLit); !ok || !listed[text.Value] {
						t.Errorf("%s is not in the list", name.Name)
					}
				}
			case *ast.CompositeLit:
				if typ, ok := n.Type.(*ast.Ident); ok && typ.Name == "Event" {
					made++
					if kind := kindOf(n); !strings.HasPrefix(kind, "Event") && kind != "eventKinds" && kind != "kind" {
						t.Errorf("an event is made of kind %q, which is no constant", kind)
					}
				}
			}
			return true
		})
	}
	if constants != len(listed) || made < 5 {
		t.Errorf("%d constants, %d kinds listed, %d events made", constants, len(listed), made)
	}
}

// kindOf is the identifier that an Event's Kind is given by.
func kindOf(n *ast.CompositeLit) string {
	for _, e := range n.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok || kv.Key.(*ast.Ident).Name != "Kind" {
			continue
		}
		switch v := kv.Value.(type) {
		case *ast.Ident:
			return v.Name
		case *ast.IndexExpr:
			return v.X.(*ast.Ident).Name
		}
	}
	return ""
}

// The fields that the list names are those that an Event has.
func TestFieldsOfEvents(t *testing.T) {
	has := map[string]bool{}
	typ := reflect.TypeFor[Event]()
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		has[name] = true
		if name != "time" && name != "kind" && !strings.Contains(eventsDoc(), "`"+name+"`") {
			t.Errorf("field %s is not explained", name)
		}
	}
	for _, k := range EventKinds() {
		for _, f := range strings.Split(k.Fields, ", ") {
			if !has[strings.Trim(f, "[]")] {
				t.Errorf("%s is said to have a field %q", k.Name, f)
			}
		}
	}
}
