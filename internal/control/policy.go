package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"toehold/internal/driver"
	"toehold/internal/policy"
)

// policies adds what concerns policies to the API. A policy comes as the body
// of a request, and its name, for messages, in the query.
func policies(mux *http.ServeMux, s Service) {
	mux.Handle("GET /v1/policy", answer(func(r *http.Request) (any, error) { return s.Policy(r.Context()) }))
	mux.Handle("POST /v1/policy", answer(func(r *http.Request) (any, error) {
		name, source, err := policyOf(r)
		if err != nil {
			return nil, err
		}
		return s.ApplyPolicy(r.Context(), name, source)
	}))
	mux.Handle("POST /v1/policy/check", answer(func(r *http.Request) (any, error) {
		name, source, err := policyOf(r)
		if err != nil {
			return nil, err
		}
		return s.CheckPolicy(r.Context(), name, source)
	}))
	mux.Handle("GET /v1/policy/explain", answer(func(r *http.Request) (any, error) {
		sel, err := some(r.URL.Query())
		if err != nil {
			return nil, err
		}
		return s.ExplainPolicy(r.Context(), sel)
	}))
}

// policyOf reads the policy that a request carries.
func policyOf(r *http.Request) (name string, source []byte, err error) {
	if name = r.URL.Query().Get("name"); name == "" {
		name = "policy"
	}
	// One octet too many is for Parse to complain of.
	if source, err = io.ReadAll(io.LimitReader(r.Body, policy.MaxFile+1)); err != nil {
		return "", nil, fmt.Errorf("policy not received: %w", err)
	}
	return name, source, nil
}

// invalid is the answer to a policy with something wrong in it, nil for other
// errors.
func invalid(err error) *Error {
	var problems policy.Problems
	if !errors.As(err, &problems) {
		return nil
	}
	return &Error{Kind: Invalid, Message: problems.Error(), Problems: problems}
}

// Policy returns the policy in force.
func (c *Client) Policy(ctx context.Context) (out driver.PolicyView, err error) {
	return out, c.call(ctx, c.patience, "GET", "policy", nil, &out)
}

// ApplyPolicy puts a policy in force.
func (c *Client) ApplyPolicy(ctx context.Context, name string, source []byte) (out driver.PolicyView, err error) {
	return out, c.callWith(ctx, c.patience, "POST", "policy", url.Values{"name": {name}}, source, &out)
}

// CheckPolicy asks what a policy would do.
func (c *Client) CheckPolicy(ctx context.Context, name string, source []byte) (out driver.PolicyCheck, err error) {
	return out, c.callWith(ctx, c.patience, "POST", "policy/check", url.Values{"name": {name}}, source, &out)
}

// ExplainPolicy asks how the policy decided about the one connection that s
// names.
func (c *Client) ExplainPolicy(ctx context.Context, s driver.Selector) (out driver.Explanation, err error) {
	return out, c.call(ctx, c.patience, "GET", "policy/explain", s.Query(), &out)
}
