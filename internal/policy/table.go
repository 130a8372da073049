package policy

import (
	"bytes"

	"toehold/internal/abi"
)

// Judge says what a table comes to for a connection that has just been
// established. It is the twin of the BPF program that does so in the kernel.
// The rule is abi.RuleNone when no alternative holds for certain.
func Judge(t *abi.PolicyTable, f *abi.PolicyFacts) (abi.Verdict, uint16) {
	failed, unsure := false, false
	for i := range t.Terms[:min(t.Count, abi.MaxPolicyTerms)] {
		term := &t.Terms[i]
		holds, known := judgeTerm(term, f)
		failed, unsure = failed || known && !holds, unsure || !known
		switch {
		case term.Verdict == 0:
			continue
		case failed:
			failed, unsure = false, false
		case unsure:
			return abi.VerdictLater, abi.RuleNone
		default:
			return term.Verdict, term.Rule
		}
	}
	return abi.VerdictLater, abi.RuleNone
}

func judgeTerm(term *abi.PolicyTerm, f *abi.PolicyFacts) (holds, known bool) {
	if term.Field >= abi.PolicyFields || f.Known&(1<<term.Field) == 0 {
		return false, false
	}
	fact := f.Fact[term.Field][:]
	inside := bytes.Compare(term.Low[:], fact) <= 0 && bytes.Compare(fact, term.High[:]) <= 0
	return inside == (term.Flags&abi.TermNot == 0), true
}
