package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strconv"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
)

// A Window is what a connection's socket is to be given: congestion window and
// slow-start threshold, in segments, and what its congestion control is to
// know beside; only Give does the latter.
type Window struct {
	Key            flow.Key
	Cwnd, Ssthresh uint32
	Inode          uint64   // of the socket, for who looks for a descriptor of it; 0: there is none
	Private        *Private // nil: nothing
}

// A Private is the private state of a congestion control: of cubic or bbr.
type Private struct {
	Control [16]byte // its name, zero padded
	BBR     abi.BBRState
	Cubic   abi.CubicState
}

// A wantedWindow is struct window of c/windows.c.
type wantedWindow struct {
	BBR            abi.BBRState
	Own            [16]byte
	Cubic          abi.CubicState
	Cwnd, Ssthresh uint32
	_              [4]byte
}

// maxWindows is the size of the map wanted of c/windows.c.
const maxWindows = 4096

// Windows sets the congestion windows of kernel sockets. It registers a
// congestion control of a name of its own (controlName), which no socket keeps,
// for as long as it is open. Set may be called from several goroutines.
type Windows struct {
	objects    windowsObjects
	name       string // of the congestion control
	registered int    // descriptor of the link that registers the congestion control
	iterator   *link.Iter
	mu         sync.Mutex // of the map wanted
}

// lentName is followed by what tells processes apart.
const lentName = "toehold_"

// firstPIDNamespace is the inode of the namespace that the machine begins with
// (PROC_PID_INIT_INO of include/linux/proc_ns.h).
const firstPIDNamespace = 0xeffffffc

// controlName is the name for a process by its number and the inode of its PID
// namespace: names are the whole machine's, numbers are not.
func controlName(pid int, namespace uint64) string {
	if namespace == firstPIDNamespace {
		return lentName + strconv.Itoa(pid)
	}
	h := fnv.New64a()
	fmt.Fprint(h, pid, namespace)
	const room = 36 * 36 * 36 * 36 * 36 * 36 // after the letter, which no number begins with
	return lentName + "n" + strconv.FormatUint(h.Sum64()%room, 36)
}

// pidNamespace is the inode of the process's own, 0 when that is not to be known.
func pidNamespace() uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/pid", &st) != nil {
		return 0
	}
	return st.Ino
}

// Lent reports whether a congestion control's name, padded with zeros, is that
// of one which a socket has for a moment only, while a window is set.
func Lent(control [16]byte) bool { return bytes.HasPrefix(control[:], []byte(lentName)) }

// LoadWindows loads the programs and registers the congestion control.
func LoadWindows() (*Windows, error) {
	w := &Windows{registered: -1}
	if err := w.load(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *Windows) load() error {
	spec, err := loadWindows()
	if err != nil {
		return err
	}
	w.name = controlName(os.Getpid(), pidNamespace())
	if err := rename(spec, w.name); err != nil {
		return err
	}
	if err := LoadFitted(spec, &w.objects, "congestion control in BPF (struct_ops)", "6.4"); err != nil {
		return err
	}
	if w.registered, err = register(w.objects.Lent); err != nil {
		return Missing("congestion control in BPF (struct_ops link)", "6.4", err)
	}
	w.iterator, err = link.AttachIter(link.IterOptions{Program: w.objects.windowsPrograms.Windows})
	return Missing("BPF iterators", "5.8", err)
}

// rename gives the congestion control a name of this process, as two of one
// name cannot be.
func rename(spec *ebpf.CollectionSpec, as string) error {
	var name [16]byte
	copy(name[:], as)
	if err := spec.Variables[windowsVarLentName].Set(name); err != nil {
		return err
	}
	value := spec.Maps[windowsMapLent].Contents[0].Value.([]byte)
	const at = 3 * 8 // of struct tcp_congestion_ops in c/kernel.h
	if string(value[at:at+8]) != "toehold\x00" {
		return errors.New("the congestion control's name is not where it should be")
	}
	copy(value[at:], name[:])
	return nil
}

// register makes the link that a struct_ops map is registered by
// (BPF_LINK_CREATE); it lasts as long as the descriptor.
func register(m *ebpf.Map) (int, error) {
	attr := struct {
		mapFD, target, attachType, flags uint32
		_                                [48]byte
	}{mapFD: uint32(m.FD()), attachType: uint32(ebpf.AttachStructOps)}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// Set gives sockets of the calling thread's network namespace their windows.
// It finds them by a walk over all connections, and holds the lock of one
// after the other. Sockets whose congestion control computes the window from
// what it measures, and those that have gone, are left as they are; so are
// those that the kernel does not let change. It returns how many have the
// windows now.
func (w *Windows) Set(list []Window) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := 0
	for len(list) > 0 {
		n := min(len(list), maxWindows)
		set, err := w.set(list[:n])
		if count += set; err != nil {
			return count, fmt.Errorf("set %d congestion windows: %w", n, err)
		}
		list = list[n:]
	}
	return count, nil
}

func (w *Windows) set(list []Window) (int, error) {
	keys, values := make([]octets, len(list)), make([]wantedWindow, len(list))
	for i := range list {
		keys[i] = asOctets([]flow.Key{list[i].Key})[0]
		values[i] = wantedWindow{Cwnd: list[i].Cwnd, Ssthresh: list[i].Ssthresh}
	}
	if _, err := w.objects.Wanted.BatchUpdate(keys, values, nil); err != nil {
		return 0, err
	}
	count, err := w.walk()
	return count, errors.Join(err, w.forget(keys))
}

// forget empties the map; a key that was given twice is not there any more.
func (w *Windows) forget(keys []octets) error {
	for len(keys) > 0 {
		done, err := w.objects.Wanted.BatchDelete(keys, nil)
		if err == nil || !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		keys = keys[min(done+1, len(keys)):]
	}
	return nil
}

// The outcomes of c/windows.c that leave a socket with its windows.
const (
	windowSet      = 1
	windowSame     = 2
	windowReplaced = 5
)

// walk runs the iterator and counts the sockets that have their windows.
func (w *Windows) walk() (int, error) {
	file, err := w.iterator.Open()
	if err != nil {
		return 0, err
	}
	defer file.Close()
	outcomes, err := io.ReadAll(file)
	count := 0
	for ; len(outcomes) >= 4; outcomes = outcomes[4:] {
		switch binary.NativeEndian.Uint32(outcomes) {
		case windowSet, windowSame, windowReplaced:
			count++
		}
	}
	return count, err
}

// Give sets the window of one socket, of which fd is a descriptor, and the
// private state of its congestion control, which x has. It is an error, and the
// socket goes on with a window and state of the kernel's, when it has
// another congestion control by now or may not change it.
func (w *Windows) Give(fd int, x *Window) error {
	own, err := congestionOf(fd)
	if err != nil {
		return err
	}
	if want := unix.ByteSliceToString(x.Private.Control[:]); own != want {
		return fmt.Errorf("the socket's congestion control is %s, not %s", own, want)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := asOctets([]flow.Key{x.Key})[0]
	p := x.Private
	err = w.objects.Wanted.Put(&key, &wantedWindow{BBR: p.BBR, Own: p.Control, Cubic: p.Cubic, Cwnd: x.Cwnd, Ssthresh: x.Ssthresh})
	if err != nil {
		return fmt.Errorf("name the socket to the congestion control: %w", err)
	}
	return errors.Join(w.lend(fd, own), w.objects.Wanted.Delete(&key))
}

// lend has the congestion control init, which gives the socket its own back.
// It does not when fd is not of the socket that it knows: then that is
// for lend to do.
func (w *Windows) lend(fd int, own string) error {
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, w.name); err != nil {
		return fmt.Errorf("set congestion control %s: %w", w.name, err)
	}
	now, err := congestionOf(fd)
	if err != nil || now != w.name {
		return err
	}
	for _, name := range []string{own, "reno"} {
		if err = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name); err == nil {
			break
		}
	}
	return errors.Join(fmt.Errorf("congestion control %s did not give the socket back to %s", w.name, own), err)
}

func congestionOf(fd int) (string, error) {
	name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil {
		return "", fmt.Errorf("read the socket's congestion control: %w", err)
	}
	return name, nil
}

// Close unregisters the congestion control and closes everything.
func (w *Windows) Close() error {
	var errs []error
	if w.registered >= 0 {
		errs = append(errs, unix.Close(w.registered))
		w.registered = -1
	}
	if w.iterator != nil {
		errs = append(errs, w.iterator.Close())
		w.iterator = nil
	}
	return errors.Join(append(errs, w.objects.Close())...)
}
