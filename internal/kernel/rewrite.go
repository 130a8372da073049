package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"toehold/internal/flow"
)

// Tracked reports whether conntrack of the calling thread's namespace has an
// entry of the flow, and whether this host rewrites its addresses or ports. A
// kernel without conntrack rewrites nothing.
func Tracked(id flow.ID) (tracked, nat bool, err error) {
	status, err := conntrackStatus(id)
	switch {
	case errors.Is(err, unix.ENOENT), absent(err):
		return false, false, nil
	case err != nil:
		return false, false, fmt.Errorf("conntrack of %v: %w", id, err)
	}
	return true, status&natMask != 0, nil
}

// Liberal has conntrack take segments of a flow that it tracks for what they
// are, though they are outside the windows that it believes in: of those that
// went by while a device had the connection it has seen others, and not all.
func Liberal(id flow.ID) error {
	request := nl.NewNetlinkRequest(subsystem<<8|update, unix.NLM_F_ACK)
	addTuple(request, id)
	info := nl.NewRtAttr(unix.NLA_F_NESTED|protoInfo, nil)
	tcp := info.AddRtAttr(unix.NLA_F_NESTED|protoInfoTCP, nil)
	tcp.AddRtAttr(flagsOriginal, []byte{beLiberal, beLiberal}) // flags and their mask
	tcp.AddRtAttr(flagsReply, []byte{beLiberal, beLiberal})
	request.AddData(info)
	if _, err := request.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("conntrack of %v not made liberal: %w", id, err)
	}
	return nil
}

// absent reports whether an error says that the kernel lacks a subsystem of
// netlink.
func absent(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// Of include/uapi/linux/netfilter/nf_conntrack_common.h and
// nfnetlink_conntrack.h.
const (
	natMask     = 1<<4 | 1<<5 // IPS_NAT_MASK: source, destination
	subsystem   = 1           // NFNL_SUBSYS_CTNETLINK
	get         = 1           // IPCTNL_MSG_CT_GET
	tupleOrig   = 1           // CTA_TUPLE_ORIG
	tupleIP     = 1           // CTA_TUPLE_IP
	tupleProto  = 2           // CTA_TUPLE_PROTO
	status      = 3           // CTA_STATUS
	generic     = 4           // octets of struct nfgenmsg
	protoNumber = 1           // CTA_PROTO_NUM
	protoSource = 2           // CTA_PROTO_SRC_PORT
	protoDest   = 3           // CTA_PROTO_DST_PORT
	sourceIP4   = 1           // CTA_IP_V4_SRC, and CTA_IP_V4_DST after it
	sourceIP6   = 3           // CTA_IP_V6_SRC, and CTA_IP_V6_DST after it
	typeMask    = 0x3fff      // NLA_TYPE_MASK

	update        = 0    // IPCTNL_MSG_CT_NEW, of an entry that is there
	protoInfo     = 4    // CTA_PROTOINFO
	protoInfoTCP  = 1    // CTA_PROTOINFO_TCP
	flagsOriginal = 4    // CTA_PROTOINFO_TCP_FLAGS_ORIGINAL
	flagsReply    = 5    // CTA_PROTOINFO_TCP_FLAGS_REPLY
	beLiberal     = 0x08 // IP_CT_TCP_FLAG_BE_LIBERAL
)

// conntrackStatus asks for the entry of the tuple that S's packets have
// before anything is rewritten; the kernel finds an entry by its tuple in
// either direction.
func conntrackStatus(id flow.ID) (uint32, error) {
	// The answer says that more will follow, so an acknowledgement has to.
	request := nl.NewNetlinkRequest(subsystem<<8|get, unix.NLM_F_ACK)
	addTuple(request, id)
	answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, err
	}
	if len(answers) == 0 {
		return 0, unix.ENOENT
	}
	return statusOf(answers[0])
}

// addTuple adds the header and the tuple of a flow to a request.
func addTuple(request *nl.NetlinkRequest, id flow.ID) {
	family, source := unix.AF_INET, sourceIP4
	if !id.Is4() {
		family, source = unix.AF_INET6, sourceIP6
	}
	request.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family)})
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|tupleOrig, nil)
	ip := tuple.AddRtAttr(unix.NLA_F_NESTED|tupleIP, nil)
	ip.AddRtAttr(source, id.Local.Addr().AsSlice())
	ip.AddRtAttr(source+1, id.Remote.Addr().AsSlice())
	proto := tuple.AddRtAttr(unix.NLA_F_NESTED|tupleProto, nil)
	proto.AddRtAttr(protoNumber, []byte{unix.IPPROTO_TCP})
	proto.AddRtAttr(protoSource, nl.BEUint16Attr(id.Local.Port()))
	proto.AddRtAttr(protoDest, nl.BEUint16Attr(id.Remote.Port()))
	request.AddData(tuple)
}

// statusOf finds CTA_STATUS in an answer.
func statusOf(answer []byte) (uint32, error) {
	if len(answer) < generic {
		return 0, fmt.Errorf("answer of %d octets", len(answer))
	}
	var found []byte
	whole := eachAttribute(answer[generic:], func(kind uint16, value []byte) {
		if kind == status {
			found = value
		}
	})
	if !whole || len(found) < 4 {
		return 0, errors.New("answer without a status")
	}
	return binary.BigEndian.Uint32(found), nil
}

// XFRM reports whether an IPsec policy of the calling thread's namespace
// applies to the flow, in either direction. Policies that a program sets on
// its own socket are not seen.
func XFRM(id flow.ID) (bool, error) {
	p, err := xfrmPolicies(id.Is4())
	return applyTo(p, id), err
}

// XFRMs reports of each of many flows what XFRM does.
func XFRMs(ids []flow.ID) ([]bool, error) {
	four, err4 := xfrmPolicies(true)
	six, err6 := xfrmPolicies(false)
	all := make([]bool, len(ids))
	for i, id := range ids {
		all[i] = applyTo(four, id) && id.Is4() || applyTo(six, id) && !id.Is4()
	}
	return all, errors.Join(err4, err6)
}

// xfrmPolicies are those of one family; none in a kernel without.
func xfrmPolicies(four bool) ([]netlink.XfrmPolicy, error) {
	family := netlink.FAMILY_V6
	if four {
		family = netlink.FAMILY_V4
	}
	policies, err := netlink.XfrmPolicyList(family)
	if err != nil && !absent(err) {
		return nil, fmt.Errorf("xfrm policies: %w", err)
	}
	return policies, nil
}

func applyTo(policies []netlink.XfrmPolicy, id flow.ID) bool {
	for i := range policies {
		if applies(&policies[i], id) {
			return true
		}
	}
	return false
}

// applies reports whether a policy selects the flow and changes its packets.
// One that only lets them pass as they are is none.
func applies(p *netlink.XfrmPolicy, id flow.ID) bool {
	if p.Action == netlink.XFRM_POLICY_ALLOW && len(p.Tmpls) == 0 {
		return false
	}
	switch p.Dir {
	case netlink.XFRM_DIR_OUT:
		return selects(p, id.Local, id.Remote)
	case netlink.XFRM_DIR_IN:
		return selects(p, id.Remote, id.Local)
	}
	return false
}

func selects(p *netlink.XfrmPolicy, source, destination netip.AddrPort) bool {
	return (p.Proto == 0 || p.Proto == unix.IPPROTO_TCP) &&
		inNetwork(p.Src, source.Addr()) && inNetwork(p.Dst, destination.Addr()) &&
		(p.SrcPort == 0 || p.SrcPort == int(source.Port())) &&
		(p.DstPort == 0 || p.DstPort == int(destination.Port()))
}

func inNetwork(n *net.IPNet, a netip.Addr) bool {
	return n == nil || n.Contains(a.AsSlice())
}
