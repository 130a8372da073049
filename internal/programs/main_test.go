// Package programs drives real programs of different styles over real kernel
// connections, which move to the device and back meanwhile. A program is a
// process of its own and knows nothing of it: this test binary, started again
// with "program STYLE" and calling the kernel as the style says, or Python.
package programs

import (
	"fmt"
	"os"
	"testing"

	"toehold/internal/rig"
)

// programName is the first argument that makes this binary a program.
const programName = "program"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == programName {
		if err := runProgram(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "program", os.Args[2]+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	rig.Become()
	os.Exit(m.Run())
}
