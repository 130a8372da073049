package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/driver"
	"toehold/internal/metrics"
)

// Listen opens the control socket for root and, when one is named, a group.
// A socket file that nobody listens on any more is replaced; one that is
// served is an error that names its owner's pid. The directory is made when
// it is missing.
func Listen(path, group string) (net.Listener, error) {
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	if err := makeDir(filepath.Dir(path), gid); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := vacate(path); err != nil {
		return nil, err
	}
	// The file is made without rights for anybody and gets them when its
	// owner is right.
	old := unix.Umask(0o777)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := share(path, gid); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// makeDir makes the socket's directory when it is missing, open to the group.
func makeDir(dir string, gid int) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return os.Chown(dir, -1, gid)
}

// share gives the socket to the group; gid -1 leaves it as it is.
func share(path string, gid int) error {
	if err := os.Chown(path, -1, gid); err != nil {
		return err
	}
	return os.Chmod(path, socketMode)
}

func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if n, err := strconv.Atoi(group); err == nil && n >= 0 {
		return n, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("control socket: there is no group %q", group)
	}
	return strconv.Atoi(g.Gid)
}

// vacate removes a socket that was left behind.
func vacate(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("control socket: %s is there and is no socket", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		defer c.Close()
		return fmt.Errorf("control socket: %s is served already by process %d", path, peerPID(c.(*net.UnixConn)))
	}
	return os.Remove(path)
}

func peerPID(c *net.UnixConn) (pid int32) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = cred.Pid
		}
	})
	return pid
}

// Serve answers requests until the context ends; then those that follow
// events are ended, and the others are waited for, for a moment.
func Serve(ctx context.Context, l net.Listener, s Service, version string, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           Handler(s, version, log),
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// Handler is the API of a Service.
func Handler(s Service, version string, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/connections", answer(func(r *http.Request) (any, error) {
		sel, err := driver.ParseSelector(r.URL.Query())
		if err != nil {
			return nil, err
		}
		return s.List(r.Context(), sel)
	}))
	mux.Handle("GET /v1/connection", answer(func(r *http.Request) (any, error) {
		sel, err := driver.ParseSelector(r.URL.Query())
		if err != nil {
			return nil, err
		}
		return s.Show(r.Context(), sel)
	}))
	mux.Handle("POST /v1/offload", answer(func(r *http.Request) (any, error) { return offload(r, s) }))
	mux.Handle("POST /v1/upload", answer(func(r *http.Request) (any, error) {
		sel, err := some(r.URL.Query())
		if err != nil {
			return nil, err
		}
		return s.Upload(r.Context(), sel)
	}))
	mux.Handle("GET /v1/devices", answer(func(r *http.Request) (any, error) { return s.Devices(r.Context()) }))
	mux.Handle("POST /v1/devices/restart", answer(func(r *http.Request) (any, error) { return s.RestartDevices(r.Context()) }))
	for path, paused := range map[string]bool{"pause": true, "resume": false} {
		mux.Handle("POST /v1/devices/"+path, answer(func(r *http.Request) (any, error) {
			return s.PauseDevices(r.Context(), r.URL.Query().Get("device"), paused)
		}))
	}
	policies(mux, s)
	mux.Handle("GET /v1/version", answer(func(*http.Request) (any, error) {
		return Version{version, abi.Version, os.Getpid()}, nil
	}))
	mux.Handle("GET /metrics", metrics.Handler(s, version, log))
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) { events(w, r, s) })
	return mux
}

// some parses a selector that must name something: a move of everything is
// never what an empty request means.
func some(q url.Values) (driver.Selector, error) {
	sel, err := driver.ParseSelector(q)
	if err == nil && sel.Empty() {
		err = fmt.Errorf("%w: none is given; name connections, or all", driver.ErrSelector)
	}
	return sel, err
}

func offload(r *http.Request, s Service) (any, error) {
	q := r.URL.Query()
	o := driver.Options{Attachment: q.Get("attach")}
	if t := q.Get("timeout"); t != "" {
		d, err := time.ParseDuration(t)
		if err != nil || d <= 0 || d > maxTimeout {
			return nil, fmt.Errorf("%w: timeout %q is no duration from 1ns to %v", driver.ErrSelector, t, maxTimeout)
		}
		o.Timeout = d
	}
	if o.Attachment != "" && o.Attachment != driver.Shadow && o.Attachment != driver.Bypass {
		return nil, fmt.Errorf("%w: attachment %q is unknown; there are shadow and bypass", driver.ErrSelector, o.Attachment)
	}
	q.Del("attach")
	q.Del("timeout")
	sel, err := some(q)
	if err != nil {
		return nil, err
	}
	return s.Offload(r.Context(), sel, o)
}

// answer turns a function into a handler that writes its value as JSON.
func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		if err != nil {
			e := errorOf(err)
			reply(w, statusOf[e.Kind], e)
			return
		}
		reply(w, http.StatusOK, v)
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // an error means that the client has gone
}

func events(w http.ResponseWriter, r *http.Request, s Service) {
	follow, err := strconv.ParseBool(r.URL.Query().Get("follow"))
	if err != nil && r.URL.Query().Has("follow") {
		reply(w, http.StatusBadRequest, &Error{Kind: Usage, Message: "follow is neither true nor false"})
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	flusher := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	flusher.Flush()
	enc := json.NewEncoder(w)
	s.Events(r.Context(), follow, func(e driver.Event) error {
		if err := enc.Encode(e); err != nil {
			return err
		}
		return flusher.Flush()
	})
}
