package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testSources reads every test file, by its path below internal.
func testSources(t *testing.T) map[string]string {
	t.Helper()
	sources := map[string]string{}
	at := os.DirFS(filepath.Join(root, "internal"))
	err := fs.WalkDir(at, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := fs.ReadFile(at, path)
		sources[path] = string(b)
		return err
	})
	if err != nil || len(sources) < 10 {
		t.Fatalf("%d test files: %v", len(sources), err)
	}
	return sources
}

func rfcDocument(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "docs", "RFC.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A row of docs/RFC.md from a table with a column for tests.
type row struct{ rfcs, whole, tests string }

func rows(document string) (all []row) {
	column := -1
	for line := range strings.Lines(document) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 3 {
			column = -1
			continue
		}
		if column < 0 {
			for i, c := range cells {
				if strings.TrimSpace(c) == "test" {
					column = i
				}
			}
			continue
		}
		if column < len(cells) && !strings.HasPrefix(cells[1], "---") {
			all = append(all, row{cells[1], line, strings.TrimSpace(cells[column])})
		}
	}
	return all
}

var (
	testFunc   = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	testFile   = regexp.MustCompile(`[\w/]*\w+_test\.go`)
	script     = regexp.MustCompile(`[\w/]*\w+\.txt`)
	subtest    = regexp.MustCompile(`/(\d[\w.-]*)`)
	rfcNumber  = regexp.MustCompile(`\b\d{4}\b`)
	ofRFC      = regexp.MustCompile(`^ \d{4}, `)
	ruleOfFile = regexp.MustCompile(`\{"(?:\d|abstract)[^"]*", "[^("]`)
)

// below is where a name in docs/RFC.md is, below internal: one without a
// directory in dir.
func below(name, dir string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return dir + "/" + name
}

func TestRFCDocumentNamesWhatIsThere(t *testing.T) {
	document, sources := rfcDocument(t), testSources(t)
	everything := ""
	for _, s := range sources {
		everything += s
	}
	for _, name := range testFunc.FindAllString(document, -1) {
		if !strings.Contains(everything, "func "+name+"(") {
			t.Errorf("there is no %s", name)
		}
	}
	for _, name := range testFile.FindAllString(document, -1) {
		if _, ok := sources[below(name, "tcp")]; !ok {
			t.Errorf("there is no %s", name)
		}
	}
	for _, name := range script.FindAllString(document, -1) {
		path := below(strings.TrimPrefix(name, "scripts/"), "tcp/testdata/scripts")
		if _, err := os.Stat(filepath.Join(root, "internal", path)); err != nil {
			t.Errorf("there is no %s", name)
		}
	}
	for _, r := range rows(document) {
		for _, m := range subtest.FindAllStringSubmatch(r.tests, -1) {
			if !strings.Contains(everything, `{"`+m[1]+`", "`) {
				t.Errorf("there is no subtest %s", m[0])
			}
		}
	}
}

// quotes reports that a test quotes an RFC: one of its own, a rule of another's
// test, or a comment.
func quotes(source, rfc string) bool {
	return strings.Contains(source, "func TestRFC"+rfc) || strings.Contains(source, "of RFC "+rfc+`", "`) ||
		regexp.MustCompile(`RFC `+rfc+`, section [\d.]+: "`).MatchString(source)
}

func TestRFCDocumentRowsAreTested(t *testing.T) {
	sources := testSources(t)
	all := rows(rfcDocument(t))
	if len(all) < 100 {
		t.Fatalf("only %d rows found", len(all))
	}
	for _, r := range all {
		if strings.Contains(r.whole, "not done") {
			continue
		}
		if r.tests == "" || r.tests == "-" {
			t.Errorf("no test: %s", r.whole)
		}
		if !ofRFC.MatchString(r.rfcs) {
			continue // Linux's, or a bound of our own
		}
		rfcs, quoted := rfcNumber.FindAllString(r.rfcs, -1), false
		for _, s := range sources {
			for _, rfc := range rfcs {
				quoted = quoted || quotes(s, rfc)
			}
		}
		if !quoted {
			t.Errorf("no test quotes RFC %v: %s", rfcs, r.whole)
		}
	}
}

// TestRFCTestsQuote: what a test of an RFC says it is by has a section, and is
// the RFC's wording unless docs/RFC.md says that it could not be compared.
func TestRFCTestsQuote(t *testing.T) {
	_, excused, ok := strings.Cut(rfcDocument(t), "\n## Not compared")
	if !ok {
		t.Fatal("docs/RFC.md does not say what was not compared")
	}
	n := 0
	for path, source := range testSources(t) {
		rfc := regexp.MustCompile(`^tcp/rfc(\d*)\w*_test\.go$`).FindStringSubmatch(path)
		if rfc == nil {
			continue
		}
		n++
		if !ruleOfFile.MatchString(source) && (rfc[1] == "" || !strings.Contains(excused, "| "+rfc[1]+" ")) {
			t.Errorf("%s quotes no sentence of a section", path)
		}
	}
	if n < 20 {
		t.Errorf("only %d test files of RFCs found", n)
	}
}
