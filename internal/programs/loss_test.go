package programs

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"toehold/internal/rig"
)

// Verdicts of a tcx program (include/uapi/linux/bpf.h).
const (
	tcxNext = -1
	tcxDrop = 2
)

// dropOneIn returns a program that drops one frame in so many, at random. A
// frame is a super-segment here: what is lost is lost in bursts.
func dropOneIn(t *testing.T, n int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.FnGetPrandomU32.Call(),
			asm.Mod.Imm32(asm.R0, n),
			asm.JEq.Imm32(asm.R0, 0, "drop"),
			asm.Mov.Imm(asm.R0, tcxNext),
			asm.Return(),
			asm.Mov.Imm(asm.R0, tcxDrop).WithSymbol("drop"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// loseFrames makes the wire of a rig lose frames both ways, at the peer's end.
func loseFrames(t *testing.T, r *rig.Rig, oneIn int32) {
	t.Helper()
	p := dropOneIn(t, oneIn)
	err := r.Net.Peer.Do(func() error {
		l, err := netlink.LinkByName(r.Net.PeerIf)
		if err != nil {
			return err
		}
		for _, direction := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			attached, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: l.Attrs().Index, Attach: direction})
			if err != nil {
				return err
			}
			t.Cleanup(func() { attached.Close() })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// On a wire that loses frames, connections move back and forth, in the middle
// of recovery too, and the device dies now and then.
func TestLossyWire(t *testing.T) {
	const (
		rounds = 40
		oneIn  = 100
	)
	r := newRig(t)
	all := startDialogues(t, r)
	loseFrames(t, r, oneIn)
	random := rand.New(rand.NewPCG(seed(t), 3))
	pause := func() { time.Sleep(time.Duration(random.Int64N(int64(60 * time.Millisecond)))) }
	offloads, uploads := 0, 0
	for round := range rounds {
		off, err := r.Offload(t.Context(), rig.All)
		pause()
		if round%20 == 10 {
			if _, err := r.KillDevice(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := r.AwaitDevice(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			continue
		}
		up, err2 := r.Upload(t.Context(), rig.All)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		offloads, uploads = offloads+len(off.Moved), uploads+len(up.Moved)
		pause()
	}
	if offloads < rounds*len(all)/2 || uploads < rounds*len(all)/2 {
		t.Errorf("only %d offloads and %d uploads", offloads, uploads)
	}
	offloadAll(t, r, len(all))
	awaitMore(t, r, all)
	end(t, all) // their last segments are lost too
	awaitNothingOffloaded(t, r)
}
