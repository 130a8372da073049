package driver

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/kernel"
)

// A ward is a connection whose socket a program of its own has, and an operation
// on it.
type ward struct {
	*operation
	t       *testing.T
	peer    *net.TCPConn
	program *exec.Cmd
	patient *patient
	ends    []handover.Rebuilt
	untied  int
	left    int
}

func newWard(t *testing.T) *ward {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	peer.SetDeadline(time.Now().Add(10 * time.Second))
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	w := &ward{t: t, peer: peer.(*net.TCPConn), program: exec.Command("sleep", "60")}
	w.give(s.(*net.TCPConn))
	return w
}

// give has the program hold the socket instead of us.
func (w *ward) give(s *net.TCPConn) {
	f, err := s.File()
	if err != nil {
		w.t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		w.t.Fatal(err)
	}
	w.program.ExtraFiles = []*os.File{f}
	if err := w.program.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { w.program.Process.Kill(); w.program.Wait() })
	id := abi.MakeHWID(0, 5)
	ch := &channel{id: id, fd: -1, inode: st.Ino, thawed: make(chan struct{})}
	ch.flow = flow.ID{Local: s.LocalAddr().(*net.TCPAddr).AddrPort(), Remote: s.RemoteAddr().(*net.TCPAddr).AddrPort()}
	if ch.fd, err = kernel.OpenChannel(); err != nil {
		w.t.Fatal(err)
	}
	w.patient = newPatient(ch)
	w.operation = &operation{
		log: slog.New(slog.DiscardHandler), blocks: make([]abi.Block, 1), rings: make([]byte, abi.RingSize), patients: []*patient{w.patient},
		rebuilt: func(e []handover.Rebuilt) { w.ends = e; ch.thaw(false) },
		untie:   func(*channel) error { w.untied++; return nil },
		leave:   func(*channel) error { w.left++; return nil },
		seat:    func(flow.Key, bpf.OrderSet) {},
	}
	w.blocks[0].Ledger = abi.LedgerPart{HWID: id}
	s.Close()
	f.Close()
}

// trace is a debugger at the program. The tracer is a thread.
func (w *ward) trace() {
	runtime.LockOSThread()
	w.t.Cleanup(runtime.UnlockOSThread)
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(w.program.Process.Pid), 0, 0, 0, 0); errno != 0 {
		w.t.Fatal(errno)
	}
}

func (w *ward) expect(reason abi.Reason, over bool) {
	w.t.Helper()
	if len(w.ends) != 1 || w.ends[0].HWID != w.patient.id || w.ends[0].Over != over || w.ends[0].Reason != reason {
		w.t.Errorf("ends: %+v, want %v, over %v", w.ends, reason, over)
	}
}

// quiet reports that the peer is told nothing.
func (w *ward) quiet() {
	w.t.Helper()
	w.peer.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := w.peer.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Errorf("the peer reads %d octets, %v", n, err)
	}
}

func (w *ward) reset() {
	w.t.Helper()
	w.peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := w.peer.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		w.t.Errorf("the peer reads %d octets, %v", n, err)
	}
	if w.patient.channel.fd != -1 {
		w.t.Error("the channel is open")
	}
}

// A program that cannot be frozen keeps all, and no descriptor is closed: not the
// one with number 0 either, which may be anybody's.
func TestOperationOnATracedProgram(t *testing.T) {
	w := newWard(t)
	w.trace()
	if err := findOwners([]*channel{{inode: w.patient.inode}}); err != nil { // what that opens stays open
		t.Fatal(err)
	}
	before := descriptors(t)
	w.run()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if _, err := unix.FcntlInt(0, unix.F_GETFD, 0); errors.Is(err, unix.EBADF) {
		t.Error("descriptor 0 is closed")
	}
	w.expect(abi.Traced, false)
	w.quiet()

	w.ends, w.patient = nil, newPatient(w.patient.channel)
	w.patient.last, w.patients = true, []*patient{w.patient}
	w.run()
	w.expect(abi.Traced, true)
	w.reset()
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A ledger that makes no sense is found when the queues have been taken: the
// connection cannot go on, and both ends hear of it.
func TestOperationWithNonsense(t *testing.T) {
	w := newWard(t)
	w.blocks[0].Ledger.SndUna = 1 << 30
	w.run()
	w.expect(abi.NotRebuilt, true)
	w.reset()
	if w.untied == 0 {
		t.Error("it is tied")
	}
}

// A socket whose TCP has come to its end is left to its program, with what there is
// to be read.
func TestOperationOnAClosedSocket(t *testing.T) {
	for _, tt := range []struct {
		name        string
		alive, over bool
	}{
		{"a device that has to say so", true, false},
		{"no device", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWard(t)
			w.alive = tt.alive
			w.peer.SetLinger(0)
			w.peer.Close()
			if err := findOwners([]*channel{w.patient.channel}); err != nil {
				t.Fatal(err)
			}
			closed := func(fd int) error {
				if !over(fd) {
					return errors.New("the socket is not closed")
				}
				return nil
			}
			for by := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				err := kernel.Borrow(w.patient.owners[0], w.patient.inode, closed)
				if err == nil {
					break
				}
				if time.Now().After(by) {
					t.Fatal(err)
				}
			}
			w.run()
			w.expect(abi.NotEstablished, tt.over)
			if w.untied != 0 || (w.left == 1) != tt.over {
				t.Errorf("untied %d times, left %d times", w.untied, w.left)
			}
		})
	}
}

// A program may be killed while it is frozen, and its socket may linger (SO_LINGER).
// Then the last descriptor is ours, and nobody waits for it.
func TestOperationDoesNotLinger(t *testing.T) {
	w := newWard(t)
	if err := findOwners([]*channel{w.patient.channel}); err != nil {
		t.Fatal(err)
	}
	fd, err := kernel.Take(w.patient.owners[0], w.patient.inode)
	if err != nil {
		t.Fatal(err)
	}
	w.patient.fd = fd
	err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 60})
	for err == nil { // the peer reads nothing
		err = unix.Sendto(fd, make([]byte, 1<<16), unix.MSG_DONTWAIT, nil)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	w.program.Process.Kill()
	w.program.Wait()
	done := make(chan struct{})
	go func() {
		w.finish()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("it lingers")
	}
	w.peer.Close() // ends the lingering
	<-done
	w.patient.channel.close(w.log)
}

// Connections that are over, and of whose programs nobody has anything to read any
// more, do not pile up.
func TestRemember(t *testing.T) {
	w, u := newWard(t), testUplink()
	if err := findOwners([]*channel{w.patient.channel}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.peer.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	for by := time.Now().Add(10 * time.Second); !w.patient.unread(); time.Sleep(time.Millisecond) {
		if time.Now().After(by) {
			t.Fatal("nothing has come")
		}
	}
	u.remember(w.patient.channel)
	for range 1000 {
		u.remember(new(channel))
	}
	if n := len(u.unread); n > 128 {
		t.Errorf("%d are remembered", n)
	}
	if u.unread[0] != w.patient.channel {
		t.Error("the one whose program has something to read is forgotten")
	}
	w.patient.channel.close(w.log)
}
