package driver_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"toehold/internal/abi"
	"toehold/internal/driver"
	"toehold/internal/mono"
	"toehold/internal/shm"
)

// wildPlaces is how many connections a wild device takes.
const wildPlaces = 16

// A wild device says it lives, writes anything anywhere in the memory that it has, and answers
// what it is asked rightly as a rule, and else with anything.
func wildDevice(text string) int {
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 2
	}
	pulse, err := shm.MapPulse(driver.DevicePulse)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	blocks, err := shm.MapBlocks(driver.DeviceBlocks, wildPlaces)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		for ; ; time.Sleep(5 * time.Millisecond) {
			atomic.StoreUint64(&pulse.Heartbeat, uint64(mono.Now()))
		}
	}()
	go scrawl(rand.New(rand.NewPCG(seed, 1)), octetsOf(&pulse.Load))
	for i := range blocks {
		go scrawl(rand.New(rand.NewPCG(seed, uint64(i)+2)), octetsOf(&blocks[i]))
	}
	w := &wildOne{liar{}, rand.New(rand.NewPCG(seed, 0))}
	w.say(abi.Append(nil, abi.Hello, 0, []abi.Greeting{{Version: abi.Version, Capacity: w.Uint32(), PID: w.Uint32(), Memory: w.Uint64()}}))
	return w.listen()
}

func octetsOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// scrawl writes anything, time and again.
func scrawl(r *rand.Rand, octets []byte) {
	for ; ; time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond) {
		at := r.IntN(len(octets)-8) &^ 7
		binary.NativeEndian.PutUint64(octets[at:], r.Uint64()>>r.IntN(64))
	}
}

type wildOne struct {
	liar
	*rand.Rand
}

func (w *wildOne) listen() int {
	return listen(func(h abi.Header) {
		w.chatter()
		w.admit(h)
	}, func(h abi.Header, commands []abi.Command) {
		w.chatter()
		w.obey(h, commands)
	})
}

func (w *wildOne) chatter() {
	for range w.IntN(4) {
		w.babble()
	}
}

// babble is an answer to nothing, about connections that there may be.
func (w *wildOne) babble() {
	answers := make([]abi.Answer, w.IntN(4))
	for i := range answers {
		g := w.Uint32N(w.generation + 2)
		answers[i] = abi.Answer{HWID: abi.MakeHWID(g%wildPlaces, g), Reason: abi.Reason(w.IntN(80)), StallNS: w.Uint32(), Bytes: w.Uint64()}
	}
	kinds := []abi.Type{abi.Owned, abi.Passing, abi.Released, abi.Notice, abi.Joined, abi.Diverted, abi.Parted, abi.Resumed}
	w.say(abi.Append(nil, kinds[w.IntN(len(kinds))], w.Uint32(), answers))
}

// Whatever a device writes and says, the driver goes on, and no connection in shadow is lost.
func TestDeviceRunsWild(t *testing.T) {
	for seed := range 2 {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := fakeRig(t, fmt.Sprint("wild:", seed))
			pairs := r.connect(4, false)
			daemon := r.cmd.Process.Pid
			for range 2 {
				for _, p := range pairs {
					// What becomes of it is the device's to say.
					if _, err := r.client.Offload(ctx, p.selector(), driver.Options{Timeout: 100 * time.Millisecond}); err != nil && !strings.Contains(err.Error(), "no connection") {
						t.Fatal(err)
					}
				}
				r.list(everything)
				r.device()
				if _, err := r.client.Show(ctx, pairs[0].selector()); err != nil {
					t.Fatal(err)
				}
				if _, err := r.client.Upload(ctx, everything); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "the kernel has all", func() bool { return len(r.list(driver.Selector{State: driver.InKernel})) == len(pairs) })
			for _, p := range pairs {
				p.exchange(t, "nothing happened")
			}
			if r.cmd.Process.Pid != daemon || r.cmd.ProcessState != nil {
				t.Error("the daemon has ended")
			}
		})
	}
}
