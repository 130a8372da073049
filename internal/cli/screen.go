package cli

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A Screen is a terminal that is drawn on again and again.
type Screen interface {
	io.Writer
	Size() (columns, rows int)
	Keys() <-chan byte // what is typed; closed when nobody can type any more
	Close() error      // leaves the terminal as it was
}

// errNoTerminal is that there is nobody to draw for.
var errNoTerminal = errors.New("not a terminal")

// Control sequences of terminals (ECMA-48, and those of xterm that begin with
// a question mark).
const (
	openScreen  = "\x1b[?1049h\x1b[?25l" // the other page, without a cursor
	closeScreen = "\x1b[?25h\x1b[?1049l"
	firstLine   = "\x1b[H"
	endOfLine   = "\x1b[K\r\n"
	restOfPage  = "\x1b[J"
	inverse     = "\x1b[7m"
	upright     = "\x1b[m"
)

// A terminal is a Screen.
type terminal struct {
	in, out *os.File
	before  unix.Termios
	keys    chan byte
	closed  chan struct{}
}

// newTerminal takes a terminal over until Close. Keys come one by one and
// without an echo; ^C goes on to end the process, ^Z does nothing, as it would
// leave the page behind.
func newTerminal(in, out *os.File) (Screen, error) {
	now, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil || !isTerminal(out) {
		return nil, errNoTerminal
	}
	t := &terminal{in: in, out: out, before: *now, keys: make(chan byte), closed: make(chan struct{})}
	now.Lflag &^= unix.ICANON | unix.ECHO
	now.Cc[unix.VMIN], now.Cc[unix.VTIME], now.Cc[unix.VSUSP] = 1, 0, 0
	if err := unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, now); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(out, openScreen); err != nil {
		t.Close()
		return nil, err
	}
	go t.read()
	return t, nil
}

// read hands on what is typed. It ends with the process at the latest: nothing
// else can end a read from a terminal.
func (t *terminal) read() {
	defer close(t.keys)
	var b [1]byte
	for {
		if n, err := t.in.Read(b[:]); n == 0 || err != nil {
			return
		}
		select {
		case t.keys <- b[0]:
		case <-t.closed:
			return
		}
	}
}

// Write implements Screen.
func (t *terminal) Write(b []byte) (int, error) { return t.out.Write(b) }

// Keys implements Screen.
func (t *terminal) Keys() <-chan byte { return t.keys }

// Size implements Screen; a terminal that does not know has 80 columns and 24
// rows.
func (t *terminal) Size() (columns, rows int) {
	w, err := unix.IoctlGetWinsize(int(t.out.Fd()), unix.TIOCGWINSZ)
	if err != nil || w.Col == 0 || w.Row == 0 {
		return 80, 24
	}
	return int(w.Col), int(w.Row)
}

// Close implements Screen.
func (t *terminal) Close() error {
	close(t.closed)
	_, err := io.WriteString(t.out, closeScreen)
	return errors.Join(err, unix.IoctlSetTermios(int(t.in.Fd()), unix.TCSETS, &t.before))
}
