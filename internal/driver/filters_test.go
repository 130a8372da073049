package driver_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// counter loads a filter for tc that counts frames and lets them go on.
func counter(t *testing.T) (*ebpf.Map, *ebpf.Program) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("out"), // TC_ACT_UNSPEC
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return m, p
}

// A filter of tc that somebody puts on the uplink sees an offloaded
// connection both ways, so it need not go home for it.
func TestFiltersSeeWhatIsOffloaded(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	counts := map[string]*ebpf.Map{}
	r.inHost(func() error {
		l, err := netlink.LinkByName(r.HostIf)
		if err != nil {
			return err
		}
		attrs := netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
		if err := netlink.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "clsact"}); err != nil {
			return err
		}
		for name, parent := range map[string]uint32{"ingress": netlink.HANDLE_MIN_INGRESS, "egress": netlink.HANDLE_MIN_EGRESS} {
			m, prog := counter(t)
			counts[name] = m
			err := netlink.FilterAdd(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: parent, Priority: 1, Protocol: unix.ETH_P_ALL},
				Fd:          prog.FD(), Name: name, DirectAction: true,
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	const exchanges = 50
	for range exchanges {
		p.exchange(t, "both ways")
	}
	for name, m := range counts {
		var n uint64
		if err := m.Lookup(uint32(0), &n); err != nil || n < exchanges {
			t.Errorf("%s has seen %d frames of %d exchanges, %v", name, n, exchanges, err)
		}
	}
	if place := r.placeOf(p); place != "device" {
		t.Errorf("it is in the place %s", place)
	}
}
