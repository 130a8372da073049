package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"toehold/internal/driver"
)

// A Client talks with a daemon. It is safe for concurrent use.
type Client struct {
	path     string
	http     http.Client
	patience time.Duration
	pid      atomic.Int32 // of who listens, 0 while that is not known
}

// patience is how long a daemon may take to answer what it can answer at once.
// Moves and restarts have more; see the requests.
const patience = 15 * time.Second

// errSilent is the cause of a request that was given up.
var errSilent = errors.New("no answer")

// ErrNoDaemon is that nobody serves the socket.
var ErrNoDaemon = errors.New("no daemon")

// NewClient returns a Client of the daemon that listens on path. Nothing is
// opened yet.
func NewClient(path string) *Client {
	c := &Client{path: path, patience: patience}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "unix", path)
			if err == nil {
				c.pid.Store(peerPID(conn.(*net.UnixConn)))
			}
			return conn, err
		},
		DisableCompression: true,
	}
	return c
}

// Close gives idle connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// List returns the connections that s names, all for an empty one.
func (c *Client) List(ctx context.Context, s driver.Selector) (out []driver.Connection, err error) {
	return out, c.call(ctx, c.patience, "GET", "connections", s.Query(), &out)
}

// Show returns the one connection that s names.
func (c *Client) Show(ctx context.Context, s driver.Selector) (out driver.Detail, err error) {
	return out, c.call(ctx, c.patience, "GET", "connection", s.Query(), &out)
}

// Offload moves the connections that s names to the device.
func (c *Client) Offload(ctx context.Context, s driver.Selector, o driver.Options) (out driver.Result, err error) {
	q := s.Query()
	if o.Attachment != "" {
		q.Set("attach", o.Attachment)
	}
	if o.Timeout != 0 {
		q.Set("timeout", o.Timeout.String())
	}
	return out, c.call(ctx, cmp.Or(o.Timeout, driver.DefaultTimeout)+c.patience, "POST", "offload", q, &out)
}

// Upload moves the connections that s names home to the kernel.
func (c *Client) Upload(ctx context.Context, s driver.Selector) (out driver.Result, err error) {
	return out, c.call(ctx, driver.DefaultTimeout+c.patience, "POST", "upload", s.Query(), &out)
}

// Devices returns the state of every device.
func (c *Client) Devices(ctx context.Context) (out []driver.Device, err error) {
	return out, c.call(ctx, c.patience, "GET", "devices", nil, &out)
}

// RestartDevices replaces every device, and returns when the new ones serve.
func (c *Client) RestartDevices(ctx context.Context) (out []driver.Device, err error) {
	return out, c.call(ctx, 4*c.patience, "POST", "devices/restart", nil, &out)
}

// PauseDevices has a device, all for "", take nobody new, or again.
func (c *Client) PauseDevices(ctx context.Context, device string, paused bool) (out []driver.Device, err error) {
	q := url.Values{}
	if device != "" {
		q.Set("device", device)
	}
	what := "devices/resume"
	if paused {
		what = "devices/pause"
	}
	return out, c.call(ctx, c.patience, "POST", what, q, &out)
}

// Version asks who answers.
func (c *Client) Version(ctx context.Context) (out Version, err error) {
	return out, c.call(ctx, c.patience, "GET", "version", nil, &out)
}

// ErrFollowEnds is that a daemon tells no more to who followed its events.
var ErrFollowEnds = errors.New("the daemon tells no more events: it was stopped")

// errTooSlow is the same for a follower that was dropped.
var errTooSlow = errors.New("the daemon tells no more events, as they were not read fast enough: follow anew")

// Events calls emit for each event kept and, when follow is set, for those to
// come until the context ends; that the daemon does before is an error.
func (c *Client) Events(ctx context.Context, follow bool, emit func(driver.Event) error) error {
	q := url.Values{}
	if follow {
		q.Set("follow", "true")
	}
	body, err := c.do(ctx, c.patience, "GET", "events", q, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	if follow {
		body.late.Stop() // nothing may happen for long
	}
	end := error(nil)
	if follow {
		end = ErrFollowEnds
	}
	for dec := json.NewDecoder(body); ; {
		var e driver.Event
		switch err := dec.Decode(&e); {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF):
			return end
		case err != nil:
			return c.explain(body.ctx, fmt.Errorf("the daemon ended: %w", err))
		}
		if e.Kind == driver.EventDropped {
			end = errTooSlow
		}
		if err := emit(e); err != nil {
			return err
		}
	}
}

// call sends a request and decodes its answer, which must come within a time,
// into out.
func (c *Client) call(ctx context.Context, within time.Duration, method, what string, q url.Values, out any) error {
	return c.callWith(ctx, within, method, what, q, nil, out)
}

// callWith is call with something to send.
func (c *Client) callWith(ctx context.Context, within time.Duration, method, what string, q url.Values, payload []byte, out any) error {
	body, err := c.do(ctx, within, method, what, q, payload)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return c.explain(body.ctx, fmt.Errorf("answer of the daemon: %w", err))
	}
	return nil
}

// An answerBody is what is read of an answer until it is late.
type answerBody struct {
	io.ReadCloser
	ctx    context.Context // its cause is errSilent when the answer is late
	late   *time.Timer
	cancel context.CancelCauseFunc
}

// Close ends the request too.
func (b *answerBody) Close() error {
	b.late.Stop()
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// do sends a request. The body is the caller's to close; an *Error is what
// the daemon said instead.
func (c *Client) do(ctx context.Context, within time.Duration, method, what string, q url.Values, payload []byte) (*answerBody, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	body := &answerBody{ctx: ctx, cancel: cancel, late: time.AfterFunc(within, func() { cancel(errSilent) })}
	u := url.URL{Scheme: "http", Host: "toehold", Path: "/v1/" + what, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(payload))
	var resp *http.Response
	if err == nil {
		resp, err = c.http.Do(req)
	}
	if err != nil {
		body.late.Stop()
		defer cancel(nil)
		return nil, c.explain(ctx, err)
	}
	body.ReadCloser = resp.Body
	if resp.StatusCode == http.StatusOK {
		return body, nil
	}
	defer body.Close()
	e := &Error{Kind: Failed}
	if json.NewDecoder(resp.Body).Decode(e) != nil || e.Message == "" {
		e.Message = "the daemon answered " + resp.Status
	}
	return nil, e
}

// explain says what a person can do about a socket that cannot be used.
func (c *Client) explain(ctx context.Context, err error) error {
	switch {
	case errors.Is(context.Cause(ctx), errSilent):
		return c.silent()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w listens on %s; start one with: toehold daemon --uplink IF", ErrNoDaemon, c.path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may be opened by root and the daemon's group only", c.path)
	}
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("daemon on %s: %w", c.path, u.Err)
	}
	return err
}

// silent names the process that does not answer: it is stopped, perhaps.
func (c *Client) silent() error {
	if pid := c.pid.Load(); pid != 0 {
		return fmt.Errorf("the daemon on %s, process %d, does not answer", c.path, pid)
	}
	return fmt.Errorf("the daemon on %s does not answer", c.path)
}
