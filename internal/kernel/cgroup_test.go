package kernel

import (
	"os"
	"path/filepath"
	"testing"
)

// Ids and paths of cgroups lead to each other, also for one that is made
// after the first look.
func TestCgroups(t *testing.T) {
	c := Cgroups{Root: t.TempDir()}
	for _, path := range []string{"/", "/a", "/a/b", "/late"} {
		if err := os.MkdirAll(filepath.Join(c.Root, path), 0o755); err != nil {
			t.Fatal(err)
		}
		id, ok := c.ID(path)
		if got := c.Path(id); !ok || got != path {
			t.Errorf("%s has id %d, which is of %q", path, id, got)
		}
	}
	if id, ok := c.ID("/none"); ok {
		t.Errorf("a cgroup that is not there has id %d", id)
	}
	if got := c.Path(1 << 60); got != "" {
		t.Errorf("an id of nothing is of %q", got)
	}
}

// The system's own root is found.
func TestCgroupRoot(t *testing.T) {
	var c Cgroups
	id, ok := c.ID("/")
	if !ok || c.Path(id) != "/" {
		t.Errorf("%s: id %d, of %q", c.Root, id, c.Path(id))
	}
}
