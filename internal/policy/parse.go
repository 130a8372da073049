package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a file.
const (
	MaxFile  = 1 << 20 // octets
	maxRules = 1000
	maxName  = 64
	maxNest  = 8 // collections in one another; a policy needs three
)

// A Problem is one thing that is wrong in a file. Lines and columns count from
// 1.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
}

// String is "file:line:column: message".
func (p Problem) String() string {
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// Problems are all that is wrong in a file, in its order.
type Problems []Problem

// Error has a line for each.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Known is what a file's names are checked against; an empty list takes any.
type Known struct {
	Devices    []string
	Congestion []string // controls that the device has
}

// Parse reads a file. The error is Problems, all of them, and then there is no
// Policy.
func Parse(name string, source []byte, known Known) (*Policy, error) {
	r := &reader{name: name, lines: strings.Split(string(source), "\n"), known: known}
	p := &Policy{Name: name, Source: string(source), Limits: defaultLimits}
	if body := r.body(source); body != nil {
		r.policy(p, body)
	}
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int {
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Column - b.Column
		})
		return nil, r.problems
	}
	return p, nil
}

// A reader goes through a file and notes what is wrong in it.
type reader struct {
	name     string
	lines    []string
	known    Known
	env      *cel.Env
	problems Problems
}

func (r *reader) at(line, column int, format string, args ...any) {
	r.problems = append(r.problems, Problem{r.name, max(1, line), max(1, column), fmt.Sprintf(format, args...)})
}

func (r *reader) wrong(t *token.Token, format string, args ...any) {
	line, column := 1, 1
	if t != nil && t.Position != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	r.at(line, column, format, args...)
}

// body is the mapping that a file consists of, nil when it is none.
func (r *reader) body(source []byte) ast.Node {
	if len(source) > MaxFile {
		r.at(1, 1, "the file is larger than %d octets", MaxFile)
		return nil
	}
	tokens := lexer.Tokenize(string(source))
	if t := nested(tokens); t != nil {
		r.wrong(t, "more than %d lists and mappings in one another", maxNest)
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	var syntax yaml.Error
	switch {
	case errors.As(err, &syntax):
		r.wrong(syntax.GetToken(), "%s", syntax.GetMessage())
		return nil
	case err != nil:
		r.at(1, 1, "%v", err)
		return nil
	case len(file.Docs) > 1:
		r.wrong(file.Docs[1].Start, "a second document; a file has one policy")
		return nil
	case len(file.Docs) == 0 || file.Docs[0].Body == nil:
		r.at(1, 1, "the file is empty; a policy has rules, and may have limits and a default")
		return nil
	}
	return file.Docs[0].Body
}

// nested is where more collections are in one another than a policy has; the
// time that the parser takes grows by the square of that. Those of block style
// have a line each, or stand one after the other in one line.
func nested(tokens token.Tokens) *token.Token {
	depth, line, entries := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth = max(0, depth-1)
		case token.SequenceEntryType, token.MappingKeyType:
			if t.Position.Line != line {
				line, entries = t.Position.Line, 0
			}
			entries++
		}
		if depth > maxNest || entries > maxNest {
			return t
		}
	}
	return nil
}

// A key is one that a mapping may have, with what reads its value.
type key struct {
	name     string
	required bool
	read     func(ast.Node)
}

// mapping reads a mapping with these keys and no others.
func (r *reader) mapping(n ast.Node, what string, keys ...key) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		r.wrong(n.GetToken(), "%s is %s and must be a mapping with %s", what, kind(n), keyNames(keys))
		return
	}
	given := make(map[string]int)
	for _, v := range m.Values {
		t := v.Key.GetToken()
		i := slices.IndexFunc(keys, func(k key) bool { return k.name == t.Value })
		switch line := given[t.Value]; {
		case i < 0:
			r.wrong(t, "%s has no key %q; there are %s", what, t.Value, keyNames(keys))
		case line != 0:
			r.wrong(t, "%s has %s twice; the first is on line %d", what, t.Value, line)
		default:
			given[t.Value] = t.Position.Line
			keys[i].read(v.Value)
		}
	}
	for _, k := range keys {
		if k.required && given[k.name] == 0 {
			r.wrong(startOf(m), "%s has no %s", what, k.name)
		}
	}
}

// startOf is where a mapping begins: its own token is its first colon.
func startOf(m *ast.MappingNode) *token.Token {
	if len(m.Values) > 0 && !m.IsFlowStyle {
		return m.Values[0].Key.GetToken()
	}
	return m.GetToken()
}

func keyNames(keys []key) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	return strings.Join(names, ", ")
}

// kind says what a node is, for a person.
func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return "true or false"
	case *ast.NullNode:
		return "empty"
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		return "an anchor, alias or tag, which are not used here,"
	}
	return "of another kind"
}

func (r *reader) policy(p *Policy, body ast.Node) {
	r.mapping(body, "the policy",
		key{"limits", false, func(n ast.Node) { r.limits(&p.Limits, n) }},
		key{"rules", true, func(n ast.Node) { r.rules(p, n) }},
		key{"default", false, func(n ast.Node) {
			p.Default = r.action(n, "the default", Leave, Upload)
		}})
}

func (r *reader) limits(l *Limits, n ast.Node) {
	r.mapping(n, "limits",
		key{"moves_per_second", false, func(n ast.Node) { l.MovesPerSecond = r.number(n, "moves_per_second", 1, 100000) }},
		key{"min_stay", false, func(n ast.Node) { l.MinStay = r.duration(n, "min_stay", 0) }},
		key{"retry_after", false, func(n ast.Node) { l.RetryAfter = r.duration(n, "retry_after", time.Second) }})
}

func (r *reader) rules(p *Policy, n ast.Node) {
	list, ok := n.(*ast.SequenceNode)
	switch {
	case !ok:
		r.wrong(n.GetToken(), "rules is %s and must be a list of rules", kind(n))
		return
	case len(list.Values) > maxRules:
		r.wrong(list.Values[maxRules].GetToken(), "more than %d rules", maxRules)
		return
	}
	lines := make(map[string]int)
	for _, v := range list.Values {
		rule, name := r.rule(v)
		if first := lines[rule.Name]; rule.Name != "" && first != 0 {
			r.wrong(name, "a second rule %q; the first is on line %d", rule.Name, first)
		} else if rule.Name != "" {
			lines[rule.Name] = rule.Line
		}
		p.Rules = append(p.Rules, rule)
	}
}

// rule also returns where the name stands.
func (r *reader) rule(n ast.Node) (rule Rule, name *token.Token) {
	var given struct{ hold, others *token.Token }
	offloads := func(read func(ast.Node)) func(ast.Node) {
		return func(n ast.Node) {
			if given.others == nil {
				given.others = n.GetToken()
			}
			read(n)
		}
	}
	r.mapping(n, "a rule",
		key{"name", true, func(n ast.Node) {
			name, rule.Line = n.GetToken(), n.GetToken().Position.Line
			rule.Name = r.ruleName(n)
		}},
		key{"when", false, func(n ast.Node) { rule.Condition = r.condition(n) }},
		key{"action", true, func(n ast.Node) { rule.Action = r.action(n, "the action", Offload, Upload, Never, Leave) }},
		key{"for", false, func(n ast.Node) { given.hold = n.GetToken(); rule.For = r.duration(n, "for", 0) }},
		key{"attachment", false, offloads(func(n ast.Node) { rule.Attachment = r.oneOf(n, "attachment", []string{Shadow, Bypass}) })},
		key{"priority", false, offloads(func(n ast.Node) { rule.Priority = r.number(n, "priority", -1000, 1000) })},
		key{"device", false, offloads(func(n ast.Node) { rule.Device = r.oneOf(n, "device", r.known.Devices) })},
		key{"congestion_control", false, offloads(func(n ast.Node) {
			rule.Congestion = r.oneOf(n, "congestion_control", r.known.Congestion)
		})},
		key{"quota", false, offloads(func(n ast.Node) { rule.Quota = r.number(n, "quota", 1, 1<<30) })})
	if rule.Action != Offload && given.others != nil {
		r.wrong(given.others, "attachment, priority, device, congestion_control and quota are for the action offload, not for %s", rule.Action)
	}
	if (rule.Action == Never || rule.Action == Leave) && given.hold != nil {
		r.wrong(given.hold, "for is for the actions offload and upload, not for %s", rule.Action)
	}
	return rule, name
}

func (r *reader) ruleName(n ast.Node) string {
	name, ok := r.text(n, "the name")
	good := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c)
	}
	switch {
	case !ok:
		return ""
	case name == "" || len(name) > maxName || strings.ContainsFunc(name, func(c rune) bool { return !good(c) }):
		r.wrong(n.GetToken(), "%q is no name: 1 to %d of the letters, digits, hyphens, underscores and dots of ASCII", name, maxName)
		return ""
	case name == "default":
		r.wrong(n.GetToken(), `"default" is the name of what holds when no rule matches`)
		return ""
	}
	return name
}

func (r *reader) text(n ast.Node, what string) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimSpace(n.Value.Value), true
	}
	r.wrong(n.GetToken(), "%s is %s and must be a text", what, kind(n))
	return "", false
}

func (r *reader) oneOf(n ast.Node, what string, allowed []string) string {
	text, ok := r.text(n, what)
	if ok && (text == "" || len(allowed) > 0 && !slices.Contains(allowed, text)) {
		r.wrong(n.GetToken(), "%s %q is not known; there are: %s", what, text, strings.Join(allowed, ", "))
	}
	return text
}

func (r *reader) action(n ast.Node, what string, allowed ...Action) Action {
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = a.String()
	}
	text, ok := r.text(n, what)
	if !ok {
		return Leave
	}
	i := slices.Index(names, text)
	if i < 0 {
		r.wrong(n.GetToken(), "%s %q is none of %s", what, text, strings.Join(names, ", "))
		return Leave
	}
	return allowed[i]
}

func (r *reader) number(n ast.Node, what string, low, high int) int {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		r.wrong(n.GetToken(), "%s is %s and must be a whole number from %d to %d", what, kind(n), low, high)
		return low
	}
	value, ok := i.Value.(uint64)
	signed := int64(value)
	if !ok {
		signed, ok = i.Value.(int64)
	}
	if !ok || value > 1<<62 || signed < int64(low) || signed > int64(high) {
		r.wrong(n.GetToken(), "%s %s is not from %d to %d", what, n.GetToken().Value, low, high)
		return low
	}
	return int(signed)
}

const longest = 365 * 24 * time.Hour

func (r *reader) duration(n ast.Node, what string, least time.Duration) time.Duration {
	s, ok := n.(*ast.StringNode)
	if !ok {
		r.wrong(n.GetToken(), "%s is %s and must be a duration with its unit, such as 500ms, 10s or 1h30m", what, kind(n))
		return least
	}
	d, err := time.ParseDuration(s.Value)
	switch {
	case err != nil:
		r.wrong(n.GetToken(), "%s %q is no duration such as 500ms, 10s or 1h30m", what, s.Value)
		return least
	case d < least || d > longest:
		r.wrong(n.GetToken(), "%s %s is not from %v to %v", what, s.Value, least, longest)
		return least
	}
	return d
}

// condition compiles an expression, and says where in the file its flaws are.
func (r *reader) condition(n ast.Node) *Condition {
	source, place, ok := r.expression(n)
	if !ok {
		return nil
	}
	if r.env == nil {
		env, err := environment()
		if err != nil {
			r.wrong(n.GetToken(), "conditions cannot be read: %v", err)
			return nil
		}
		r.env = env
	}
	c, flaws := compile(r.env, source)
	for _, f := range flaws {
		line, column := place(f)
		r.at(line, column, "%s", f.message)
	}
	return c
}

// expression is the text of a condition, with where in the file a flaw in it
// is.
func (r *reader) expression(n ast.Node) (source string, place func(flaw) (line, column int), ok bool) {
	first := n.GetToken().Position
	inLine := func(f flaw) (int, int) { return first.Line, first.Column + f.column }
	inBlock := func(f flaw) (int, int) { return first.Line + f.line, r.indent(first.Line+1) + 1 + f.column }
	const asBlock = "a condition of several lines is written as a block: when: |"
	switch n := n.(type) {
	case *ast.BoolNode:
		return n.GetToken().Value, inLine, true
	case *ast.LiteralNode:
		if strings.HasPrefix(n.Start.Value, ">") {
			r.wrong(n.Start, asBlock)
			return "", nil, false
		}
		return n.Value.Value, inBlock, true
	case *ast.StringNode:
		if strings.Contains(strings.TrimSpace(n.Token.Origin), "\n") {
			r.wrong(n.Token, asBlock)
			return "", nil, false
		}
		if quoted := n.Token.Type == token.DoubleQuoteType || n.Token.Type == token.SingleQuoteType; quoted {
			inLine = func(f flaw) (int, int) { return first.Line, first.Column + 1 + f.column }
		}
		return n.Value, inLine, true
	}
	r.wrong(n.GetToken(), "when is %s and must be a condition", kind(n))
	return "", nil, false
}

// indent is the number of spaces that the first line with anything on it, from
// this one on, begins with.
func (r *reader) indent(line int) int {
	for i := line - 1; i < len(r.lines); i++ {
		if text := strings.TrimLeft(r.lines[i], " "); strings.TrimSpace(text) != "" {
			return len(r.lines[i]) - len(text)
		}
	}
	return 0
}
