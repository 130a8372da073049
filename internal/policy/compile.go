package policy

import (
	"encoding/binary"
	"math"
	"net/netip"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"toehold/internal/abi"
)

// Names finds the numbers by which the kernel knows what conditions name. What
// it does not find is left to the driver.
type Names struct {
	Interface func(name string) (index uint32, ok bool)
	Cgroup    func(path string) (id uint64, ok bool)
}

// Bounds of one rule's alternatives: beyond them the rule is the driver's.
const (
	maxAlternatives = 64
	maxTerms        = 16
)

// An alternative is terms that must all hold; unsure stands for more of them
// that only the driver can judge.
type alternative struct {
	terms  []abi.PolicyTerm
	unsure bool
}

// A compiler turns conditions into alternatives.
type compiler struct {
	names     Names
	condition *Condition
}

// Table is what of the policy the kernel can judge when a connection is
// established: in the order of the rules, their alternatives with the verdict
// of each. One that is not certain sends the connection to the driver.
func (p *Policy) Table(names Names, serial uint64) *abi.PolicyTable {
	t := &abi.PolicyTable{Serial: serial}
	for i := range p.Rules {
		r := &p.Rules[i]
		sure, unsure := split(compiler{names, r.Condition}.rule())
		for _, a := range sure {
			if !add(t, a.terms, verdict(r), uint16(i)) {
				return t
			}
		}
		for _, a := range unsure {
			if !add(t, a.terms, abi.VerdictLater, abi.RuleNone) {
				return t
			}
		}
	}
	return t
}

func verdict(r *Rule) abi.Verdict {
	switch {
	case r.Action == Never:
		return abi.VerdictNever
	case r.Action == Offload && r.For == 0:
		return abi.VerdictNow
	}
	return abi.VerdictLater
}

func split(all []alternative) (sure, unsure []alternative) {
	for _, a := range all {
		if a.unsure {
			unsure = append(unsure, a)
		} else {
			sure = append(sure, a)
		}
	}
	return sure, unsure
}

// add appends an alternative; false when nothing that follows matters: it
// always holds, or there is no more room and the driver has the rest.
func add(t *abi.PolicyTable, terms []abi.PolicyTerm, v abi.Verdict, rule uint16) bool {
	if len(terms) == 0 {
		terms = []abi.PolicyTerm{{Field: abi.FieldAlways}}
	}
	always := len(terms) == 1 && terms[0].Field == abi.FieldAlways && terms[0].Flags == 0
	// One place is kept: without it an alternative that did not fit would be
	// passed over, and a later rule decide in its place.
	if int(t.Count)+len(terms) > abi.MaxPolicyTerms-1 {
		t.Terms[t.Count] = abi.PolicyTerm{Verdict: abi.VerdictLater, Rule: abi.RuleNone}
		t.Count++
		return false
	}
	for i, term := range terms {
		term.Verdict, term.Rule = 0, 0
		if i == len(terms)-1 {
			term.Verdict, term.Rule = v, rule
		}
		t.Terms[t.Count] = term
		t.Count++
	}
	return !always
}

// Formulas are lists of alternatives: none is false, an empty one is true.
var (
	never    = []alternative(nil)
	always   = []alternative{{}}
	driver   = []alternative{{unsure: true}}
	tooMany  = driver
	formulas = map[bool][]alternative{false: never, true: always}
)

func (c compiler) rule() []alternative {
	if c.condition == nil {
		return always
	}
	return c.formula(c.condition.checked.Expr(), false)
}

// formula is an expression, or its negation, as alternatives.
func (c compiler) formula(e ast.Expr, not bool) []alternative {
	if e.Kind() == ast.LiteralKind {
		if b, ok := e.AsLiteral().(types.Bool); ok {
			return formulas[bool(b) != not]
		}
	}
	if e.Kind() != ast.CallKind {
		return driver
	}
	call := e.AsCall()
	switch f, args := call.FunctionName(), call.Args(); f {
	case operators.LogicalNot:
		return c.formula(args[0], !not)
	case operators.LogicalAnd, operators.LogicalOr:
		return c.join(args, (f == operators.LogicalAnd) != not, not)
	case operators.In:
		return c.in(args[0], args[1], not)
	case operators.NotEquals:
		return c.compare(operators.Equals, args[0], args[1], !not)
	case operators.Equals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		return c.compare(f, args[0], args[1], not)
	case "within":
		return c.within(call, not)
	case "startsWith":
		return c.startsWith(call, not)
	}
	return driver
}

func (c compiler) join(args []ast.Expr, and, not bool) []alternative {
	all := formulas[and]
	for _, a := range args {
		if and {
			all = both(all, c.formula(a, not))
		} else {
			all = either(all, c.formula(a, not))
		}
	}
	return all
}

func either(a, b []alternative) []alternative {
	if len(a)+len(b) > maxAlternatives {
		return tooMany
	}
	return append(append([]alternative(nil), a...), b...)
}

func both(a, b []alternative) []alternative {
	if len(a)*len(b) > maxAlternatives {
		return tooMany
	}
	var all []alternative
	for _, x := range a {
		for _, y := range b {
			z := alternative{terms: append(append([]abi.PolicyTerm(nil), x.terms...), y.terms...), unsure: x.unsure || y.unsure}
			if len(z.terms) > maxTerms {
				z.terms, z.unsure = z.terms[:maxTerms], true
			}
			all = append(all, z)
		}
	}
	return all
}

// in is fact in [a, b, c].
func (c compiler) in(e, list ast.Expr, not bool) []alternative {
	if list.Kind() != ast.ListKind {
		return driver
	}
	all := formulas[not]
	for _, element := range list.AsList().Elements() {
		one := c.compare(operators.Equals, e, element, not)
		if not {
			all = both(all, one)
		} else {
			all = either(all, one)
		}
	}
	return all
}

// mirrored are the comparisons with their sides exchanged.
var mirrored = map[string]string{
	operators.Equals: operators.Equals, operators.Less: operators.Greater, operators.Greater: operators.Less,
	operators.LessEquals: operators.GreaterEquals, operators.GreaterEquals: operators.LessEquals,
}

// compare is a fact compared with a constant, on either side.
func (c compiler) compare(op string, a, b ast.Expr, not bool) []alternative {
	if a.Kind() == ast.LiteralKind {
		a, b, op = b, a, mirrored[op]
	}
	fact := factsByName[c.condition.fact(a)]
	if fact == nil || fact.field == abi.FieldAlways || b.Kind() != ast.LiteralKind {
		return driver
	}
	switch v := b.AsLiteral().(type) {
	case types.Int:
		return c.number(fact, op, int64(v), not)
	case types.String:
		if op == operators.Equals {
			return c.text(fact, string(v), not)
		}
	}
	return driver
}

// number turns a comparison into a range. Facts are never negative.
func (c compiler) number(fact *Fact, op string, n int64, not bool) []alternative {
	low, high := int64(0), int64(math.MaxInt64)
	switch op {
	case operators.Equals:
		low, high = n, n
	case operators.Less:
		high = max(n, math.MinInt64+1) - 1
	case operators.LessEquals:
		high = n
	case operators.Greater:
		if n == math.MaxInt64 {
			return formulas[not]
		}
		low = n + 1
	case operators.GreaterEquals:
		low = n
	}
	low = max(low, 0)
	if high < low {
		return formulas[not]
	}
	return term(fact.field, numberAt(uint64(low)), numberAt(uint64(high)), not)
}

func numberAt(n uint64) (at [16]byte) {
	binary.BigEndian.PutUint64(at[8:], n)
	return at
}

func term(field abi.PolicyField, low, high [16]byte, not bool) []alternative {
	t := abi.PolicyTerm{Low: low, High: high, Field: field}
	if not {
		t.Flags = abi.TermNot
	}
	return []alternative{{terms: []abi.PolicyTerm{t}}}
}

// text is fact == "text".
func (c compiler) text(fact *Fact, text string, not bool) []alternative {
	var at [16]byte
	switch fact.field {
	case abi.FieldLocalAddr, abi.FieldRemoteAddr:
		a, err := netip.ParseAddr(text)
		if err != nil {
			return driver
		}
		at = a.As16()
	case abi.FieldInterface:
		index, ok := find(c.names.Interface, text)
		if !ok {
			return driver
		}
		at = numberAt(uint64(index))
	case abi.FieldCgroup:
		id, ok := find(c.names.Cgroup, text)
		if !ok {
			return driver
		}
		at = numberAt(id)
	case abi.FieldComm, abi.FieldCongestion:
		if !name(text) {
			return driver
		}
		copy(at[:], text)
	default:
		return driver
	}
	return term(fact.field, at, at, not)
}

func find[N any](f func(string) (N, bool), text string) (n N, ok bool) {
	if f == nil {
		return n, false
	}
	return f(text)
}

// name says that a text can be one of the kernel's names of 15 octets.
func name(text string) bool {
	for i := range len(text) {
		if text[i] == 0 {
			return false
		}
	}
	return len(text) <= 15
}

// within is end.within(prefix).
func (c compiler) within(call ast.CallExpr, not bool) []alternative {
	fact := factsByName[c.condition.fact(call.Target())]
	text, ok := literal(call.Args()[0])
	if fact == nil || !ok {
		return driver
	}
	p, err := parsePrefix(text)
	if err != nil {
		return driver
	}
	low, bits := p.Addr().As16(), p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	high := low
	for i := bits; i < 128; i++ {
		high[i/8] |= 0x80 >> (i % 8)
	}
	inside := term(fact.field, low, high, not)
	// In a table IPv4 lies in a corner of IPv6, which ::/0 does not mean.
	if mapped := netip.AddrFrom16(mappedLow); p.Addr().Is6() && p.Contains(mapped) {
		if outside := term(fact.field, mappedLow, mappedHigh, !not); not {
			return either(inside, outside)
		} else {
			return both(inside, outside)
		}
	}
	return inside
}

// ::ffff:0:0/96
var (
	mappedLow  = netip.MustParseAddr("::ffff:0.0.0.0").As16()
	mappedHigh = netip.MustParseAddr("::ffff:255.255.255.255").As16()
)

// startsWith is name.startsWith(text).
func (c compiler) startsWith(call ast.CallExpr, not bool) []alternative {
	if !call.IsMemberFunction() {
		return driver
	}
	fact := factsByName[c.condition.fact(call.Target())]
	text, ok := literal(call.Args()[0])
	if fact == nil || !ok || fact.field != abi.FieldComm && fact.field != abi.FieldCongestion || !name(text) {
		return driver
	}
	var low, high [16]byte
	for i := range high {
		high[i] = 0xff
	}
	copy(low[:], text)
	copy(high[:], text)
	return term(fact.field, low, high, not)
}
