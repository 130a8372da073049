package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/spf13/cobra"

	"toehold/internal/bpf"
	"toehold/internal/control"
	"toehold/internal/device"
	"toehold/internal/driver"
)

// fake is a daemon with three connections that says what it is asked.
type fake struct {
	conns   []driver.Connection
	asked   []string
	err     error
	refuse  bool
	latency time.Duration
}

var when = time.Date(2026, 1, 2, 3, 4, 5, 6000000, time.UTC)

func sample() []driver.Connection {
	port := netip.MustParseAddrPort
	return []driver.Connection{
		{Place: driver.InKernel, Local: port("10.0.0.1:80"), Remote: port("10.0.0.2:40000"), State: "established", PID: 42, Comm: "nginx", FD: 7,
			BytesSent: 1 << 20, BytesReceived: 900, RTT: 120, Cwnd: 10, Ssthresh: infiniteSsthresh},
		{ID: "3-1", Place: driver.OnDevice, Attachment: driver.Shadow, Local: port("[fd00::1]:443"), Remote: port("[fd00::2]:40001"),
			State: "established", PID: 42, Comm: "nginx", FD: 8, Device: "eth0", BytesSent: 5 << 30, BytesReceived: 12345, RTT: 25000, Cwnd: 64,
			Ssthresh: 32, Retransmits: 3, Offloads: 2, Uploads: 1, Reason: "asked"},
		{Place: driver.InKernel, Local: port("10.0.0.1:22"), Remote: port("10.0.0.9:50000"), State: "close-wait", Reason: "urgent-data"},
	}
}

func (f *fake) match(s driver.Selector) []driver.Connection {
	all := []driver.Connection{}
	for _, c := range f.conns {
		if s.Match(&c) {
			all = append(all, c)
		}
	}
	return all
}

func (f *fake) note(format string, args ...any) error {
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
	time.Sleep(f.latency)
	return f.err
}

func (f *fake) List(_ context.Context, s driver.Selector) ([]driver.Connection, error) {
	return f.match(s), f.note("list %s", s)
}

func (f *fake) Show(_ context.Context, s driver.Selector) (driver.Detail, error) {
	if err := f.note("show %s", s); err != nil {
		return driver.Detail{}, err
	}
	c, err := driver.One(s, f.match(s))
	if err != nil {
		// As it comes over the API.
		kind := control.Ambiguous
		if errors.Is(err, driver.ErrNoMatch) {
			kind = control.NoMatch
		}
		return driver.Detail{}, &control.Error{Kind: kind, Message: err.Error()}
	}
	d := driver.Detail{Connection: *c, Kernel: driver.KernelPart{
		State: c.State, CongestionControl: "cubic", SndUna: 1000, SndNxt: 2448, SndWnd: 65535, RcvNxt: 77, RcvWnd: 64240, SndWscale: 7, RcvWscale: 9,
		MSS: 1448, RTT: 120, RTO: 201000, Cwnd: 10, Ssthresh: infiniteSsthresh, BytesSent: c.BytesSent, BytesReceived: c.BytesReceived,
		Timestamps: true, SACK: true,
	}, Socket: driver.SocketPart{PID: c.PID, Comm: c.Comm, FD: c.FD, Queued: 1448, SndBuf: 87040, RcvBuf: 131072, SendMemory: 2304, RcvLowat: 1, NotSentLowat: -1,
		Shutdown: "none", NoDelay: true, Keepalive: true, KeepTime: 7_200_000, KeepInterval: 75_000, KeepProbes: 9, Linger: -1, Mark: 0x55}, History: []driver.Move{}}
	if c.Place == driver.OnDevice {
		d.Hardware = &driver.HardwarePart{Place: "owned", State: "established", Recovery: "open", CongestionControl: "bbr", SndUna: 1000, SndNxt: 2448, SndWnd: 65000, RcvNxt: 77,
			RcvWnd: 64000, RTT: 25000, RTO: 225000, Cwnd: 64, Ssthresh: 32, HeldOut: 1448, BytesSent: 4 << 20, Retransmits: 3}
		d.History = []driver.Move{
			{Time: when, Kind: driver.EventRefused, Device: "eth0", Reason: "device-full", Detail: "the device has no free connection slot"},
			{Time: when.Add(time.Minute), Kind: driver.EventOffloaded, ID: "3-1", Device: "eth0", Reason: "asked", Elapsed: 210},
		}
	}
	return d, nil
}

func (f *fake) move(s driver.Selector) (r driver.Result, err error) {
	conns := f.match(s)
	if len(conns) == 0 {
		return r, &control.Error{Kind: control.NoMatch, Message: "no connection matches " + s.String()}
	}
	r = driver.Result{Moved: []driver.Moved{}, Refused: []driver.Refusal{}, Wall: 1234}
	for i, c := range conns {
		if f.refuse && i == len(conns)-1 {
			r.Refused = append(r.Refused, driver.Refusal{Local: c.Local, Remote: c.Remote, Reason: "urgent-data", Detail: "urgent data is pending"})
			continue
		}
		r.Moved = append(r.Moved, driver.Moved{Local: c.Local, Remote: c.Remote, ID: fmt.Sprintf("%d-1", i), Took: 200 + int64(i), Stall: 9, Bytes: 4096})
	}
	return r, f.err
}

func (f *fake) Offload(_ context.Context, s driver.Selector, o driver.Options) (driver.Result, error) {
	f.note("offload %s attach=%s timeout=%v", s, o.Attachment, o.Timeout)
	return f.move(s)
}

func (f *fake) Upload(_ context.Context, s driver.Selector) (driver.Result, error) {
	f.note("upload %s", s)
	return f.move(s)
}

func (f *fake) Events(_ context.Context, follow bool, emit func(driver.Event) error) error {
	if err := f.note("events follow=%v", follow); err != nil {
		return err
	}
	for _, e := range []driver.Event{
		{Time: when, Kind: driver.EventDeviceStarted, Device: "eth0", Detail: "process 99"},
		{Time: when, Kind: driver.EventOffloaded, Local: "10.0.0.1:80", Remote: "10.0.0.2:40000", ID: "3-1", Device: "eth0", Reason: "asked", Elapsed: 210, Stall: 9},
		{Time: when, Kind: driver.EventDeviceLost, Device: "eth0", Reason: "device-died", Count: 20, Detail: "killed by SIGKILL"},
	} {
		if err := emit(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *fake) Devices(context.Context) ([]driver.Device, error) {
	return []driver.Device{
		{Device: "eth0", State: "running", PID: 99, HostPort: "toehold0", Capacity: 16384, Memory: 1 << 30, Connections: 20, Uptime: 65_000_000,
			HeartbeatAge: 3000, RunsAs: "user 65534, no capabilities, seccomp", Restarts: 1, Offloads: 40, Uploads: 20, Refused: map[string]int{"nat": 2, "device-full": 7},
			Load: &driver.Load{BusyShare: 0.125, Busy: 8_000_000, PoolUsed: 3 << 20, Frames: 1000, Unknown: 4, BytesSent: 5 << 30, BytesReceived: 12345,
				SegsSent: 3_700_000, SegsReceived: 9, Retransmits: 3, Uplink: driver.PortLoad{RxFrames: 9, RxDropped: 2}, Host: driver.PortLoad{TxErrors: 1}}},
		{Device: "eth1", State: "down", Detail: "the uplink is gone: it is down", Refused: map[string]int{}},
	}, f.note("devices")
}

func (f *fake) RestartDevices(ctx context.Context) ([]driver.Device, error) {
	f.note("restart")
	return f.Devices(ctx)
}

func (f *fake) PauseDevices(ctx context.Context, device string, paused bool) ([]driver.Device, error) {
	f.note("pause %q %v", device, paused)
	all, err := f.Devices(ctx)
	all[0].Paused = paused
	return all, err
}

func (f *fake) Version(context.Context) (control.Version, error) { return control.Version{}, nil }

// stage is an Env whose effects go to a fake.
func stage(f *fake) (*Env, *bytes.Buffer, *bytes.Buffer) {
	var out, err bytes.Buffer
	env := &Env{
		Out: &out, Err: &err, Getenv: func(string) string { return "" }, Now: time.Now,
		Screen:   func() (Screen, error) { return nil, errNoTerminal },
		Dial:     func(string) Client { return f },
		ReadFile: readFile,
		Kernel: func(s driver.Selector) ([]driver.Connection, error) {
			f.note("kernel %s", s)
			return f.match(s), nil
		},
		Doctor: func() []bpf.Check {
			return []bpf.Check{
				{Name: "tcx", OK: true, Since: "6.6"},
				{Name: "root", OK: f.err == nil, Detail: "user 1000", Fix: "run as root, or give CAP_BPF and CAP_NET_ADMIN"},
			}
		},
		Daemon: func(_ context.Context, o DaemonOptions, _ *Env) error {
			return f.note("daemon %v socket=%s group=%q connections=%d memory=%d stale=%v level=%v controls=%v listen=%q policy=%q", o.Uplinks, o.Socket, o.Group, o.MaxConnections, o.Memory, o.StaleAfter, o.LogLevel, o.Controls.String(), o.Listen, o.PolicyFile)
		},
		Device: func(_ context.Context, c device.Config) error {
			return f.note("device %d %d %d %d %d header=%d connections=%d memory=%d", c.Socket, c.Uplink, c.HostPort, c.Control, c.Blocks, c.LinkHeader, c.MaxConnections, c.Memory)
		},
	}
	return env, &out, &err
}

// TestCommands runs command lines; state is one of ok, none (no daemon),
// refuse (the last is refused) and fail.
func TestCommands(t *testing.T) {
	// The local zone is this machine's; the scripts are written in UTC.
	time.Local = time.UTC
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			f := &fake{conns: sample()}
			switch d.Cmd {
			case "none":
				f.err = fmt.Errorf("%w listens on /run/toehold/control.sock; start one with: toehold daemon --uplink IF", control.ErrNoDaemon)
			case "fail":
				f.err = errors.New("the sky fell")
			case "refuse":
				f.refuse = true
			}
			env, out, errs := stage(f)
			code := Run(context.Background(), env, strings.Fields(d.Input))
			var b strings.Builder
			for _, a := range f.asked {
				fmt.Fprintf(&b, "> %s\n", strings.TrimSpace(a))
			}
			b.WriteString(out.String())
			for _, l := range strings.Split(strings.TrimSuffix(errs.String(), "\n"), "\n") {
				if l != "" {
					fmt.Fprintf(&b, "! %s\n", l)
				}
			}
			fmt.Fprintf(&b, "exit %d\n", code)
			return b.String()
		})
	})
}

// The progress line is for terminals, and leaves nothing behind.
func TestProgress(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		f := &fake{conns: sample(), latency: 3 * patience}
		env, _, errs := stage(f)
		env.Terminal = terminal
		if code := Run(context.Background(), env, []string{"upload", "--all"}); code != ExitDone {
			t.Fatalf("exit %d: %s", code, errs)
		}
		said := strings.Contains(errs.String(), "upload: ")
		if said != terminal || terminal && !strings.HasSuffix(errs.String(), "\r\x1b[K") {
			t.Errorf("on a terminal %v: %q", terminal, errs)
		}
	}
}

// The objects that scripts read have the fields that are promised.
func TestResultFields(t *testing.T) {
	f := &fake{conns: sample(), refuse: true}
	env, out, _ := stage(f)
	if code := Run(context.Background(), env, []string{"offload", "--all", "--json"}); code != ExitRefused {
		t.Errorf("exit %d", code)
	}
	var r map[string][]map[string]any
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(out.Bytes(), &raw); err != nil {
		t.Fatal(err)
	}
	delete(raw, "wall_us")
	b, _ := json.Marshal(raw)
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	for list, fields := range map[string][]string{
		"moved":   {"local", "remote", "id", "took_us", "stall_us", "bytes_moved"},
		"refused": {"local", "remote", "reason", "detail"},
	} {
		for _, field := range fields {
			if len(r[list]) == 0 || r[list][0][field] == nil {
				t.Errorf("%s has no %s: %s", list, field, out)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	env, out, _ := stage(&fake{})
	if code := Run(context.Background(), env, []string{"version"}); code != 0 || !regexp.MustCompile(`^toehold \S+ \(abi \d+, go\S+, \w+\)\n$`).MatchString(out.String()) {
		t.Errorf("exit %d, %q", code, out)
	}
	out.Reset()
	var v buildInfo
	if Run(context.Background(), env, []string{"version", "--json"}); json.Unmarshal(out.Bytes(), &v) != nil || v.Version != Version {
		t.Errorf("as JSON: %s", out)
	}
}

func TestCompletion(t *testing.T) {
	env, out, _ := stage(&fake{})
	for _, tt := range []struct{ args, want string }{
		{"completion bash", "__start_toehold"},
		{"__complete list --state ", "device"},
		{"__complete off", "offload"},
	} {
		out.Reset()
		args := strings.Split(tt.args, " ")
		if code := Run(context.Background(), env, args); code != 0 || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%s: exit %d, %.100q", tt.args, code, out)
		}
	}
}

// Help is given for commands that there are, in each of the ways to ask.
func TestHelp(t *testing.T) {
	for args, want := range map[string]string{
		"": "Available Commands", "--help": "Available Commands", "help": "Available Commands", "offload --help": "took_us",
		"help offload": "took_us", "completion": "bash", "help completion": "bash", "help completion bash": "source",
	} {
		env, out, errs := stage(&fake{})
		if code := Run(context.Background(), env, strings.Fields(args)); code != 0 || errs.Len() > 0 || !strings.Contains(out.String(), want) {
			t.Errorf("%q: exit %d, %s, %.200q", args, code, errs, out)
		}
	}
}

// A device that nobody gave a socket says who starts it.
func TestDeviceByHand(t *testing.T) {
	err := System().Device(context.Background(), device.Config{Socket: -1})
	if err == nil || !strings.Contains(err.Error(), "is started by the daemon") {
		t.Error(err)
	}
}

func TestExtraCommands(t *testing.T) {
	env, _, _ := stage(&fake{})
	ran := false
	env.Extra = append(env.Extra, func(*Env) *cobra.Command {
		return &cobra.Command{Use: "demo", RunE: func(*cobra.Command, []string) error { ran = true; return nil }}
	})
	if code := Run(context.Background(), env, []string{"demo"}); code != 0 || !ran {
		t.Errorf("exit %d, ran %v", code, ran)
	}
}

func TestOctets(t *testing.T) {
	for _, tt := range []struct {
		n    uint64
		want string
	}{
		{0, "0"}, {1023, "1023"}, {1024, "1.0K"}, {10 << 10, "10K"}, {1<<20 - 1, "1.0M"}, {999 << 10, "999K"}, {1 << 20, "1.0M"}, {5 << 30, "5.0G"}, {1<<64 - 1, "16E"},
	} {
		if got := octets(tt.n); got != tt.want {
			t.Errorf("%d octets are %q, want %q", tt.n, got, tt.want)
		}
	}
}

func TestSeveral(t *testing.T) {
	for n, want := range map[int]string{0: "0 uploads", 1: "1 upload", 2: "2 uploads"} {
		if got := several(n, "upload"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	e := driver.Event{Kind: driver.EventDeviceLost, Count: 1}
	if line := eventLine(&e); !strings.HasSuffix(line, " 1 connection") {
		t.Errorf("%q", line)
	}
}

func TestMicros(t *testing.T) {
	for _, tt := range []struct {
		us   int64
		want string
	}{{0, "-"}, {999, "999us"}, {1500, "1.5ms"}, {61_500_000, "1m1.5s"}} {
		if got := micros(tt.us); got != tt.want {
			t.Errorf("%d us are %q, want %q", tt.us, got, tt.want)
		}
	}
}
