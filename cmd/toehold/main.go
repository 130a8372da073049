// Command toehold is TCP offload for live connections of unmodified programs.
package main

import (
	"os"

	"toehold/internal/cli"
)

func main() { os.Exit(cli.Main()) }
