package programs

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// endings are scripts of a scene.
var endings = map[string]string{
	"half-close of the program": `
		program write; program shutdown; peer read; peer read-end
		peer write; program read; peer close; program read-end; program exit`,
	"half-close of the peer": `
		peer write; peer shutdown; program read; program read-end
		program write; peer read; program close; peer read-end`,
	"nothing is sent after a shutdown": `
		program shutdown; program write = pipe; peer read-end; peer write; program read
		program write-little = pipe; peer close; program read-end; program exit`,
	"close": `
		program write; program close; peer read; peer read-end; peer close`,
	"close with unread data resets": `
		peer write; program await-unread; program close; peer read-end = reset`,
	"unread data after a shutdown resets": `
		program shutdown; peer read-end; peer write; program await-unread; program close; wait; peer write = pipe`,
	"no more is read after a shutdown for reading": `
		program shutdown-read; program read-end; program write; peer read; program close; peer read-end`,
	"linger 0 resets": `
		program linger-0; program close; peer read-end = reset`,
	"linger 0 resets with data on its way": `
		program write; peer await-unread; program linger-0; program close; peer read; peer read-end = reset`,
	"exit is a close": `
		program write; program exit; peer read; peer read-end`,
	"death is a close": `
		program write; wait; program kill; peer read; peer read-end`,
	"death with unread data resets": `
		peer write; program await-unread; program kill; peer read-end = reset`,
	"reset by the peer": `
		peer linger-0; peer close; program read-end = reset; program exit`,
	"reset by the peer, asked for": `
		peer linger-0; peer close; program error = reset; program read-end; program write = pipe; program exit`,
	"what came before a reset is lost": `
		peer write; program await-unread; peer linger-0; peer close; program error = reset; program exit`,
	"reset by the peer after its close": `
		peer close; program read-end; program write-little; program error = pipe; program write = pipe; program exit`,
	"the peer goes away with unread data": `
		program write; peer await-unread; peer close; program read-end = reset; program exit`,
	"read late after both ends": `
		peer write; peer shutdown; program await-unread; program shutdown; peer read-end; wait; program read; program read-end`,
	"read very late after the peer's end": `
		program shutdown; peer read-end; peer write; peer close; program await-unread; wait; wait; wait; wait; program read; program read-end`,
	"read late after a reset": `
		peer write; program await-unread; peer linger-0; peer close; wait; program read; program read-end = reset`,
	"both at once": `
		program shutdown; peer shutdown; program read-end; peer read-end; program close; peer close`,
	"upload in the half-closed state": `
		program write; program shutdown; peer read; peer read-end; upload
		peer write; program read; peer close; program read-end; program exit`,
}

// playEverywhere plays scripts from their first step on in every place. That the
// kernel does what they say is seen so too.
func playEverywhere(t *testing.T, scripts map[string]string) {
	r := newRig(t)
	t.Run("all", func(t *testing.T) {
		for name, script := range scripts {
			for _, place := range []string{driver.InKernel, driver.Shadow, driver.Bypass} {
				for family, a := range families(r.Net) {
					if place == driver.InKernel && family != "IPv4" {
						continue
					}
					t.Run(name+"/"+place+"/"+family, func(t *testing.T) {
						t.Parallel()
						play(t, r, place, a, "offload;"+script)
					})
				}
			}
		}
	})
	awaitNothingOffloaded(t, r)
}

// What both sides see of an ending is the same wherever it is played.
func TestEndings(t *testing.T) { playEverywhere(t, endings) }

func TestOffloadInCloseWait(t *testing.T) {
	r := newRig(t)
	play(t, r, driver.Shadow, r.Net.HostIP4, `
		peer shutdown; program read-end; offload
		program write; peer read; program close; peer read-end`)
	awaitNothingOffloaded(t, r)
}

// And so it is when the connection comes to the device, or leaves it, between any
// two of its steps; of those, one of each ending unless all are asked for.
func TestEndingsBetweenMoves(t *testing.T) {
	r := newRig(t)
	t.Run("all", func(t *testing.T) {
		for turn, name := range slices.Sorted(maps.Keys(endings)) {
			all := steps(strings.ReplaceAll(endings[name], "upload", "home"))
			for at := range len(all) - 1 {
				if thorough() || at == turn%(len(all)-1) {
					playWithMove(t, r, name, all, at)
				}
			}
		}
	})
	awaitNothingOffloaded(t, r)
}

// thorough has a test do all that it can.
func thorough() bool { return os.Getenv("TOEHOLD_THOROUGH") != "" }

// playWithMove plays a scene with a move after one of its steps.
func playWithMove(t *testing.T, r *rig.Rig, name string, all []string, at int) {
	for _, move := range []string{"move", "home"} {
		script := slices.Insert(slices.Clone(all), at+1, move)
		if move == "home" {
			script = append([]string{"move"}, script...)
		}
		t.Run(fmt.Sprint(name, "/", move, " after ", all[at]), func(t *testing.T) {
			t.Parallel()
			play(t, r, driver.Bypass, r.Net.HostIP4, strings.Join(script, ";"))
		})
	}
}
