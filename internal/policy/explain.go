package policy

import (
	"fmt"
	"strconv"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/parser"
)

// A Part is a part of a condition and what it came to.
type Part struct {
	Depth int    `json:"depth"` // 0 is the whole condition
	Text  string `json:"text"`
	Value string `json:"value"` // "" for what could not be evaluated
	Error string `json:"error,omitempty"`
}

// A Ruling is what one rule came to for one connection.
type Ruling struct {
	Rule   string `json:"rule"`
	Action string `json:"action"`
	Line   int    `json:"line"`
	Holds  bool   `json:"holds"`
	Parts  []Part `json:"parts"`
}

// Explain evaluates the rules up to the first that matches, with every part
// of their conditions, and returns the number of that rule, -1 for none.
func (p *Policy) Explain(f *Facts) ([]Ruling, int) {
	var all []Ruling
	for i := range p.Rules {
		r := &p.Rules[i]
		ruling := Ruling{Rule: r.Name, Action: r.Action.String(), Line: r.Line, Holds: r.Condition.Holds(f), Parts: r.Condition.parts(f)}
		all = append(all, ruling)
		if ruling.Holds {
			return all, i
		}
	}
	return all, -1
}

// parts evaluates a condition and all of its parts, none left out because
// another has settled the matter.
func (c *Condition) parts(f *Facts) []Part {
	if c == nil {
		return []Part{{Text: "true", Value: "true"}}
	}
	_, details, err := c.traced.Eval(activation{f})
	var parts []Part
	c.walk(c.checked.Expr(), 0, func(e ast.Expr, depth int) {
		parts = append(parts, c.part(e, depth, details))
	})
	if len(parts) > 0 && err != nil && parts[0].Error == "" {
		parts[0].Error = err.Error()
	}
	return parts
}

func (c *Condition) part(e ast.Expr, depth int, details *cel.EvalDetails) Part {
	text, err := parser.Unparse(e, c.checked.SourceInfo(), parser.WrapOnColumn(2*maxSource))
	if err != nil {
		text = "?"
	}
	part := Part{Depth: depth, Text: text}
	if details == nil {
		return part
	}
	switch v, ok := details.State().Value(e.ID()); {
	case !ok:
	case types.IsError(v):
		part.Error = fmt.Sprint(v)
	default:
		part.Value = show(v)
	}
	return part
}

// walk visits what has a value worth showing: calls, and facts that are not
// alone in what they are part of.
func (c *Condition) walk(e ast.Expr, depth int, visit func(ast.Expr, int)) {
	switch {
	case c.fact(e) != "" || e.Kind() == ast.LiteralKind && depth == 0:
		visit(e, depth)
	case e.Kind() == ast.ListKind:
		for _, element := range e.AsList().Elements() {
			c.walk(element, depth, visit)
		}
	case e.Kind() == ast.CallKind:
		if !constant(e) || depth == 0 {
			visit(e, depth)
		}
		c.walkCall(e, depth, visit)
	}
}

func (c *Condition) walkCall(e ast.Expr, depth int, visit func(ast.Expr, int)) {
	call := e.AsCall()
	if call.IsMemberFunction() && call.FunctionName() != "within" {
		c.walk(call.Target(), depth+1, visit)
	} else if call.FunctionName() == "within" {
		visit(call.Target(), depth+1)
	}
	for _, a := range call.Args() {
		if same(call.FunctionName(), a) {
			c.walkCall(a, depth, visit) // a && b && c is one list of three
		} else {
			c.walk(a, depth+1, visit)
		}
	}
}

// same says that an operand is of the same && or || as its whole, and so not
// a part of its own.
func same(function string, operand ast.Expr) bool {
	return (function == operators.LogicalAnd || function == operators.LogicalOr) &&
		operand.Kind() == ast.CallKind && operand.AsCall().FunctionName() == function
}

// constant says that an expression reads no fact.
func constant(e ast.Expr) bool {
	reads := false
	ast.PostOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		reads = reads || e.Kind() == ast.IdentKind || e.Kind() == ast.SelectKind
	}))
	return !reads
}

// show is a value for a person.
func show(v ref.Val) string {
	switch v := v.(type) {
	case types.String:
		return strconv.Quote(string(v))
	case types.Duration:
		return v.Duration.String()
	case end:
		return v.addr.String()
	}
	return fmt.Sprint(v.Value())
}
