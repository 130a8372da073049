package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"toehold/internal/driver"
)

// tookText is what the figures of a move mean.
const tookText = "TOOK (took_us) is the time of the move. Several in one request overlap: each is given the time of all, divided by\n" +
	"their number. Events and history have each one's own time since the request instead (elapsed_us). STALL (stall_us)\n" +
	"is how long neither stack could send, HELD (bytes_moved) what the device held then."

func offloadCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "offload selector",
		Short: "Move live connections to the device",
		Long: "Move live connections to the device and say what became of each. Exits with 3 when at least one was refused,\n" +
			"the others are moved all the same.\n\n" + tookText,
		Args: noArgs,
	}
	sel, asJSON := addSelector(cmd), addJSON(cmd)
	attach := cmd.Flags().String("attach", driver.Shadow, "how the socket is joined to the device: shadow, or bypass (experimental) where its program allows it")
	timeout := cmd.Flags().Duration("timeout", driver.DefaultTimeout, "how long the device may take to own each")
	cmd.RegisterFlagCompletionFunc("attach", cobra.FixedCompletions([]string{driver.Shadow, driver.Bypass}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := sel.some()
		switch {
		case err != nil:
			return err
		case *attach != driver.Shadow && *attach != driver.Bypass:
			return usage("attachment %q is unknown; there are %s and %s", *attach, driver.Shadow, driver.Bypass)
		case *timeout <= 0 || *timeout > time.Hour:
			return usage("timeout %v is not more than 0 and at most an hour", *timeout)
		}
		var r driver.Result
		err = env.wait("offload", func() (err error) {
			r, err = env.dial(cmd).Offload(cmd.Context(), s, driver.Options{Attachment: *attach, Timeout: *timeout})
			return err
		})
		return env.said(r, err, "offloaded", *asJSON)
	}
	return cmd
}

func uploadCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upload selector",
		Short: "Move live connections home to the kernel",
		Long:  "Move live connections home to the kernel and say what became of each.\n\n" + tookText,
		Args:  noArgs,
	}
	sel, asJSON := addSelector(cmd), addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := sel.some()
		if err != nil {
			return err
		}
		var r driver.Result
		err = env.wait("upload", func() (err error) {
			r, err = env.dial(cmd).Upload(cmd.Context(), s)
			return err
		})
		return env.said(r, err, "uploaded", *asJSON)
	}
	return cmd
}

// said prints what became of a move and gives its exit code.
func (env *Env) said(r driver.Result, err error, verb string, asJSON bool) error {
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(env.Out, r)
	} else {
		err = printResult(env.Out, &r, verb)
	}
	if err == nil && len(r.Refused) > 0 {
		return &exit{code: ExitRefused}
	}
	return err
}

func printResult(w io.Writer, r *driver.Result, verb string) error {
	if len(r.Moved) > 0 {
		t := newTable("ID", "LOCAL", "REMOTE", ">TOOK", ">STALL", ">HELD")
		for _, m := range r.Moved {
			t.add(m.ID, m.Local, m.Remote, micros(m.Took), micros(m.Stall), octets(m.Bytes))
		}
		if err := t.print(w); err != nil {
			return err
		}
	}
	if len(r.Refused) > 0 {
		t := newTable("LOCAL", "REMOTE", "REFUSED", "DETAIL")
		for _, f := range r.Refused {
			t.add(f.Local, f.Remote, f.Reason, f.Detail)
		}
		if err := t.print(w); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d %s, %d refused, %s\n", len(r.Moved), verb, len(r.Refused), micros(r.Wall))
	return err
}
