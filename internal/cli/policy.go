package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"toehold/internal/control"
	"toehold/internal/driver"
	"toehold/internal/policy"
)

const policyText = "A policy is a file of rules, docs/POLICY.md; the word default stands for the one that comes with toehold."

func policyCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Rules by which connections move by themselves",
		Long:  policyText,
	}
	cmd.AddCommand(policyShowCommand(env), policyCheckCommand(env), policyApplyCommand(env), policyExplainCommand(env))
	return cmd
}

// readPolicy reads the file that a command names.
func (env *Env) readPolicy(name string) ([]byte, error) {
	if name == policy.DefaultName {
		return []byte(policy.DefaultSource()), nil
	}
	return env.ReadFile(name)
}

// oneFile asks for one argument.
func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage("%s takes one FILE, or the word %s", cmd.Name(), policy.DefaultName)
	}
	return nil
}

func policyShowCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show [default]",
		Short: "The policy in force, and what its rules have",
		Long:  "Show the rules of the policy in force with the connections that each is the first to match, or, with --source, its text.\n" + "With the word default, print the text of the policy that comes with toehold.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && args[0] != policy.DefaultName {
				return usage("policy show takes no argument but %s", policy.DefaultName)
			}
			return nil
		},
	}
	asJSON := addJSON(cmd)
	source := cmd.Flags().Bool("source", false, "print its text")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			_, err := io.WriteString(env.Out, policy.DefaultSource())
			return err
		}
		v, err := env.dial(cmd).Policy(cmd.Context())
		switch {
		case err != nil:
			return err
		case *asJSON:
			return printJSON(env.Out, v)
		case *source:
			_, err := io.WriteString(env.Out, v.Source)
			return err
		}
		return printPolicy(env.Out, &v)
	}
	return cmd
}

func printPolicy(w io.Writer, v *driver.PolicyView) error {
	fmt.Fprintf(w, "%s, in force since %s; %s a second at most, %s between two of a connection\n", v.Name,
		v.Applied.Local().Format("2006-01-02 15:04:05"), several(v.MovesPerSecond, "move"), v.MinStay)
	return printRules(w, v.Rules)
}

func printRules(w io.Writer, rules []driver.RuleView) error {
	t := newTable("RULE", ">LINE", "ACTION", ">FOR", ">QUOTA", ">CONNECTIONS", ">ON-DEVICE", ">TO-OFFLOAD", ">TO-UPLOAD", "WHEN")
	for _, r := range rules {
		t.add(r.Rule, unlessZero(r.Line), r.Action, r.For, unlessZero(r.Quota), r.Connections, r.OnDevice, r.Offload, r.Upload, strings.Join(strings.Fields(r.When), " "))
	}
	return t.print(w)
}

// unlessZero is a number, "" for 0.
func unlessZero(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func policyCheckCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE|default",
		Short: "What a policy would do to the connections there are; nothing is moved",
		Long:  "Read a policy, and say what each of its rules would do to the connections there are now. Nothing is moved, and what has to\nhold for a time (for) is not waited for. Without a daemon only the file is looked at.\n" + policyText,
		Args:  oneFile,
	}
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		source, err := env.readPolicy(args[0])
		if err != nil {
			return err
		}
		c, err := env.dial(cmd).CheckPolicy(cmd.Context(), args[0], source)
		if errors.Is(err, control.ErrNoDaemon) {
			fmt.Fprintf(env.Err, "toehold: no daemon listens on %s; only the file is looked at\n", env.socketOf(cmd))
			c, err = fileOnly(args[0], source)
		}
		switch {
		case err != nil:
			return err
		case *asJSON:
			return printJSON(env.Out, c)
		}
		for _, w := range c.Warnings {
			fmt.Fprintln(env.Err, "toehold: warning:", w)
		}
		return printCheck(env.Out, &c)
	}
	return cmd
}

// fileOnly checks a policy without any connections.
func fileOnly(name string, source []byte) (driver.PolicyCheck, error) {
	p, err := driver.ParsePolicy(name, source, nil)
	if err != nil {
		return driver.PolicyCheck{}, err
	}
	return driver.CheckNothing(p), nil
}

func printCheck(w io.Writer, c *driver.PolicyCheck) error {
	if err := printRules(w, c.Rules); err != nil {
		return err
	}
	t, moves := newTable("LOCAL", "REMOTE", "PLACE", "WOULD", "RULE"), 0
	for _, a := range c.Connections {
		if a.Would != "" {
			t.add(a.Local, a.Remote, a.Place, a.Would, a.Rule)
			moves++
		}
	}
	if moves > 0 {
		if err := t.print(w); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s is right; %d of %s would move\n", c.Name, moves, several(len(c.Connections), "connection"))
	return err
}

func policyApplyCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply FILE|default",
		Short: "Put a policy in force",
		Long: "Put a policy in force in place of the one before. The connections that it matches move from now on, as fast as its\n" +
			"limits allow. When anything is wrong with the file all of it is said, and the old policy stays.\n" + policyText,
		Args: oneFile,
	}
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		source, err := env.readPolicy(args[0])
		if err != nil {
			return err
		}
		v, err := env.dial(cmd).ApplyPolicy(cmd.Context(), args[0], source)
		switch {
		case err != nil:
			return err
		case *asJSON:
			return printJSON(env.Out, v)
		}
		return printPolicy(env.Out, &v)
	}
	return cmd
}

func policyExplainCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain selector",
		Short: "Which rule decided about a connection, and what every condition came to",
		Args:  noArgs,
	}
	sel, asJSON := addSelector(cmd), addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := sel.some()
		if err != nil {
			return err
		}
		e, err := env.dial(cmd).ExplainPolicy(cmd.Context(), s)
		switch {
		case err != nil:
			return err
		case *asJSON:
			return printJSON(env.Out, e)
		}
		return printExplanation(env.Out, &e)
	}
	return cmd
}

func printExplanation(w io.Writer, e *driver.Explanation) error {
	fmt.Fprintf(w, "%s -> %s\n  place    %s\n  rule     %s: %s\n  outlook  %s\n", e.Local, e.Remote, e.Place, e.Rule, e.Action, e.Outlook)
	for _, r := range e.Rulings {
		verdict := "does not match"
		if r.Holds {
			verdict = "matches: " + r.Action
		}
		fmt.Fprintf(w, "\n%s, line %d, %s\n", r.Rule, r.Line, verdict)
		t := newTable("  VALUE", "OF")
		for _, p := range r.Parts {
			value := p.Value
			if p.Error != "" {
				value = "error: " + p.Error
			}
			t.add("  "+value, strings.Repeat("  ", p.Depth)+p.Text)
		}
		if err := t.print(w); err != nil {
			return err
		}
	}
	if len(e.Rulings) > 0 && e.Rulings[len(e.Rulings)-1].Holds {
		return nil
	}
	_, err := fmt.Fprintf(w, "\nno rule matches: %s\n", e.Action)
	return err
}
