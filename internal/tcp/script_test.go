package tcp_test

import (
	"testing"

	"github.com/cockroachdb/datadriven"

	"toehold/internal/tcptest"
)

// TestScripts runs testdata/*.txt. With -rewrite it writes what happens into
// them; change a line only if you can say why.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := tcptest.NewScript()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			args := tcptest.Args{}
			for _, a := range d.CmdArgs {
				args[a.Key] = ""
				if len(a.Vals) > 0 {
					args[a.Key] = a.Vals[0]
				}
			}
			said, err := s.Do(d.Cmd, args)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			return said
		})
	})
}
