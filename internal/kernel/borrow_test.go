package kernel

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"testing"

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
