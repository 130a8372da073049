package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestExplain prints what each part of a condition comes to for one
// connection.
func TestExplain(t *testing.T) {
	facts := Facts{
		Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("[fd00::2]:40000"), Process: "nginx", Place: InKernel,
		Rate: 2000, Age: 90 * time.Second, UID: 33, SmallIO: 0.25,
	}
	datadriven.RunTest(t, "testdata/explain.txt", func(t *testing.T, d *datadriven.TestData) string {
		p, err := Parse("p", []byte("rules:\n"+d.Input), Known{})
		if err != nil {
			return err.Error()
		}
		rulings, rule := p.Explain(&facts)
		var b strings.Builder
		for _, r := range rulings {
			fmt.Fprintf(&b, "%s (%s) %v\n", r.Rule, r.Action, r.Holds)
			for _, part := range r.Parts {
				fmt.Fprintf(&b, "  %s%s = %s%s\n", strings.Repeat("  ", part.Depth), part.Text, part.Value, part.Error)
			}
		}
		return b.String() + "decided by " + p.RuleName(rule) + "\n"
	})
}
