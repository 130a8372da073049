package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/control"
	"toehold/internal/driver"
)

// busy is a daemon whose connections carry more each time somebody looks; the
// n-th sends n times 1000 octets in between.
type busy struct {
	*fake
	looks uint64
	ends  error // what the daemon says after the first look
}

func (b *busy) List(ctx context.Context, s driver.Selector) ([]driver.Connection, error) {
	if b.looks++; b.looks > 1 && b.ends != nil {
		return nil, b.ends
	}
	conns, err := b.fake.List(ctx, s)
	for i := range conns {
		conns[i].BytesSent += b.looks * uint64(i+1) * 1000
	}
	return conns, err
}

// newTop looks once, at noon; now moves by two seconds each time.
func newTop(t *testing.T, b *busy) *top {
	t.Helper()
	env, _, _ := stage(b.fake)
	at := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	env.Now = func() time.Time { at = at.Add(2 * time.Second); return at }
	top := &top{env: env, client: b, interval: time.Millisecond}
	if err := top.look(context.Background()); err != nil {
		t.Fatal(err)
	}
	return top
}

func newBusy() *busy { return &busy{fake: &fake{conns: sample()}} }

// A paper is a Screen that keeps what is drawn.
type paper struct {
	mu            sync.Mutex
	pages         []string
	columns, rows int
	keys          chan byte
	closed        int
}

func (p *paper) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pages = append(p.pages, string(b))
	return len(b), nil
}
func (p *paper) Size() (int, int)  { return p.columns, p.rows }
func (p *paper) Keys() <-chan byte { return p.keys }
func (p *paper) Close() error      { p.closed++; return nil }

// lines are those of the last page without control sequences.
func (p *paper) lines() []string {
	page := p.pages[len(p.pages)-1]
	for _, s := range []string{firstLine, restOfPage, inverse, upright} {
		page = strings.ReplaceAll(page, s, "")
	}
	return strings.Split(strings.TrimSuffix(page, endOfLine), endOfLine)
}

func TestTopShowsTheBusiestFirst(t *testing.T) {
	top, screen := newTop(t, newBusy()), &paper{columns: 200, rows: 24}
	if err := top.look(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := top.draw(screen); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"12:00:04  3 connections: 1 on a device, 0 moving, 2 in the kernel; sending 2.9K/s, receiving 0/s",
		"eth0  running, 20 of 16384 connections, load 12.5%, buffers 3.0M of 1.0G, 3 frames dropped",
		"eth1  down, 0 of 0 connections",
		"PLACE   LOCAL          REMOTE           SEND/S  RECEIVE/S     RTT  CWND  RETRANS  PID  COMMAND",
		"kernel  10.0.0.1:22    10.0.0.9:50000     1.5K          0       -     0        0    -  -",
		"eth0    [fd00::1]:443  [fd00::2]:40001    1000          0  25.0ms    64        3   42  nginx",
		"kernel  10.0.0.1:80    10.0.0.2:40000      500          0   120us    10        0   42  nginx",
	}
	if got := screen.lines(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("drawn:\n%s", strings.Join(got, "\n"))
	}
}

// What does not fit is cut off, and a name is no control sequence.
func TestTopFitsTheScreen(t *testing.T) {
	b := newBusy()
	b.conns[0].Comm = "\x1b[2Jevil\n"
	top := newTop(t, b)
	for _, size := range [][2]int{{30, 5}, {200, 24}, {1, 2}, {40, 1}} {
		screen := &paper{columns: size[0], rows: size[1]}
		if err := top.draw(screen); err != nil {
			t.Fatal(err)
		}
		lines := screen.lines()
		if len(lines) > max(size[1]-1, 1) {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, l := range lines {
			if len([]rune(l)) > size[0] || strings.ContainsAny(l, "\x1b\n") {
				t.Errorf("%v: line %q", size, l)
			}
		}
	}
}

func TestTopRates(t *testing.T) {
	for _, tt := range []struct {
		was, now uint64
		since    time.Duration
		want     uint64
	}{{0, 1000, time.Second, 1000}, {1000, 1000, time.Second, 0}, {1000, 10, time.Second, 0}, {0, 1000, 4 * time.Second, 250}, {0, 1000, 0, 0}, {0, 1000, -time.Second, 0}} {
		if got := rate(tt.was, tt.now, tt.since); got != tt.want {
			t.Errorf("from %d to %d in %v: %d", tt.was, tt.now, tt.since, got)
		}
	}
}

// It ends by q, by the context, and with the daemon, and each time leaves the
// screen.
func TestTopEnds(t *testing.T) {
	gone := errors.New("the daemon ended")
	for name, tt := range map[string]struct {
		act  func(*paper, context.CancelFunc)
		ends error
	}{
		"q":      {func(p *paper, _ context.CancelFunc) { p.keys <- 'x'; p.keys <- 'q' }, nil},
		"^C":     {func(_ *paper, cancel context.CancelFunc) { cancel() }, nil},
		"no key": {func(p *paper, cancel context.CancelFunc) { close(p.keys); cancel() }, nil},
		"daemon": {func(*paper, context.CancelFunc) {}, gone},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBusy()
			b.ends = tt.ends
			top, screen := newTop(t, b), &paper{columns: 80, rows: 24, keys: make(chan byte)}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go tt.act(screen, cancel)
			if err := top.live(ctx, screen); !errors.Is(err, tt.ends) {
				t.Error(err)
			}
			if screen.closed != 1 || len(screen.pages) == 0 {
				t.Errorf("closed %d times after %d pages", screen.closed, len(screen.pages))
			}
		})
	}
}

// Without a daemon everything is in the kernel.
func TestTopWithoutDaemon(t *testing.T) {
	b := newBusy()
	b.err = fmt.Errorf("%w listens here", control.ErrNoDaemon)
	top := newTop(t, b)
	if head := top.head(); len(top.rows) != 3 || len(head) != 2 || !strings.Contains(head[1], "no daemon") {
		t.Errorf("%d rows under %q", len(top.rows), head)
	}
}

// pty opens a terminal and its other end.
func pty(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

// TestTopOnATerminal types q at a real one, which is as before afterwards.
func TestTopOnATerminal(t *testing.T) {
	user, program := pty(t)
	size := unix.Winsize{Row: 10, Col: 60}
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &size); err != nil {
		t.Fatal(err)
	}
	before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	b := newBusy()
	env, _, _ := stage(b.fake)
	env.Screen = func() (Screen, error) { return newTerminal(program, program) }
	code := make(chan int, 1)
	go func() { code <- Run(context.Background(), env, []string{"top", "--interval", "100ms"}) }()
	var drawn bytes.Buffer
	buf := make([]byte, 4096)
	quit := false
	for !strings.Contains(drawn.String(), closeScreen) {
		n, err := user.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, drawn.String())
		}
		if drawn.Write(buf[:n]); !quit && strings.Count(drawn.String(), "PLACE") > 1 {
			quit = true
			user.Write([]byte("q"))
		}
	}
	if c := <-code; c != ExitDone {
		t.Errorf("exit %d", c)
	}
	if !strings.HasPrefix(drawn.String(), openScreen) || !strings.HasSuffix(drawn.String(), closeScreen) {
		t.Errorf("drawn %q", drawn.String())
	}
	after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal was %+v and is %+v, %v", before, after, err)
	}
}
