package testnet

import (
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// Verdicts of a tcx program (include/uapi/linux/bpf.h).
const (
	tcxNext = -1
	tcxDrop = 2
)

// Ways of a Lose.
const (
	In  = ebpf.AttachTCXIngress
	Out = ebpf.AttachTCXEgress
)

// Lose makes an interface of the namespace lose one in so many of the frames
// that go a way, at random, until stop is called or the test ends. A frame is a
// super-segment over a veth: what is lost is lost in bursts.
func (ns *Namespace) Lose(t testing.TB, ifName string, oneIn int32, ways ...ebpf.AttachType) (stop func()) {
	t.Helper()
	p := dropOneIn(t, oneIn)
	defer p.Close()
	var all []link.Link
	stop = sync.OnceFunc(func() {
		for _, l := range all {
			l.Close()
		}
	})
	t.Cleanup(stop)
	err := ns.Do(func() error {
		i, err := netlink.LinkByName(ifName)
		if err != nil {
			return err
		}
		for _, way := range ways {
			l, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: i.Attrs().Index, Attach: way})
			if err != nil {
				return err
			}
			all = append(all, l)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return stop
}

// dropOneIn loads a program that drops one frame in so many.
func dropOneIn(t testing.TB, oneIn int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.FnGetPrandomU32.Call(),
			asm.Mod.Imm32(asm.R0, oneIn),
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
	return p
}
