package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/testnet"
)

func TestBypassable(t *testing.T) {
	n := testnet.New(t)
	set := func(level, option, value int) func(*pair) error {
		return func(p *pair) error { return unix.SetsockoptInt(p.fd, level, option, value) }
	}
	for _, tt := range []struct {
		name string
		edit func(*pair) error
		want abi.Reason
	}{
		{"plain", func(*pair) error { return nil }, abi.None},
		{"blocking", func(p *pair) error { return unix.SetNonblock(p.fd, false) }, abi.BlockingSocket},
		{"low-water mark", set(unix.SOL_SOCKET, unix.SO_RCVLOWAT, 2), abi.LowWaterMark},
		{"offset of peeks", set(unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0), abi.LowWaterMark},
		{"low-water mark of what is unsent", set(unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 16384), abi.LowWaterMark},
		{"no low-water mark of what is unsent", set(unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, -1), abi.None},
		{"the namespace's low-water mark of what is unsent", set(unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 0), abi.None},
		{"corked", set(unix.IPPROTO_TCP, unix.TCP_CORK, 1), abi.SocketOption},
		{"a user timeout", set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1000), abi.SocketOption},
		{"a send buffer", set(unix.SOL_SOCKET, unix.SO_SNDBUF, 10000), abi.SocketOption},
		{"zero copy", set(unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1), abi.ZeroCopy},
		{"half closed", func(p *pair) error { return p.s.CloseWrite() }, abi.NotEstablished},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPair(t, n, kinds[0])
			if err := tt.edit(p); err != nil {
				t.Fatal(err)
			}
			var s Screen
			got, detail := s.Bypassable(p.fd, []Owner{{PID: os.Getpid(), FD: p.fd}})
			if err := unix.SetNonblock(p.fd, true); err != nil { // as the runtime has it
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("%v (%s), want %v", got, detail, tt.want)
			}
		})
	}
	p := newPair(t, n, kinds[0])
	var s Screen
	if got, _ := s.Bypassable(p.fd, nil); got != abi.NoOwner {
		t.Errorf("without owners: %v", got)
	}
	if got, _ := s.Bypassable(p.fd, []Owner{{PID: os.Getpid()}, {PID: endedProcess(t)}}); got != abi.NoOwner {
		t.Errorf("an owner that has ended: %v", got)
	}
	if got, _ := s.Bypassable(-1, []Owner{{PID: os.Getpid()}}); got != abi.InternalError {
		t.Errorf("no descriptor: %v", got)
	}
}

// A traced process and one with an io_uring cannot be frozen.
func TestFreezable(t *testing.T) {
	for _, tt := range []struct {
		name, status string
		descriptors  []string
		want         abi.Reason
	}{
		{"plain", "Name:\tx\nTracerPid:\t0\n", []string{"socket:[7]", "/dev/null"}, abi.None},
		{"traced", "Name:\tx\nTracerPid:\t17\n", nil, abi.Traced},
		{"io_uring", "TracerPid:\t0\n", []string{"/dev/null", "anon_inode:[io_uring]"}, abi.IOUring},
		{"another file of the name", "TracerPid:\t0\n", []string{"/tmp/anon_inode:[io_uring]"}, abi.None},
		{"no such field", "Name:\tx\n", nil, abi.InternalError},
	} {
		dir := t.TempDir()
		err := errors.Join(os.WriteFile(filepath.Join(dir, "status"), []byte(tt.status), 0o600), os.Mkdir(filepath.Join(dir, "fd"), 0o700))
		for i, to := range tt.descriptors {
			err = errors.Join(err, os.Symlink(to, filepath.Join(dir, "fd", fmt.Sprint(i))))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := freezable(dir, 5); got.reason != tt.want {
			t.Errorf("%s: %v (%s), want %v", tt.name, got.reason, got.detail, tt.want)
		}
	}
}

// A real io_uring is recognized.
func TestFreezableWithRing(t *testing.T) {
	params := make([]byte, 120) // struct io_uring_params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params[0])), 0)
	if errno == unix.ENOSYS || errno == unix.EPERM {
		return // the kernel has none, so no program has
	}
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(int(fd))
	var s Screen
	if got := s.process(os.Getpid()); got.reason != abi.IOUring {
		t.Errorf("%v (%s)", got.reason, got.detail)
	}
}

// Every descriptor of every process that has a socket is found.
func TestFindAllOwners(t *testing.T) {
	n := testnet.New(t)
	p := newPair(t, n, kinds[0])
	again, err := unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(again)
	file, err := p.s.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	child := n.Host.Command("bash", "-c", "exec 9<&3; read x")
	child.ExtraFiles = []*os.File{file}
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer stdin.Close()
	_, inode := identity(t, p.s)
	var want, got []string
	for _, o := range [][2]int{{os.Getpid(), p.fd}, {os.Getpid(), again}, {os.Getpid(), int(file.Fd())}, {child.Process.Pid, 3}, {child.Process.Pid, 9}} {
		want = append(want, fmt.Sprint(o))
	}
	slices.Sort(want)
	eventually(t, "all owners are found", func() bool {
		found, err := FindAllOwners([]uint64{inode, 0, 1 << 60})
		if err != nil || len(found[1<<60]) != 0 {
			t.Fatal(found, err)
		}
		got = nil
		for _, o := range found[inode] {
			got = append(got, fmt.Sprint([2]int{o.PID, o.FD}))
		}
		slices.Sort(got)
		return strings.Join(got, " ") == strings.Join(want, " ")
	})
}
