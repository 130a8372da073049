package freeze

import (
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A call blocks until wake, or until its timeout if it has one, and is made over
// and over by a thread of its own.
type call struct {
	name string
	open func(b *board) (once func() syscall.Errno, wake func())
}

var calls = []call{
	{"epoll_wait", epoll(func(ep int, ev *unix.EpollEvent) syscall.Errno {
		return sys(unix.SYS_EPOLL_WAIT, uintptr(ep), ptr(ev), 1, ^uintptr(0))
	})},
	{"epoll_wait with timeout", epoll(func(ep int, ev *unix.EpollEvent) syscall.Errno {
		return sys(unix.SYS_EPOLL_WAIT, uintptr(ep), ptr(ev), 1, 3000)
	})},
	{"epoll_pwait with mask", epoll(func(ep int, ev *unix.EpollEvent) syscall.Errno {
		mask := unix.Sigset_t{}
		mask.Val[0] = 1 << 40
		return sys(unix.SYS_EPOLL_PWAIT, uintptr(ep), ptr(ev), 1, ^uintptr(0), ptr(&mask), 8)
	})},
	{"epoll_pwait2 with timeout", epoll(func(ep int, ev *unix.EpollEvent) syscall.Errno {
		return sys(unix.SYS_EPOLL_PWAIT2, uintptr(ep), ptr(ev), 1, ptr(&unix.Timespec{Sec: 3}), 0, 0)
	})},
	{"epoll_wait 1 ms, never woken", func(*board) (func() syscall.Errno, func()) {
		ep, _ := unix.EpollCreate1(0)
		var ev unix.EpollEvent
		return func() syscall.Errno { return sys(unix.SYS_EPOLL_WAIT, uintptr(ep), ptr(&ev), 1, 1) }, nothing
	}},
	{"poll", pipe(func(fd int) syscall.Errno {
		p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		return sys(unix.SYS_POLL, ptr(&p), 1, ^uintptr(0))
	}, true)},
	{"poll with timeout", pipe(func(fd int) syscall.Errno {
		p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
		return sys(unix.SYS_POLL, ptr(&p), 1, 3000)
	}, true)},
	{"select", pipe(func(fd int) syscall.Errno {
		var set unix.FdSet
		set.Set(fd)
		return sys(unix.SYS_SELECT, uintptr(fd+1), ptr(&set), 0, 0, ptr(&unix.Timeval{Sec: 3}))
	}, true)},
	{"read on a pipe", pipe(readOne, false)},
	{"recv", socket(0, readOne)},
	{"recv with SO_RCVTIMEO", socket(3, readOne)},
	{"recvmsg with SO_RCVTIMEO", socket(3, func(fd int) syscall.Errno {
		var c byte
		iov := unix.Iovec{Base: &c, Len: 1}
		return sys(unix.SYS_RECVMSG, uintptr(fd), ptr(&unix.Msghdr{Iov: &iov, Iovlen: 1}), 0)
	})},
	{"recv in a sockmap", sockmap},
	{"accept", accept(0)},
	{"accept with SO_RCVTIMEO", accept(3)},
	{"nanosleep", func(*board) (func() syscall.Errno, func()) {
		return func() syscall.Errno { return sys(unix.SYS_NANOSLEEP, ptr(&unix.Timespec{Nsec: 2e6}), 0) }, nothing
	}},
	{"futex", func(*board) (func() syscall.Errno, func()) {
		word := new(uint32)
		once := func() syscall.Errno { return sys(unix.SYS_FUTEX, ptr(word), 0, 0, ptr(&unix.Timespec{Sec: 3})) }
		return once, func() { sys(unix.SYS_FUTEX, ptr(word), 1, 1) }
	}},
	{"sigtimedwait", func(*board) (func() syscall.Errno, func()) {
		set, tid := block(41), unix.Gettid()
		once := func() syscall.Errno {
			return sys(unix.SYS_RT_SIGTIMEDWAIT, ptr(set), 0, ptr(&unix.Timespec{Sec: 3}), 8)
		}
		return once, func() { unix.Tgkill(unix.Getpid(), tid, 41) }
	}},
	{"semtimedop", func(b *board) (func() syscall.Errno, func()) {
		id, _, _ := unix.Syscall(unix.SYS_SEMGET, unix.IPC_PRIVATE, 1, 0o600)
		b.sem.Store(int64(id) + 1)
		op := func(n int16) syscall.Errno {
			type sembuf struct {
				_  uint16
				op int16
				_  int16
			}
			return sys(unix.SYS_SEMTIMEDOP, id, ptr(&sembuf{op: n}), 1, ptr(&unix.Timespec{Sec: 3}))
		}
		return func() syscall.Errno { return op(-1) }, func() { op(1) }
	}},
	{"inotify read", func(*board) (func() syscall.Errno, func()) {
		fd, _ := unix.InotifyInit1(0)
		unix.InotifyAddWatch(fd, "/proc/self/exe", unix.IN_OPEN)
		buf := new([4096]byte)
		once := func() syscall.Errno { return sys(unix.SYS_READ, uintptr(fd), ptr(buf), 4096) }
		return once, func() {
			if f, err := unix.Open("/proc/self/exe", unix.O_RDONLY, 0); err == nil {
				unix.Close(f)
			}
		}
	}},
	{"busy loop", func(*board) (func() syscall.Errno, func()) {
		return func() syscall.Errno {
			for range 100000 {
				runtime.KeepAlive(0)
			}
			unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			return 0
		}, nothing
	}},
}

func nothing() {}

// ptr is an address for sys. What has it lives on the heap, which does not move,
// and which nothing collects in a child.
func ptr[T any](p *T) uintptr {
	atomic.StorePointer(&heap, unsafe.Pointer(p))
	return uintptr(unsafe.Pointer(p))
}

var heap unsafe.Pointer

func sys(nr uintptr, a ...uintptr) syscall.Errno {
	var p [6]uintptr
	copy(p[:], a)
	_, _, e := unix.Syscall6(nr, p[0], p[1], p[2], p[3], p[4], p[5])
	return e
}

func readOne(fd int) syscall.Errno {
	c := new([1]byte)
	return sys(unix.SYS_READ, uintptr(fd), ptr(c), 1)
}

// pipe wakes by an octet; take says that the call leaves it to be read.
func pipe(once func(fd int) syscall.Errno, take bool) func(*board) (func() syscall.Errno, func()) {
	return func(*board) (func() syscall.Errno, func()) {
		var p [2]int
		unix.Pipe2(p[:], 0)
		return func() syscall.Errno {
			e := once(p[0])
			if take && e == 0 {
				readOne(p[0])
			}
			return e
		}, func() { unix.Write(p[1], []byte{1}) }
	}
}

func epoll(once func(ep int, ev *unix.EpollEvent) syscall.Errno) func(*board) (func() syscall.Errno, func()) {
	return func(*board) (func() syscall.Errno, func()) {
		ep, _ := unix.EpollCreate1(0)
		fd, _ := unix.Eventfd(0, 0)
		unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET})
		return func() syscall.Errno { return once(ep, new(unix.EpollEvent)) },
			func() { unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }
	}
}

func socket(timeout int64, once func(fd int) syscall.Errno) func(*board) (func() syscall.Errno, func()) {
	return func(*board) (func() syscall.Errno, func()) {
		p, _ := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		unix.SetsockoptTimeval(p[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: timeout})
		return func() syscall.Errno { return once(p[0]) }, func() { unix.Write(p[1], []byte{1}) }
	}
}

// sockmap has the socket read by tcp_bpf_recvmsg, which returns EAGAIN when it is
// cut short.
func sockmap(*board) (func() syscall.Errno, func()) {
	l, _ := net.Listen("tcp4", "127.0.0.1:0")
	out, _ := net.Dial("tcp4", l.Addr().String())
	in, _ := l.Accept()
	file, _ := in.(*net.TCPConn).File()
	fd := int(file.Fd()) // blocking from here on
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		panic(err)
	}
	if err := m.Put(uint32(0), uint32(fd)); err != nil {
		panic(err)
	}
	kept = append(kept, l, out, in, file, m)
	return func() syscall.Errno { return readOne(fd) }, func() { out.Write([]byte{1}) }
}

// kept is what the collector may not close.
var kept []any

func accept(timeout int64) func(*board) (func() syscall.Errno, func()) {
	return func(*board) (func() syscall.Errno, func()) {
		l, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		unix.Listen(l, 100)
		at, _ := unix.Getsockname(l)
		unix.SetsockoptTimeval(l, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: timeout})
		return func() syscall.Errno {
				fd, _, e := unix.Syscall(unix.SYS_ACCEPT, uintptr(l), 0, 0)
				if e == 0 {
					unix.Close(int(fd))
				}
				return e
			}, func() {
				c, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
				unix.Connect(c, at)
				unix.Close(c)
			}
	}
}

// makeCalls makes each of the calls on a thread of its own, and wakes them.
func makeCalls(b *board) {
	wakes := make([]func(), len(calls))
	for i, c := range calls {
		opened := make(chan bool)
		go func() {
			runtime.LockOSThread()
			once, wake := c.open(b)
			wakes[i] = wake
			close(opened)
			for {
				b.note(i, once())
			}
		}()
		<-opened
	}
	go func() {
		for {
			for _, wake := range wakes {
				wake()
			}
			time.Sleep(500 * time.Microsecond)
		}
	}()
	eventuallyStarted(b, len(calls))
}
