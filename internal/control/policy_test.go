package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"toehold/internal/driver"
	"toehold/internal/policy"
)

func (s *stub) Policy(context.Context) (driver.PolicyView, error) {
	return driver.PolicyView{Name: "in force"}, s.err
}

func (s *stub) ApplyPolicy(_ context.Context, name string, source []byte) (driver.PolicyView, error) {
	return driver.PolicyView{Name: name, Source: string(source)}, s.err
}

func (s *stub) CheckPolicy(_ context.Context, name string, source []byte) (driver.PolicyCheck, error) {
	if _, err := driver.ParsePolicy(name, source, nil); err != nil {
		return driver.PolicyCheck{}, err
	}
	return driver.PolicyCheck{Name: name}, s.err
}

func (s *stub) ExplainPolicy(_ context.Context, sel driver.Selector) (driver.Explanation, error) {
	s.sel = sel
	return driver.Explanation{Outlook: "fair"}, s.err
}

func TestPolicies(t *testing.T) {
	s := &stub{}
	path, _ := serve(t, s)
	c := NewClient(path)
	defer c.Close()
	ctx := context.Background()
	if v, err := c.Policy(ctx); err != nil || v.Name != "in force" {
		t.Errorf("the policy is %+v, %v", v, err)
	}
	if v, err := c.ApplyPolicy(ctx, "a b/c.yaml", []byte("rules: []")); err != nil || v.Name != "a b/c.yaml" || v.Source != "rules: []" {
		t.Errorf("applied %+v, %v", v, err)
	}
	if v, err := c.CheckPolicy(ctx, "p", []byte("rules: []")); err != nil || v.Name != "p" {
		t.Errorf("checked %+v, %v", v, err)
	}
	sel := driver.Selector{Remote: driver.Endpoint{Port: 443}}
	if e, err := c.ExplainPolicy(ctx, sel); err != nil || e.Outlook != "fair" || s.sel != sel {
		t.Errorf("explained %v: %+v, %v", s.sel, e, err)
	}
	s.err = driver.ErrNoPolicy
	var e *Error
	if _, err := c.Policy(ctx); !errors.As(err, &e) || e.Kind != Failed || e.Message != driver.ErrNoPolicy.Error() {
		t.Errorf("without a policy: %v", err)
	}
}

// What is wrong with a policy comes as a list, and as a text of as many lines.
func TestInvalidPolicy(t *testing.T) {
	path, _ := serve(t, &stub{})
	c := NewClient(path)
	defer c.Close()
	for name, source := range map[string][]byte{
		"two": []byte("rules:\n- {name: a, action: fly}\n- {name: a, action: never}\n"),
		"big": bytes.Repeat([]byte("#"), policy.MaxFile+10),
	} {
		_, err := c.CheckPolicy(context.Background(), name, source)
		var e *Error
		if !errors.As(err, &e) || e.Kind != Invalid || len(e.Problems) == 0 || e.Message != e.Problems.Error() || e.Problems[0].File != name {
			t.Errorf("%s: %v", name, err)
		}
		if name == "two" && (len(e.Problems) != 2 || fmt.Sprint(e.Problems[1].Line, e.Problems[1].Column) != "3 10") {
			t.Errorf("%v", err)
		}
	}
}
