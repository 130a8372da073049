// Package control is the driver's API: JSON over HTTP on a unix socket that
// root and one group may open, and the typed client that the command line
// uses.
//
//	GET  /v1/connections?SELECTOR      []driver.Connection
//	GET  /v1/connection?SELECTOR       driver.Detail
//	POST /v1/offload?SELECTOR          driver.Result; also attach=, timeout=
//	POST /v1/upload?SELECTOR           driver.Result
//	GET  /v1/events[?follow=true]      driver.Event, one JSON object a line
//	GET  /v1/devices                   []driver.Device
//	POST /v1/devices/restart           []driver.Device
//	POST /v1/devices/pause[?device=]   []driver.Device
//	POST /v1/devices/resume[?device=]  []driver.Device
//	GET  /v1/policy                    driver.PolicyView
//	POST /v1/policy?name=NAME          driver.PolicyView; the policy is the body
//	POST /v1/policy/check?name=NAME    driver.PolicyCheck; the policy is the body
//	GET  /v1/policy/explain?SELECTOR   driver.Explanation
//	GET  /v1/version                   Version
//	GET  /metrics                      for Prometheus
//
// A selector is carried as driver.Selector.Query writes it. What is wrong is
// answered with an Error as JSON.
package control

import (
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"toehold/internal/driver"
	"toehold/internal/metrics"
	"toehold/internal/policy"
)

// DefaultSocket is where the daemon listens when nothing else is said.
const DefaultSocket = "/run/toehold/control.sock"

// SocketPath chooses the socket: the one given, else $TOEHOLD_SOCKET, else
// DefaultSocket.
func SocketPath(given string, getenv func(string) string) string {
	if given != "" {
		return given
	}
	if s := getenv("TOEHOLD_SOCKET"); s != "" {
		return s
	}
	return DefaultSocket
}

// A Service is what is served. driver.Driver is one.
type Service interface {
	List(context.Context, driver.Selector) ([]driver.Connection, error)
	Show(context.Context, driver.Selector) (driver.Detail, error)
	Offload(context.Context, driver.Selector, driver.Options) (driver.Result, error)
	Upload(context.Context, driver.Selector) (driver.Result, error)
	// Events calls emit for each event kept and, when follow is set, for those
	// to come until the context ends or emit returns an error.
	Events(ctx context.Context, follow bool, emit func(driver.Event) error) error
	Policy(context.Context) (driver.PolicyView, error)
	ApplyPolicy(ctx context.Context, name string, source []byte) (driver.PolicyView, error)
	CheckPolicy(ctx context.Context, name string, source []byte) (driver.PolicyCheck, error)
	ExplainPolicy(context.Context, driver.Selector) (driver.Explanation, error)
	Devices(context.Context) ([]driver.Device, error)
	RestartDevices(context.Context) ([]driver.Device, error)
	// PauseDevices has a device, all for "", take nobody new, or again.
	PauseDevices(ctx context.Context, device string, paused bool) ([]driver.Device, error)
	metrics.Source
}

// A Version says who answers.
type Version struct {
	Version string `json:"version"`
	ABI     int    `json:"abi"`
	PID     int    `json:"pid"`
}

// An Error is an answer that is not what was asked for.
type Error struct {
	Kind    string `json:"kind"` // Usage, NoMatch, Ambiguous, Invalid, Failed
	Message string `json:"error"`
	// Problems are what is wrong with a policy.
	Problems policy.Problems `json:"problems,omitempty"`
}

// The kinds of Error.
const (
	Usage     = "usage"     // the request cannot be meant
	NoMatch   = "no-match"  // the selector names no connection
	Ambiguous = "ambiguous" // the selector names several where one is wanted
	Invalid   = "invalid"   // there is something wrong with the policy
	Failed    = "failed"
)

// Error is the message alone.
func (e *Error) Error() string { return e.Message }

var statusOf = map[string]int{
	Usage: http.StatusBadRequest, NoMatch: http.StatusNotFound, Ambiguous: http.StatusConflict, Invalid: http.StatusUnprocessableEntity, Failed: http.StatusInternalServerError,
}

// errorOf classes what a Service returned.
func errorOf(err error) *Error {
	if e := invalid(err); e != nil {
		return e
	}
	kind := Failed
	switch {
	case errors.Is(err, driver.ErrSelector):
		kind = Usage
	case errors.Is(err, driver.ErrNoMatch):
		kind = NoMatch
	case errors.Is(err, driver.ErrAmbiguous):
		kind = Ambiguous
	}
	return &Error{Kind: kind, Message: err.Error()}
}

// bounds of what a peer of the socket may do.
const (
	maxHeader     = 16 << 10
	headerTimeout = 5 * time.Second
	maxTimeout    = time.Hour // of one move
)

const socketMode = os.FileMode(0o660)
