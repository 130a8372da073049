package cli

import (
	"net/url"

	"github.com/spf13/cobra"

	"toehold/internal/driver"
)

// A selection is the flags by which a command names connections.
type selection struct{ cmd *cobra.Command }

var selectorFlags = [...]struct{ name, help string }{
	{"id", "hardware id, INDEX-GENERATION"},
	{"pid", "id of the process that holds it"},
	{"local", "this host's ADDR[:PORT], [V6]:PORT or :PORT"},
	{"remote", "the peer's ADDR[:PORT], [V6]:PORT or :PORT"},
	{"state", "where it is: kernel or device"},
}

func addSelector(cmd *cobra.Command) selection {
	cmd.Flags().Bool("all", false, "every connection")
	for _, f := range selectorFlags {
		cmd.Flags().String(f.name, "", f.help)
	}
	cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{driver.InKernel, driver.OnDevice}, cobra.ShellCompDirectiveNoFileComp))
	return selection{cmd}
}

// get reads the flags that were given. An empty selector is for the command
// to judge.
func (s selection) get() (driver.Selector, error) {
	q := make(url.Values)
	if all, _ := s.cmd.Flags().GetBool("all"); all {
		q.Set("all", "true")
	}
	for _, f := range selectorFlags {
		if s.cmd.Flags().Changed(f.name) {
			value, _ := s.cmd.Flags().GetString(f.name)
			q.Set(f.name, value)
		}
	}
	sel, err := driver.ParseSelector(q)
	if err != nil {
		return sel, &exit{ExitUsage, err}
	}
	return sel, nil
}

// some is get for commands that need to be told.
func (s selection) some() (driver.Selector, error) {
	sel, err := s.get()
	if err == nil && sel.Empty() {
		err = usage("no connection is named; use --all, --id, --pid, --local, --remote or --state")
	}
	return sel, err
}
