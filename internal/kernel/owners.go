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
	inodes := make([]uint64, len(socks))
	for i := range socks {
		inodes[i] = socks[i].State.Inode
	}
	found, err := FindAllOwners(inodes)
	if err != nil {
		return err
	}
	for i := range socks {
		if o := found[inodes[i]]; len(o) > 0 {
			socks[i].Owner = o[0]
		}
	}
	return nil
}

// FindAllOwners is who holds each of the sockets with these inodes: every
// process, and of each every descriptor. It reads every descriptor of every
// process once, whatever the number of sockets.
func FindAllOwners(inodes []uint64) (map[uint64][]Owner, error) {
	wanted := wantedOwners(inodes)
	if len(wanted) == 0 {
		return wanted, nil
	}
	if err := ownersFromIterator(wanted); err == nil {
		return wanted, nil
	}
	wanted = wantedOwners(inodes) // a walk that failed midway has found some
	return wanted, ownersFromProc("/proc", wanted)
}

// wantedOwners has an entry for every socket that anybody can have a
// descriptor of.
func wantedOwners(inodes []uint64) map[uint64][]Owner {
	wanted := make(map[uint64][]Owner, len(inodes))
	for _, inode := range inodes {
		if inode != 0 {
			wanted[inode] = nil
		}
	}
	return wanted
}

// note adds an owner of a socket if that is wanted.
func note(wanted map[uint64][]Owner, inode uint64, o Owner) {
	if list, ok := wanted[inode]; ok {
		wanted[inode] = append(list, o)
	}
}

// initialPIDNamespace is PROC_PID_INIT_INO of the kernel.
const initialPIDNamespace = "pid:[4026531836]"

// ownersFromIterator asks BPF, which numbers processes as the initial
// namespace does.
func ownersFromIterator(wanted map[uint64][]Owner) error {
	if ns, err := os.Readlink("/proc/self/ns/pid"); err != nil || ns != initialPIDNamespace {
		return fmt.Errorf("not in the initial pid namespace: %w", errors.ErrUnsupported)
	}
	it, err := loaded()
	if err != nil {
		return err
	}
	return each(it.owners, func(r *ownerRecord) {
		if _, ok := wanted[r.Inode]; ok {
			comm, _, _ := bytes.Cut(r.Comm[:], []byte{0})
			note(wanted, r.Inode, Owner{int(r.PID), string(comm), int(r.FD)})
		}
	})
}

// ownersFromProc looks through a proc file system. Processes that end, or
// that this one may not look into, are passed over.
func ownersFromProc(proc string, wanted map[uint64][]Owner) error {
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

func ownersFromProcess(dir string, pid int, wanted map[uint64][]Owner) {
	descriptors, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return
	}
	comm := ""
	for _, d := range descriptors {
		inode, fd, ok := socketInode(dir, d)
		if _, is := wanted[inode]; !ok || !is {
			continue
		}
		if comm == "" {
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			comm = strings.TrimSuffix(string(name), "\n")
		}
		note(wanted, inode, Owner{pid, comm, fd})
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
