package bpf

import (
	"errors"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/shm"
)

// What a device has of the control is to be read alone, for good.
func TestControlIsWatched(t *testing.T) {
	s, err := Load(Config{MaxConnections: 1, StaleAfter: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := shm.WatchControl(s.ControlFD())
	if err != nil {
		t.Fatal(err)
	}
	defer shm.UnmapControl(c)
	s.Control().HostPort = 77
	if c.HostPort != 77 {
		t.Errorf("host port %d", c.HostPort)
	}
	page := unsafe.Slice((*byte)(unsafe.Pointer(c)), unix.Getpagesize())
	if err := unix.Mprotect(page, unix.PROT_READ|unix.PROT_WRITE); !errors.Is(err, unix.EACCES) {
		t.Errorf("made writable: %v", err)
	}
}
