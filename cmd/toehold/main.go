// Command toehold is TCP offload for live connections of unmodified programs.
package main

import (
	"os"

	"toehold/internal/bench"
	"toehold/internal/cli"
	"toehold/internal/demo"
)

func main() {
	os.Exit(cli.Main(demo.Command, bench.Command))
}
