package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// claimDir holds the locks of uplinks. Only root may make files in it, so that
// nobody else can keep a daemon off.
const claimDir = "/run/toehold-uplinks"

// A claim keeps other daemons off an uplink: a locked file, named after network
// namespace and interface, that holds the pid of its holder. The lock ends
// with the process; the file is removed by release, or by the next claim.
type claim struct{ file *os.File }

// claimUplink takes the uplink for this process. The error for one that is
// taken names the holder.
func claimUplink(name string, ifindex int) (claim, error) {
	var ns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ns); err != nil {
		return claim{}, fmt.Errorf("uplink %s: %w", name, err)
	}
	sweepClaims(claimDir)
	c, holder, err := lock(filepath.Join(claimDir, fmt.Sprintf("uplink-%d-%d.lock", ns.Ino, ifindex)))
	if errors.Is(err, unix.EWOULDBLOCK) {
		return c, fmt.Errorf("uplink %s is served already by %s", name, holder)
	}
	if err != nil {
		return c, fmt.Errorf("uplink %s: %w", name, err)
	}
	return c, nil
}

// lockTries is how often a lock must be found held: a sweep holds it for a
// moment.
const lockTries = 4

// lock makes and locks a file; EWOULDBLOCK when another process has it. A file
// that its holder removed while it was opened here is no lock any more.
func lock(path string) (c claim, holder string, err error) {
	for tries := 1; ; tries++ {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return claim{}, "", err
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the last holder has just removed the directory
		}
		if err != nil {
			return claim{}, "", err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			holder := holderOf(f)
			f.Close()
			if tries < lockTries {
				time.Sleep(holderPause)
				continue // it was another's sweep perhaps
			}
			return claim{}, holder, err
		}
		if isAt(f, path) {
			return claim{f}, "", sign(f)
		}
		f.Close()
	}
}

// sign writes our pid over a killed holder's.
func sign(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	return err
}

// isAt reports whether the path still names the file.
func isAt(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(open, there)
}

// Between locking and writing its pid a holder needs a moment.
const (
	holderTries = 20
	holderPause = 5 * time.Millisecond
)

// holderOf names the process that has locked the file.
func holderOf(f *os.File) string {
	for range holderTries {
		buf := make([]byte, 20)
		n, _ := f.ReadAt(buf, 0)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n]))); err == nil {
			return fmt.Sprintf("process %d", pid)
		}
		time.Sleep(holderPause)
	}
	return "another process"
}

// sweepClaims removes the files of daemons that were killed.
func sweepClaims(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "uplink-*.lock"))
	for _, path := range files {
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && isAt(f, path) {
			os.Remove(path)
		}
		f.Close()
	}
}

// release gives the uplink back. The file goes first: who opens it from now on
// makes another.
func (c *claim) release() {
	if c.file == nil {
		return
	}
	os.Remove(c.file.Name())
	os.Remove(filepath.Dir(c.file.Name())) // fails while there are other claims
	c.file.Close()
	c.file = nil
}
