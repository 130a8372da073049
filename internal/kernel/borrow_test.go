package kernel

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/testnet"
)

// A descriptor of another process is of the same socket; one that has become
// something else, or is gone, is not lent.
func TestBorrow(t *testing.T) {
	n := testnet.New(t)
	l, err := n.Host.Listen("tcp", netip.AddrPortFrom(n.HostIP4, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := l.Addr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
	child := n.Host.Command("bash", "-c", "exec 7<>/dev/tcp/"+to.Addr().String()+"/"+portOf(to)+"; read -u 7 x")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	mine, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	var found Socket
	eventually(t, "the owner is found", func() bool {
		var socks []Socket
		in(t, n.Host, func() (err error) { socks, err = Sockets(); return err })
		if err := FindOwners(socks); err != nil {
			t.Fatal(err)
		}
		for _, s := range socks {
			if s.Flow == idOf(mine).Reverse() {
				found = s
			}
		}
		return found.Owner.PID == child.Process.Pid
	})
	wrong := errors.New("wrong")
	err = Borrow(found.Owner, found.State.Inode, func(fd int) error {
		name, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		if port := name.(*unix.SockaddrInet4).Port; port != int(found.Flow.Local.Port()) {
			t.Errorf("the socket has port %d, want %v", port, found.Flow.Local)
		}
		return wrong
	})
	if !errors.Is(err, wrong) {
		t.Errorf("got %v", err)
	}
	never := func(int) error { t.Error("it was lent"); return nil }
	if err := Borrow(found.Owner, found.State.Inode+1, never); err == nil {
		t.Error("no error for another inode")
	}
	if err := Borrow(Owner{PID: found.Owner.PID, FD: 99}, found.State.Inode, never); !errors.Is(err, unix.EBADF) {
		t.Errorf("a descriptor that is closed: %v", err)
	}
	if err := Borrow(Owner{PID: endedProcess(t), FD: 7}, found.State.Inode, never); err == nil {
		t.Error("no error for a process that has ended")
	}
}

// endedProcess is the number of a process that was.
func endedProcess(t *testing.T) int {
	t.Helper()
	c := exec.Command("/bin/true")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	return c.Process.Pid
}

// A program may close its descriptor while it is lent, of a socket that lingers
// (SO_LINGER). Then ours is the last, and nobody waits for it.
func TestBorrowDoesNotLinger(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { unix.Close(fd) }()
	to := &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(unix.Connect(fd, to), unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 60})); err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept() // who reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close() // ends the lingering
	for err == nil {
		err = unix.Sendto(fd, make([]byte, 1<<16), unix.MSG_DONTWAIT, nil)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	owner := Owner{PID: os.Getpid(), FD: fd}
	go func() {
		done <- Borrow(owner, st.Ino, func(int) error {
			err := unix.Close(owner.FD)
			fd = -1
			return err
		})
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it lingers")
		peer.Close()
		<-done
	}
}

// Files that are no sockets are not lent, whatever their inode.
func TestBorrowOfAFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	err = Borrow(Owner{PID: os.Getpid(), FD: int(f.Fd())}, st.Ino, func(int) error { t.Error("it was lent"); return nil })
	if err == nil {
		t.Error("no error")
	}
}
