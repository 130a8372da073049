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

// Lose makes an interface of the namespace lose one in so many of the frames
// that come in, at random, until stop is called or the test ends. A frame is
// a super-segment over a veth: what is lost is lost in bursts.
func (ns *Namespace) Lose(t testing.TB, ifName string, oneIn int32) (stop func()) {
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
	defer p.Close()
	var at link.Link
	err = ns.Do(func() error {
		l, err := netlink.LinkByName(ifName)
		if err != nil {
			return err
		}
		at, err = link.AttachTCX(link.TCXOptions{Program: p, Interface: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { at.Close() })
	t.Cleanup(stop)
	return stop
}
