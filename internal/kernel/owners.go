package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// An ownerRecord is struct owner_record of internal/bpf/c/sockets.c.
type ownerRecord struct {
	Inode   uint64
	PID, FD uint32
	Comm    [16]byte
}

// FindOwners fills in who holds each of the sockets: of several processes the
// first that the kernel lists, which is the one with the lowest number. The
// sockets' State.Inode says what to look for. It reads every descriptor of
// every process once, whatever the number of sockets.
func FindOwners(socks []Socket) error {
	wanted := byInode(socks)
	if len(wanted) == 0 {
		return nil
	}
	if err := ownersFromIterator(wanted); err == nil {
		return nil
	}
	return ownersFromProc("/proc", wanted)
}

// byInode is an index of the sockets that anybody can have a descriptor of.
func byInode(socks []Socket) map[uint64]*Socket {
	wanted := make(map[uint64]*Socket, len(socks))
	for i := range socks {
		if inode := socks[i].State.Inode; inode != 0 {
			wanted[inode] = &socks[i]
		}
	}
	return wanted
}

// found keeps the first owner.
func found(s *Socket, o Owner) {
	if s.Owner.PID == 0 {
		s.Owner = o
	}
}

// initialPIDNamespace is PROC_PID_INIT_INO of the kernel.
const initialPIDNamespace = "pid:[4026531836]"

// ownersFromIterator asks BPF, which numbers processes as the initial
// namespace does.
func ownersFromIterator(wanted map[uint64]*Socket) error {
	if ns, err := os.Readlink("/proc/self/ns/pid"); err != nil || ns != initialPIDNamespace {
		return fmt.Errorf("not in the initial pid namespace: %w", errors.ErrUnsupported)
	}
	it, err := loaded()
	if err != nil {
		return err
	}
	return each(it.owners, func(r *ownerRecord) {
		if s := wanted[r.Inode]; s != nil {
			comm, _, _ := bytes.Cut(r.Comm[:], []byte{0})
			found(s, Owner{int(r.PID), string(comm), int(r.FD)})
		}
	})
}

// ownersFromProc looks through a proc file system. Processes that end, or
// that this one may not look into, are passed over.
func ownersFromProc(proc string, wanted map[uint64]*Socket) error {
	processes, err := os.ReadDir(proc)
	if err != nil {
		return fmt.Errorf("find owners of sockets: %w", err)
	}
	for _, p := range processes {
		if pid, err := strconv.Atoi(p.Name()); err == nil {
			ownersFromProcess(filepath.Join(proc, p.Name()), pid, wanted)
		}
	}
	return nil
}

func ownersFromProcess(dir string, pid int, wanted map[uint64]*Socket) {
	descriptors, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return
	}
	comm := ""
	for _, d := range descriptors {
		inode, fd, ok := socketInode(dir, d)
		if !ok || wanted[inode] == nil {
			continue
		}
		if comm == "" {
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			comm = strings.TrimSuffix(string(name), "\n")
		}
		found(wanted[inode], Owner{pid, comm, fd})
	}
}

// socketInode reads a descriptor's link, "socket:[INODE]".
func socketInode(dir string, d fs.DirEntry) (inode uint64, fd int, ok bool) {
	target, err := os.Readlink(filepath.Join(dir, "fd", d.Name()))
	if err != nil {
		return 0, 0, false
	}
	number, ok := strings.CutPrefix(target, "socket:[")
	if !ok {
		return 0, 0, false
	}
	inode, err1 := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
	fd, err2 := strconv.Atoi(d.Name())
	return inode, fd, err1 == nil && err2 == nil
}
