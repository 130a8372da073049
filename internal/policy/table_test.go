package policy

import (
	"testing"

	"toehold/internal/abi"
)

// A table's alternatives are tried in order, and what is not known leaves the
// decision to the driver.
func TestJudge(t *testing.T) {
	port := func(low, high byte, verdict abi.Verdict, flags uint8) abi.PolicyTerm {
		return abi.PolicyTerm{Low: [16]byte{15: low}, High: [16]byte{15: high}, Field: abi.FieldLocalPort, Verdict: verdict, Rule: uint16(low), Flags: flags}
	}
	uid := func(n byte, verdict abi.Verdict) abi.PolicyTerm {
		return abi.PolicyTerm{Low: [16]byte{15: n}, High: [16]byte{15: n}, Field: abi.FieldUID, Verdict: verdict, Rule: uint16(n)}
	}
	always := abi.PolicyTerm{Verdict: abi.VerdictNow, Rule: 9}
	const none = abi.RuleNone
	for _, tt := range []struct {
		name    string
		terms   []abi.PolicyTerm
		verdict abi.Verdict
		rule    uint16
	}{
		{"empty", nil, abi.VerdictLater, none},
		{"it holds", []abi.PolicyTerm{port(22, 22, abi.VerdictNever, 0)}, abi.VerdictNever, 22},
		{"at the upper end", []abi.PolicyTerm{port(20, 22, abi.VerdictNever, 0)}, abi.VerdictNever, 20},
		{"below", []abi.PolicyTerm{port(23, 30, abi.VerdictNever, 0)}, abi.VerdictLater, none},
		{"not", []abi.PolicyTerm{port(23, 30, abi.VerdictNow, abi.TermNot)}, abi.VerdictNow, 23},
		{"not what it is", []abi.PolicyTerm{port(22, 22, abi.VerdictNow, abi.TermNot)}, abi.VerdictLater, none},
		{"the next one", []abi.PolicyTerm{port(23, 30, abi.VerdictNever, 0), always}, abi.VerdictNow, 9},
		{"all terms must hold", []abi.PolicyTerm{port(23, 30, 0, 0), port(22, 22, abi.VerdictNever, 0), always}, abi.VerdictNow, 9},
		{"not known", []abi.PolicyTerm{uid(7, abi.VerdictNever), always}, abi.VerdictLater, none},
		{"not known, and it cannot matter", []abi.PolicyTerm{uid(7, 0), port(23, 30, abi.VerdictNever, 0), always}, abi.VerdictNow, 9},
		{"not known, the other way round", []abi.PolicyTerm{port(23, 30, 0, 0), uid(7, abi.VerdictNever), always}, abi.VerdictNow, 9},
		{"no such field", []abi.PolicyTerm{{Field: abi.PolicyFields, Verdict: abi.VerdictNever}}, abi.VerdictLater, none},
		{"without an end", []abi.PolicyTerm{port(22, 22, 0, 0)}, abi.VerdictLater, none},
	} {
		var table abi.PolicyTable
		table.Count = uint32(copy(table.Terms[:], tt.terms))
		facts := abi.PolicyFacts{Known: 1<<abi.FieldAlways | 1<<abi.FieldLocalPort}
		facts.Fact[abi.FieldLocalPort][15] = 22
		if verdict, rule := Judge(&table, &facts); verdict != tt.verdict || rule != tt.rule {
			t.Errorf("%s: %v by rule %d, want %v by %d", tt.name, verdict, rule, tt.verdict, tt.rule)
		}
	}
}

// A count beyond the table's end is not believed.
func TestJudgeOfTooMany(t *testing.T) {
	table := abi.PolicyTable{Count: 1 << 31}
	if v, _ := Judge(&table, &abi.PolicyFacts{Known: 1}); v != abi.VerdictLater {
		t.Error(v)
	}
}
