package bench

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/testnet"
)

func TestCPUMask(t *testing.T) {
	for cpu, want := range map[int]string{-1: "0", 0: "1", 5: "20", 31: "80000000", 32: "1,00000000", 65: "2,00000000,00000000"} {
		if got := cpuMask(cpu); got != want {
			t.Errorf("processor %d: %s, want %s", cpu, got, want)
		}
	}
}

func TestSteer(t *testing.T) {
	n := testnet.New(t)
	for _, cpu := range []int{1, 0, -1} {
		if err := steer(n.Peer, n.PeerIf, cpu); err != nil {
			t.Fatal(err)
		}
		got := strings.TrimLeft(steeredTo(t, n.Peer, n.PeerIf), "0,")
		if want := strings.TrimLeft(cpuMask(cpu), "0,"); got != want {
			t.Errorf("processor %d: %q, want %q", cpu, got, want)
		}
	}
	if err := steer(n.Host, n.PeerIf, 0); err == nil {
		t.Error("an interface of another namespace is taken")
	}
}

func steeredTo(t *testing.T, ns *testnet.Namespace, ifName string) string {
	t.Helper()
	b := make([]byte, 100)
	err := ns.Do(func() error {
		fd, err := mountSysfs()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		file, err := unix.Openat(fd, "class/net/"+ifName+"/queues/rx-0/rps_cpus", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(file)
		n, err := unix.Read(file, b)
		b = b[:max(n, 0)]
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// A process is pinned with all its threads, and let go again.
func TestPinProcess(t *testing.T) {
	var before, now unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	c, err := twoCores()
	if err != nil {
		t.Fatal(err)
	}
	undo, err := pinProcess(c.other)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // on whichever thread
		done := make(chan error)
		go func() { done <- unix.SchedGetaffinity(0, &now) }()
		if err := <-done; err != nil || now.Count() != 1 || !now.IsSet(c.other) {
			t.Errorf("pinned to %d: %v, %v", c.other, now, err)
		}
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if err := unix.SchedGetaffinity(0, &now); err != nil || now != before {
		t.Errorf("let go: %v, %v; want %v", now, err, before)
	}
}

// One processor is too few.
func TestTwoCores(t *testing.T) {
	c, err := twoCores()
	if err != nil || c.host == c.other {
		t.Fatalf("%+v, %v", c, err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := pin(0, c.host); err != nil {
			t.Error(err)
		}
		_, err := twoCores()
		done <- err
	}()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "two are needed") {
		t.Errorf("with one processor: %v", err)
	}
}

// What is left of a processor is all of it or less, and next to nothing while
// somebody uses it.
func TestSpare(t *testing.T) {
	n := testnet.New(t)
	c, err := twoCores()
	if err != nil {
		t.Fatal(err)
	}
	s, err := startSpare(t.Context(), n.Host, c.host)
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	begin := s.count()
	for end := time.Now().Add(10 * time.Second); s.count() == begin; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not count")
		}
	}
	left, took := make(chan time.Duration), time.Duration(0)
	go func() {
		runtime.LockOSThread()
		if err := pin(0, c.host); err != nil {
			t.Error(err)
		}
		begin, before := time.Now(), s.count()
		for time.Since(begin) < 200*time.Millisecond {
		}
		took = time.Since(begin)
		left <- s.count() - before
	}()
	if got := <-left; got > took/2 {
		t.Errorf("of %v that somebody used, %v are left", took, got)
	}
}
