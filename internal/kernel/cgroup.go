package kernel

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// cgroupRoots are where systems mount the second version of cgroups.
var cgroupRoots = []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"}

// keptCgroups bounds what is remembered: those that are gone, too.
const keptCgroups = 1 << 16

// Cgroups finds paths of cgroups by their ids, which are the inodes of their
// directories. The zero Cgroups is ready to be used.
type Cgroups struct {
	Root string // "": where the system has them
	byID map[uint64]string
}

func (c *Cgroups) root() string {
	if c.Root == "" {
		i := slices.IndexFunc(cgroupRoots, func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, "cgroup.controllers"))
			return err == nil
		})
		c.Root = cgroupRoots[max(i, 0)]
	}
	return c.Root
}

// Path is the path of a cgroup below the mount point, "/" for the root, ""
// when there is none with this id. A cgroup that has been renamed keeps the
// path that it had when it was first asked for.
func (c *Cgroups) Path(id uint64) string {
	path, ok := c.byID[id]
	if !ok {
		if c.byID == nil || len(c.byID) > keptCgroups {
			c.byID = make(map[uint64]string)
		}
		// What cannot be read belongs to a cgroup that has just gone.
		filepath.WalkDir(c.root(), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				c.note(path)
			}
			return nil
		})
		path = c.byID[id]
		c.byID[id] = path // one that is not there is not looked for again
	}
	return path
}

func (c *Cgroups) note(dir string) {
	if id, ok := inode(dir); ok {
		below, _ := filepath.Rel(c.root(), dir)
		c.byID[id] = filepath.Clean("/" + below)
	}
}

// ID is the id of the cgroup with this path below the mount point.
func (c *Cgroups) ID(path string) (uint64, bool) { return inode(filepath.Join(c.root(), path)) }

func inode(dir string) (uint64, bool) {
	info, err := os.Stat(dir)
	if err != nil {
		return 0, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return stat.Ino, ok
}
