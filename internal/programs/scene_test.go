package programs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/control"
	"toehold/internal/driver"
	"toehold/internal/rig"
)

// A scene is a program and its peer, played in one place: in the kernel, where
// nothing is moved, or on the device by an attachment.
//
// Its script has steps "WHO WORD = ANSWER"; the answer is "ok" when it is left
// out. "offload" and "upload" move the connection, which must succeed, "move"
// and "home" do if they can, "wait" lets what is on its way arrive. WHO is
// program or peer.
type scene struct {
	rig     *rig.Rig
	place   string
	program *process
	peer    *net.TCPConn
	selects driver.Selector
}

// nonblocking has a program of a script use O_NONBLOCK and poll.
const nonblocking = "nonblocking"

func play(t *testing.T, r *rig.Rig, place string, host netip.Addr, script string) {
	t.Helper()
	args := []string{programName, "script", netip.AddrPortFrom(host, 0).String()}
	if place == driver.Bypass {
		args = append(args, nonblocking)
	}
	s := &scene{rig: r, place: place, program: startProgram(t, r.Net.Host, "/proc/self/exe", args...)}
	c, err := r.Net.Peer.Dial("tcp", s.program.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.peer, s.selects = c.(*net.TCPConn), rig.Peer(rig.Address(c.LocalAddr()))
	if got := s.program.line(t); got != "accepted" {
		t.Fatalf("the program says %q", got)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	for _, step := range steps(script) {
		s.step(t, step)
	}
}

// steps are those of a script.
func steps(script string) (all []string) {
	for _, step := range strings.FieldsFunc(script, func(r rune) bool { return r == ';' || r == '\n' }) {
		if step = strings.TrimSpace(step); step != "" {
			all = append(all, step)
		}
	}
	return all
}

func (s *scene) step(t *testing.T, step string) {
	t.Helper()
	what, want, ok := strings.Cut(step, " = ")
	if !ok {
		want = "ok"
	}
	if got := s.act(t, what); got != want {
		t.Fatalf("step %q gives %q", step, got)
	}
}

// settle is how long "wait" waits: many times what a segment over a veth takes.
const settle = 50 * time.Millisecond

func (s *scene) act(t *testing.T, what string) string {
	t.Helper()
	who, word, _ := strings.Cut(what, " ")
	switch who {
	case "program":
		return s.tell(t, word)
	case "peer":
		return answer(s.peerDoes(word))
	case "wait":
		time.Sleep(settle)
		return "ok"
	}
	return s.move(t.Context(), who)
}

// move moves the connection, unless the scene is the kernel's. On a busy machine
// a program may not get as far in time as it has to for a move.
func (s *scene) move(ctx context.Context, how string) string {
	if s.place == driver.InKernel {
		return "ok"
	}
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		r, err := s.moveOnce(ctx, how)
		switch why := reasonOf(r); {
		case how == "move" || how == "home":
			return answer(err)
		case (why == abi.NotFrozen.String() || why == abi.NotDrained.String()) && time.Since(begin) < 10*time.Second:
		case err != nil || len(r.Moved) != 1 || why != "":
			return fmt.Sprintf("%+v, %v", r, err)
		default:
			return "ok"
		}
	}
}

func (s *scene) moveOnce(ctx context.Context, how string) (r driver.Result, err error) {
	switch how {
	case "offload", "move":
		r, err = s.rig.OffloadAs(ctx, s.selects, s.place)
	case "upload", "home":
		r, err = s.rig.Upload(ctx, s.selects)
	default:
		return r, unix.ENOSYS
	}
	if refused, ok := err.(*control.Error); ok && refused.Kind == control.NoMatch && (how == "move" || how == "home") {
		err = nil // it is over
	}
	return r, err
}

// reasonOf is why the one connection of a request is not where it was to be.
func reasonOf(r driver.Result) string {
	switch {
	case len(r.Refused) > 0:
		return r.Refused[0].Reason
	case len(r.Moved) > 0:
		return r.Moved[0].Reason
	}
	return ""
}

// tell has the program do something and returns what it answers.
func (s *scene) tell(t *testing.T, word string) string {
	t.Helper()
	switch word {
	case "kill":
		syscall.Kill(-s.program.cmd.Process.Pid, syscall.SIGKILL)
		s.program.cmd.Wait()
		return "ok"
	case "exit":
		io.WriteString(s.program.stdin, "exit\n")
		return answer(s.program.cmd.Wait())
	}
	io.WriteString(s.program.stdin, word+"\n")
	return s.program.line(t)
}

func (s *scene) peerDoes(word string) error {
	switch word {
	case "write":
		_, err := s.peer.Write(message("peer"))
		return err
	case "write-little":
		_, err := s.peer.Write([]byte("a"))
		return err
	case "read":
		b := make([]byte, messageSize)
		n, err := io.ReadFull(s.peer, b)
		return compare(b[:n], "program", err)
	case "read-end":
		n, err := s.peer.Read(make([]byte, 1))
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%d octets instead of the end", n)
		}
		return err
	case "shutdown":
		return s.peer.CloseWrite()
	case "linger-0":
		return s.peer.SetLinger(0)
	case "close":
		return s.peer.Close()
	}
	raw, err := s.peer.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		switch word {
		case "await-unread":
			inner = awaitUnread(int(fd))
		case "urgent":
			inner = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil)
		case "read-urgent":
			inner = readUrgent(int(fd))
		default:
			inner = unix.ENOSYS
		}
	})
	return errors.Join(err, inner)
}

// messageSize is what "write" and "read" move, in octets.
const messageSize = 100000

func message(who string) []byte {
	return []byte(strings.Repeat(who+" ", messageSize/(len(who)+1)+1))[:messageSize]
}

// compare says what is wrong with what was read of a message.
func compare(got []byte, who string, err error) error {
	if whole := message(who); err == nil && string(got) != string(whole) {
		err = fmt.Errorf("%d octets that are not the message of the %s", len(got), who)
	}
	return err
}

// answer names an error as both sides of a test do.
func answer(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, unix.ECONNRESET):
		return "reset"
	case errors.Is(err, unix.EPIPE):
		return "pipe"
	case errors.Is(err, unix.ETIMEDOUT):
		return "timed out"
	case errors.Is(err, io.EOF):
		return "end"
	}
	return err.Error()
}
