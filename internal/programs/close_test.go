package programs

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/rig"
)

// A step is "WHO WORD = ANSWER"; the answer is "ok" when it is left out.
// "offload" and "upload" move the connection, "wait" lets what is on its way
// arrive. WHO is program or peer.
var endings = map[string]string{
	"half-close of the program": `
		program write; program shutdown; peer read; peer read-end
		peer write; program read; peer close; program read-end; program exit`,
	"half-close of the peer": `
		peer write; peer shutdown; program read; program read-end
		program write; peer read; program close; peer read-end`,
	"close": `
		program write; program close; peer read; peer read-end; peer close`,
	"close with unread data resets": `
		peer write; wait; program close; peer read-end = reset`,
	"linger 0 resets": `
		program linger-0; program close; peer read-end = reset`,
	"exit is a close": `
		program write; program exit; peer read; peer read-end`,
	"death is a close": `
		program write; wait; program kill; peer read; peer read-end`,
	"death with unread data resets": `
		peer write; wait; program kill; peer read-end = reset`,
	"reset by the peer": `
		peer linger-0; peer close; program read-end = reset; program exit`,
	"the peer goes away with unread data": `
		program write; wait; peer close; program read-end = reset; program exit`,
	"both at once": `
		program shutdown; peer shutdown; program read-end; peer read-end; program close; peer close`,
	"upload in the half-closed state": `
		program write; program shutdown; peer read; peer read-end; upload
		peer write; program read; peer close; program read-end; program exit`,
	"offload in CLOSE-WAIT": `
		upload; peer shutdown; program read-end; offload
		program write; peer read; program close; peer read-end`,
}

// TestEndings plays each ending on the device, and on the kernel alone to show
// that the kernel does the same.
func TestEndings(t *testing.T) {
	r := newRig(t)
	for name, script := range endings {
		for family, a := range families(r.Net) {
			t.Run(name+"/"+family, func(t *testing.T) { play(t, r, a, "offload; "+script) })
		}
		t.Run(name+"/kernel", func(t *testing.T) {
			play(t, r, r.Net.HostIP4, strings.NewReplacer("offload", "wait", "upload", "wait").Replace(script))
		})
	}
	awaitNothingOffloaded(t, r)
}

// A scene is a program and its peer.
type scene struct {
	rig     *rig.Rig
	program *process
	peer    *net.TCPConn
	selects netip.AddrPort
}

func play(t *testing.T, r *rig.Rig, host netip.Addr, script string) {
	t.Helper()
	s := &scene{rig: r, program: startProgram(t, r.Net.Host, "/proc/self/exe", programName, "script", netip.AddrPortFrom(host, 0).String())}
	c, err := r.Net.Peer.Dial("tcp", s.program.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.peer, s.selects = c.(*net.TCPConn), rig.Address(c.LocalAddr())
	if got := s.program.line(t); got != "accepted" {
		t.Fatalf("the program says %q", got)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	for _, step := range strings.FieldsFunc(script, func(r rune) bool { return r == ';' || r == '\n' }) {
		if step = strings.TrimSpace(step); step != "" {
			s.step(t, step)
		}
	}
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
	case "offload":
		r, err := s.rig.Offload(t.Context(), rig.Peer(s.selects))
		return movedOne(len(r.Moved), r.Refused, err)
	case "upload":
		r, err := s.rig.Upload(t.Context(), rig.Peer(s.selects))
		return movedOne(len(r.Moved), r.Refused, err)
	}
	return "unknown step"
}

func movedOne(moved int, refused any, err error) string {
	if err != nil || moved != 1 {
		return fmt.Sprintf("%d moved, refused %v, %v", moved, refused, err)
	}
	return "ok"
}

// tell has the program do something and returns what it answers.
func (s *scene) tell(t *testing.T, word string) string {
	t.Helper()
	switch word {
	case "kill":
		s.program.cmd.Process.Signal(syscall.SIGKILL)
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
	case "read":
		b := make([]byte, messageSize)
		if _, err := io.ReadFull(s.peer, b); err != nil {
			return err
		}
		if !slices.Equal(b, message("program")) {
			return errors.New("not the program's message")
		}
		return nil
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
	return unix.ENOSYS
}
