package policy

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"toehold/internal/abi"
)

var update = flag.Bool("update", false, "write the table of facts into docs/POLICY.md")

const (
	docPath   = "../../docs/POLICY.md"
	docBegin  = "<!-- facts -->\n"
	docEnd    = "<!-- /facts -->\n"
	blockMark = "```yaml\n"
)

// factsDoc is the table of facts as the documentation has it.
func factsDoc() string {
	var b strings.Builder
	b.WriteString("| fact | type | is | known at establishment |\n|---|---|---|---|\n")
	for _, f := range AllFacts {
		early := ""
		if f.field != abi.FieldAlways {
			early = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, strings.ToLower(strings.TrimPrefix(f.Type.String(), "google.protobuf.")), f.Doc, early)
	}
	return b.String()
}

func TestFactsAreDocumented(t *testing.T) {
	octets, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(octets), docBegin)
	table, tail, ok2 := strings.Cut(rest, docEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the facts", docPath)
	}
	if *update {
		if err := os.WriteFile(docPath, []byte(head+docBegin+factsDoc()+docEnd+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if table != factsDoc() {
		t.Errorf("the facts in %s are not those that there are: go test ./internal/policy -run Documented -update", docPath)
	}
}

// The policies in the documentation are right, and so are the conditions.
func TestDocumentedPolicies(t *testing.T) {
	octets, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(octets), blockMark)[1:]
	if len(blocks) == 0 {
		t.Error("there is no policy in the documentation")
	}
	for _, block := range blocks {
		source, _, _ := strings.Cut(block, "```")
		if _, err := Parse(docPath, []byte(source), Known{}); err != nil {
			t.Error(err)
		}
	}
	_, examples, _ := strings.Cut(string(octets), "`(a ? b : c)` |\n") // what comes before is of a, b and c
	examples, _, _ = strings.Cut(examples, docBegin)
	env, err := environment()
	if err != nil {
		t.Fatal(err)
	}
	for i, code := range strings.Split(examples, "`") {
		if i%2 == 0 {
			continue // between two
		}
		if _, flaws := compile(env, code); len(flaws) > 0 {
			t.Errorf("%s: %+v", code, flaws)
		}
	}
}
