package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"toehold/internal/control"
	"toehold/internal/driver"
	"toehold/internal/policy"
)

// files are what the commands of the scripts can read.
var files = map[string]string{
	"good.yaml": "limits: {moves_per_second: 7}\nrules:\n- name: web\n  when: |\n    local.port == 80 &&\n      rate > 1000\n  action: offload\n  for: 5s\n  quota: 9\n",
	"late.yaml": "rules:\n- {name: all, action: leave}\n- {name: web, when: local.port == 80 && rate > 1000, action: offload}\n",
	"bad.yaml":  "rules:\n- name: web\n  when: local.port = 80\n  action: fly\n",
}

func readFile(name string) ([]byte, error) {
	text, ok := files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(text), nil
}

// parse is how the daemon reads a policy, with its error as it comes over the
// API.
func (f *fake) parse(name string, source []byte) (*policy.Policy, error) {
	if f.err != nil {
		return nil, f.err
	}
	p, err := driver.ParsePolicy(name, source, []string{"eth0"})
	var problems policy.Problems
	if errors.As(err, &problems) {
		err = &control.Error{Kind: control.Invalid, Message: problems.Error(), Problems: problems}
	}
	return p, err
}

func (f *fake) Policy(context.Context) (driver.PolicyView, error) {
	f.note("policy")
	if f.err != nil {
		return driver.PolicyView{}, f.err
	}
	return view("/etc/toehold/policy.yaml", "rules: []\n"), nil
}

func view(name, source string) driver.PolicyView {
	return driver.PolicyView{Name: name, Applied: when, Default: "leave", MovesPerSecond: 1, MinStay: "10s", RetryAfter: "5s", Source: source,
		Rules: []driver.RuleView{
			{Rule: "web", Line: 3, When: "local.port == 80 &&\n  rate > 1000", Action: "offload", For: "5s", Quota: 9, Connections: 12, OnDevice: 8, Offload: 4},
			{Rule: "default", When: "true", Action: "leave", For: "0s", Connections: 3},
		}}
}

func (f *fake) ApplyPolicy(_ context.Context, name string, source []byte) (driver.PolicyView, error) {
	f.note("apply %s, %d octets", name, len(source))
	p, err := f.parse(name, source)
	if err != nil {
		return driver.PolicyView{}, err
	}
	return view(p.Name, p.Source), nil
}

func (f *fake) CheckPolicy(_ context.Context, name string, source []byte) (driver.PolicyCheck, error) {
	f.note("check %s, %d octets", name, len(source))
	p, err := f.parse(name, source)
	if err != nil {
		return driver.PolicyCheck{}, err
	}
	c := driver.CheckNothing(p)
	c.Rules[0].Connections, c.Rules[0].Offload = 2, 1
	for _, conn := range f.conns {
		c.Connections = append(c.Connections, driver.Assessment{Local: conn.Local, Remote: conn.Remote, Place: conn.Place, Rule: "default", Action: "leave"})
	}
	c.Connections[0].Rule, c.Connections[0].Action, c.Connections[0].Would = "web", "offload", "offload"
	return c, nil
}

func (f *fake) ExplainPolicy(_ context.Context, s driver.Selector) (driver.Explanation, error) {
	if err := f.note("explain %s", s); err != nil {
		return driver.Explanation{}, err
	}
	c, err := driver.One(s, f.match(s))
	if err != nil {
		return driver.Explanation{}, &control.Error{Kind: control.Ambiguous, Message: err.Error()}
	}
	p, err := driver.ParsePolicy("good.yaml", []byte(files["good.yaml"]), nil)
	if err != nil {
		panic(fmt.Sprint("the sample: ", err))
	}
	facts := policy.Facts{Local: c.Local, Remote: c.Remote, Place: c.Place, Rate: 5000}
	e := driver.Explanation{Outlook: "it moves to the device in 3s, if nothing changes",
		Assessment: driver.Assessment{Local: c.Local, Remote: c.Remote, Place: c.Place, Rule: "default", Action: "leave"}}
	rulings, rule := p.Explain(&facts)
	if e.Rulings = rulings; rule >= 0 {
		e.Rule, e.Action, e.Would = p.RuleName(rule), "offload", "offload"
	}
	return e, nil
}
