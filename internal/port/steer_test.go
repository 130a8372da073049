package port

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A steering for these tests alone, in which every TCP frame counts as
// offloaded: what internal/bpf does with a flow map and a heartbeat.
const (
	testWire   = 0x1e1 // mark of what the relay sends to the wire
	testInject = 0x1e2 // mark of what the relay sends to the program's socket
)

const (
	skbMark     = 8 // offsets in struct __sk_buff
	skbProtocol = 16

	actOK, actShot = 0, 2
)

func htons(v uint16) int32 { return int32(v>>8 | v<<8) }

// onTCP runs then for TCP over IPv4 or IPv6 behind a link header of so many
// octets, and returns otherwise for the rest. R6 is the skb.
func onTCP(link, otherwise int32, then asm.Instructions) asm.Instructions {
	in := asm.Instructions{
		asm.LoadMem(asm.R7, asm.R6, skbProtocol, asm.Word),
		asm.JEq.Imm(asm.R7, htons(unix.ETH_P_IP), "v4"),
		asm.JEq.Imm(asm.R7, htons(unix.ETH_P_IPV6), "v6"),
		asm.Mov.Imm(asm.R0, otherwise).WithSymbol("other"),
		asm.Return(),
		asm.LoadAbs(link+9, asm.Byte).WithSymbol("v4"),
		asm.Ja.Label("protocol"),
		asm.LoadAbs(link+6, asm.Byte).WithSymbol("v6"),
		asm.JNE.Imm(asm.R0, unix.IPPROTO_TCP, "other").WithSymbol("protocol"),
	}
	return append(in, then...)
}

// marked sets R6 to the skb and, when its mark is mark, runs then; else what
// follows.
func marked(mark int32, then asm.Instructions) asm.Instructions {
	in := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R0, asm.R6, skbMark, asm.Word),
		asm.JNE.Imm(asm.R0, mark, "unmarked"),
	}
	return append(append(in, then...), asm.Mov.Imm(asm.R0, 0).WithSymbol("unmarked"))
}

func answer(v int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, v), asm.Return()}
}

func setMark(v int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, v), asm.StoreMem(asm.R6, skbMark, asm.R0, asm.Word)}
}

func redirect(ifindex int, flags int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(ifindex)),
		asm.Mov.Imm(asm.R2, flags),
		asm.FnRedirect.Call(),
		asm.Return(),
	}
}

func join(parts ...asm.Instructions) (all asm.Instructions) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func program(t testing.TB, kind ebpf.ProgramType, in asm.Instructions) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, Instructions: in, License: "Dual BSD/GPL"})
	if err != nil {
		t.Fatalf("load a program: %+v", err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func attach(t testing.TB, ifindex int, where ebpf.AttachType, in asm.Instructions) {
	t.Helper()
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: ifindex, Attach: where, Program: program(t, ebpf.SchedCLS, in),
	})
	if err != nil {
		t.Fatalf("attach: %v", err)
	}
	t.Cleanup(func() { l.Close() })
}

// addEthernet puts an Ethernet header in front of a frame that has none.
func addEthernet() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 14),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkbChangeHead.Call(),
		asm.StoreMem(asm.R10, -8, asm.R7, asm.Half), // R7 is the EtherType
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 12),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, -8),
		asm.Mov.Imm(asm.R4, 2),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
	}
}

// pushTag and popTag are VLAN 7, for kernels without VLAN interfaces.
func pushTag() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, htons(unix.ETH_P_8021Q)),
		asm.Mov.Imm(asm.R3, 7),
		asm.FnSkbVlanPush.Call(),
	}
}

func popTag() asm.Instructions {
	return asm.Instructions{asm.Mov.Reg(asm.R1, asm.R6), asm.FnSkbVlanPop.Call()}
}

// tagTCP puts all TCP of an interface into VLAN 7.
func tagTCP(t testing.TB, ifindex int) {
	t.Helper()
	attach(t, ifindex, ebpf.AttachTCXEgress, join(
		marked(-1, answer(actOK)), onTCP(14, actOK, join(pushTag(), answer(actOK)))))
	attach(t, ifindex, ebpf.AttachTCXIngress, join(
		marked(-1, answer(actOK)), popTag(), answer(actOK)))
}

// An uplinkKind is what steer has to know of an uplink.
type uplinkKind struct {
	link   int  // octets of link header
	tagged bool // all TCP in VLAN 7
}

// steer joins an uplink and a TAP as the product does.
func steer(t testing.TB, uplink, tap int, kind uplinkKind) {
	t.Helper()
	var out, in asm.Instructions
	if kind.link == 0 {
		out = addEthernet()
	}
	if kind.tagged {
		out, in = pushTag(), popTag()
	}
	link := int32(kind.link)
	attach(t, uplink, ebpf.AttachTCXEgress, join(
		marked(testWire, join(setMark(0), answer(actOK))),
		onTCP(link, actOK, join(out, redirect(tap, 0)))))
	attach(t, uplink, ebpf.AttachTCXIngress, join(
		marked(testInject, join(setMark(0), in, answer(actOK))),
		onTCP(link, actOK, answer(actShot))))
	attach(t, tap, ebpf.AttachTCXIngress, join(
		marked(-1, answer(actOK)),
		setMark(testInject),
		redirect(uplink, 1))) // BPF_F_INGRESS
}

// wireFilter admits TCP that comes from the wire.
func wireFilter(t testing.TB, kind uplinkKind) int {
	return program(t, ebpf.SocketFilter, join(
		marked(testInject, answer(0)),
		onTCP(int32(kind.link), 0, answer(1<<20)))).FD()
}
