package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// Bounds of one condition.
const (
	maxSource = 4096 // characters
	maxDepth  = 64
	// maxCost is in CEL's units of work, of which a comparison of numbers is
	// one and reading a text of ten characters another.
	maxCost = 20000
	// maxText bounds the facts that are texts: PATH_MAX of Linux.
	maxText = 4096
)

// A Condition is an expression over Facts that has been checked.
type Condition struct {
	source  string
	checked *ast.AST
	program cel.Program
	traced  cel.Program // notes the value of every part
	reads   map[string]bool
}

// environment is what conditions are written in. Macros would bring loops, and
// there is nothing to loop over.
func environment() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.ClearMacros(), cel.CrossTypeNumericComparisons(true),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals()),
		cel.ParserExpressionSizeLimit(maxSource), cel.ParserRecursionLimit(maxDepth),
		cel.Function("within", cel.MemberOverload("end_within", []*cel.Type{endType, cel.StringType}, cel.BoolType, cel.BinaryBinding(within))),
	}
	for _, f := range AllFacts {
		options = append(options, cel.Variable(f.Name, f.Type))
	}
	return cel.NewEnv(options...)
}

// sizes tells how long texts can be.
type sizes struct{}

// EstimateCallCost leaves the cost of calls to CEL.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// EstimateSize bounds the facts.
func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if len(n.Path()) == 0 {
		return nil
	}
	return &cost.SizeEstimate{Min: 0, Max: maxText}
}

// A flaw is something wrong in a condition, at a place in it; lines count from
// 1, columns from 0.
type flaw struct {
	line, column int
	message      string
}

// compile checks a condition and makes it ready to be evaluated.
func compile(env *cel.Env, source string) (*Condition, []flaw) {
	if len(source) > maxSource {
		return nil, []flaw{{1, 0, fmt.Sprintf("the condition is longer than %d characters", maxSource)}}
	}
	checked, issues := env.Compile(source)
	if issues.Err() != nil {
		return nil, flawsOf(issues)
	}
	c := &Condition{source: source, checked: checked.NativeRep(), reads: make(map[string]bool)}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, []flaw{{1, 0, fmt.Sprintf("the condition is of type %v and must be true or false", t)}}
	}
	if estimate, err := env.EstimateCost(checked, sizes{}); err != nil || estimate.Max > maxCost {
		return nil, []flaw{{1, 0, fmt.Sprintf("the condition may take %d units of work; %d are allowed", estimate.Max, maxCost)}}
	}
	if flaws := c.literals(); len(flaws) > 0 {
		return nil, flaws
	}
	var err error
	if c.program, err = env.Program(checked); err == nil {
		c.traced, err = env.Program(checked, cel.EvalOptions(cel.OptExhaustiveEval))
	}
	if err != nil {
		return nil, []flaw{{1, 0, err.Error()}}
	}
	return c, nil
}

func flawsOf(issues *cel.Issues) (all []flaw) {
	for _, e := range issues.Errors() {
		message := strings.TrimSuffix(e.Message, " (in container '')")
		if strings.HasPrefix(message, "undeclared reference") || strings.HasPrefix(message, "type 'end'") {
			message += "; the facts are " + strings.Join(names(), ", ")
		}
		if strings.HasPrefix(message, "Syntax error: token recognition error at: '=") {
			message += "; to compare is =="
		}
		line, column := 1, 0
		if e.Location != nil {
			line, column = max(1, e.Location.Line()), max(0, e.Location.Column())
		}
		all = append(all, flaw{line, column, message})
	}
	return all
}

func names() (all []string) {
	for _, f := range AllFacts {
		all = append(all, f.Name)
	}
	return all
}

// literals checks what CEL takes for any text, and notes the facts read.
func (c *Condition) literals() (flaws []flaw) {
	report := func(e ast.Expr, err error) {
		if err != nil {
			at := c.checked.SourceInfo().GetStartLocation(e.ID())
			flaws = append(flaws, flaw{at.Line(), at.Column(), err.Error()})
		}
	}
	ast.PostOrderVisit(c.checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if name := c.fact(e); name != "" {
			c.reads[name] = true
		}
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		switch call.FunctionName() {
		case "within":
			text, ok := literal(call.Args()[0])
			if !ok {
				report(call.Args()[0], fmt.Errorf("within wants a prefix in quotes"))
				return
			}
			_, err := parsePrefix(text)
			report(call.Args()[0], err)
		case operators.Equals, operators.NotEquals, operators.In,
			operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
			c.compared(call.Args(), report)
		case "startsWith":
			if text, ok := literal(call.Args()[0]); ok && call.IsMemberFunction() {
				report(call.Args()[0], noPath(c.fact(call.Target()), text))
			}
		}
	}))
	return flaws
}

// compared checks what a fact is compared with.
func (c *Condition) compared(args []ast.Expr, report func(ast.Expr, error)) {
	for i, a := range args {
		name, other := c.fact(a), args[1-i]
		elements := []ast.Expr{other}
		if other.Kind() == ast.ListKind {
			elements = other.AsList().Elements()
		}
		for _, e := range elements {
			if text, ok := literal(e); ok {
				report(e, mismatch(name, text))
			} else {
				report(e, tooMuch(name, e))
			}
		}
	}
}

// mismatch says why a fact can never be equal to a text.
func mismatch(name, text string) error {
	switch name {
	case "local.addr", "remote.addr":
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("%q is no address; for prefixes there is %s", text, strings.TrimSuffix(name, ".addr")+".within(PREFIX)")
		}
		if plain := a.Unmap().WithZone(""); plain.String() != text {
			return fmt.Errorf("%q is never the form of an address here; write %q", text, plain)
		}
	case "place":
		if !slices.Contains([]string{InKernel, OnDevice}, text) {
			return fmt.Errorf("%q is no place; there are %s and %s", text, InKernel, OnDevice)
		}
	case "cgroup", "executable":
		return noPath(name, text)
	case "process", "congestion", "interface":
		if len(text) > 15 {
			return fmt.Errorf("%q is longer than the 15 octets that the kernel keeps of such a name", text)
		}
	}
	return nil
}

// noPath says that a path has to begin at the root. One that is not known is
// empty.
func noPath(name, text string) error {
	if (name == "cgroup" || name == "executable") && text != "" && text[0] != '/' {
		return fmt.Errorf("%q does not begin with a slash, as every %s does", text, name)
	}
	return nil
}

// most are the greatest values that facts can have.
var most = map[string]float64{"local.port": 65535, "remote.port": 65535, "dscp": 63, "retransmissions": 1, "small_io": 1}

// tooMuch says that a number is beyond all values of a fact.
func tooMuch(name string, e ast.Expr) error {
	limit, ok := most[name]
	if !ok || e.Kind() != ast.LiteralKind {
		return nil
	}
	n := 0.0
	switch v := e.AsLiteral().(type) {
	case types.Int:
		n = float64(v)
	case types.Double:
		n = float64(v)
	}
	if n > limit {
		return fmt.Errorf("%s is never above %v", name, limit)
	}
	return nil
}

// fact is the name of the fact that an expression is, "" for none.
func (c *Condition) fact(e ast.Expr) string {
	if r := c.checked.ReferenceMap()[e.ID()]; r != nil && factsByName[r.Name] != nil {
		return r.Name
	}
	return ""
}

// literal is the text that an expression is.
func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	text, ok := e.AsLiteral().(types.String)
	return string(text), ok
}

// Holds evaluates a condition. One that cannot be, since it divides by zero
// say, does not hold.
func (c *Condition) Holds(f *Facts) bool {
	if c == nil {
		return true
	}
	v, _, err := c.program.Eval(activation{f})
	return err == nil && v == types.True
}

// String is the condition as it was written.
func (c *Condition) String() string {
	if c == nil {
		return "true"
	}
	return strings.TrimSpace(c.source)
}
