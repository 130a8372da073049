package kernel

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"toehold/internal/flow"
	"toehold/internal/testnet"
)

// hostLink is the host's end of the veth.
func hostLink(t *testing.T, n *testnet.Net) (l netlink.Link) {
	t.Helper()
	in(t, n.Host, func() (err error) { l, err = netlink.LinkByName(n.HostIf); return err })
	return l
}

func peerAddress(t *testing.T, n *testnet.Net) (a net.HardwareAddr) {
	t.Helper()
	in(t, n.Peer, func() error {
		l, err := netlink.LinkByName(n.PeerIf)
		if err == nil {
			a = l.Attrs().HardwareAddr
		}
		return err
	})
	return a
}

func network(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}

func flowTo(local, remote netip.Addr) flow.ID {
	return flow.Make(netip.AddrPortFrom(local, 1000), netip.AddrPortFrom(remote, 2000))
}

func TestRouteTo(t *testing.T) {
	n := testnet.New(t)
	connect(t, n, "tcp", n.HostIP4) // so that the neighbours know each other
	connect(t, n, "tcp", n.HostIP6)
	l, peer := hostLink(t, n), peerAddress(t, n)
	far4, far6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	narrow4, narrow6 := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")
	unknown := n.PeerIP4.Next()
	in(t, n.Host, func() error {
		index := l.Attrs().Index
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: network("192.0.2.0/24"), Gw: n.PeerIP4.AsSlice()}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: network("2001:db8::/64"), Gw: n.PeerIP6.AsSlice()}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: network("198.51.100.0/24"), Gw: n.PeerIP4.AsSlice(), MTU: 1400}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: network("2001:db8:1::/64"), Gw: n.PeerIP6.AsSlice(), MTU: 1400}),
		)
	})
	for _, tt := range []struct {
		name    string
		id      flow.ID
		bound   int
		gateway netip.Addr
		mtu     int
		nextHop net.HardwareAddr
	}{
		{"on the link, IPv4", flowTo(n.HostIP4, n.PeerIP4), 0, netip.Addr{}, 1500, peer},
		{"on the link, IPv6", flowTo(n.HostIP6, n.PeerIP6), 0, netip.Addr{}, 1500, peer},
		{"bound", flowTo(n.HostIP4, n.PeerIP4), l.Attrs().Index, netip.Addr{}, 1500, peer},
		{"nobody's address", flowTo(n.HostIP4, unknown), 0, netip.Addr{}, 1500, nil},
		{"gateway, IPv4", flowTo(n.HostIP4, far4), 0, n.PeerIP4, 1500, peer},
		{"gateway, IPv6", flowTo(n.HostIP6, far6), 0, n.PeerIP6, 1500, peer},
		{"narrow path, IPv4", flowTo(n.HostIP4, narrow4), 0, n.PeerIP4, 1400, peer},
		{"narrow path, IPv6", flowTo(n.HostIP6, narrow6), 0, n.PeerIP6, 1400, peer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got Route
			in(t, n.Host, func() (err error) { got, err = RouteTo(tt.id, 0, tt.bound); return err })
			if got.Ifindex != l.Attrs().Index || got.IfName != n.HostIf || got.Local ||
				got.PathMTU != tt.mtu || got.Gateway != tt.gateway ||
				!bytes.Equal(got.Source, l.Attrs().HardwareAddr) || !bytes.Equal(got.NextHop, tt.nextHop) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestRouteToThisHost(t *testing.T) {
	n := testnet.New(t)
	for _, id := range []flow.ID{
		flowTo(netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1")),
		flowTo(netip.IPv6Loopback(), netip.IPv6Loopback()),
		flowTo(n.HostIP4, n.HostIP4),
	} {
		in(t, n.Host, func() error {
			r, err := RouteTo(id, 0, 0)
			if !r.Local {
				t.Errorf("%v: %+v is not local", id, r)
			}
			return err
		})
	}
}

func TestNoRoute(t *testing.T) {
	n := testnet.New(t)
	n.Host.Do(func() error {
		if r, err := RouteTo(flowTo(n.HostIP4, netip.MustParseAddr("203.0.113.1")), 0, 0); err == nil {
			t.Errorf("a route to nowhere: %+v", r)
		}
		if r, err := RouteTo(flow.ID{}, 0, 0); err == nil {
			t.Errorf("a route of nothing: %+v", r)
		}
		return nil
	})
}

// The mark chooses the table.
func TestRouteByMark(t *testing.T) {
	n := testnet.New(t)
	in(t, n.Host, func() error {
		l, err := netlink.LinkByName(n.HostIf)
		if err != nil {
			return err
		}
		const table, mark = 100, 7
		rule := netlink.NewRule()
		rule.Table, rule.Mark = table, mark
		to := netip.MustParseAddr("203.0.113.1")
		if err := errors.Join(netlink.RuleAdd(rule), netlink.RouteAdd(&netlink.Route{
			LinkIndex: l.Attrs().Index, Dst: network("203.0.113.0/24"), Gw: n.PeerIP4.AsSlice(), Table: table,
		})); err != nil {
			return err
		}
		if _, err := RouteTo(flowTo(n.HostIP4, to), 0, 0); err == nil {
			t.Error("a route without the mark")
		}
		r, err := RouteTo(flowTo(n.HostIP4, to), mark, 0)
		if r.Gateway != n.PeerIP4 {
			t.Errorf("with the mark: %+v", r)
		}
		return err
	})
}

// track makes a conntrack entry of a flow; snat is the source address that
// it is rewritten to, if any.
func track(t *testing.T, id flow.ID, snat netip.Addr) {
	t.Helper()
	const (
		create, tupleReply, timeout = 0, 2, 7 // IPCTNL_MSG_CT_NEW, CTA_TUPLE_REPLY, CTA_TIMEOUT
		natSource, natMin4, natMax4 = 6, 1, 2 // CTA_NAT_SRC, CTA_NAT_V4_MINIP, CTA_NAT_V4_MAXIP
		protoInfo, protoTCP, state  = 4, 1, 1 // CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE
		established                 = 3       // TCP_CONNTRACK_ESTABLISHED
	)
	request := nl.NewNetlinkRequest(subsystem<<8|create, unix.NLM_F_CREATE|unix.NLM_F_ACK)
	family, source := unix.AF_INET, sourceIP4
	if !id.Is4() {
		family, source = unix.AF_INET6, sourceIP6
	}
	request.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(family)})
	for kind, id := range map[int]flow.ID{tupleOrig: id, tupleReply: id.Reverse()} {
		tuple := nl.NewRtAttr(unix.NLA_F_NESTED|kind, nil)
		ip := tuple.AddRtAttr(unix.NLA_F_NESTED|tupleIP, nil)
		ip.AddRtAttr(source, id.Local.Addr().AsSlice())
		ip.AddRtAttr(source+1, id.Remote.Addr().AsSlice())
		proto := tuple.AddRtAttr(unix.NLA_F_NESTED|tupleProto, nil)
		proto.AddRtAttr(protoNumber, []byte{unix.IPPROTO_TCP})
		proto.AddRtAttr(protoSource, nl.BEUint16Attr(id.Local.Port()))
		proto.AddRtAttr(protoDest, nl.BEUint16Attr(id.Remote.Port()))
		request.AddData(tuple)
	}
	request.AddData(nl.NewRtAttr(timeout, nl.BEUint32Attr(1000)))
	info := nl.NewRtAttr(unix.NLA_F_NESTED|protoInfo, nil)
	info.AddRtAttr(unix.NLA_F_NESTED|protoTCP, nil).AddRtAttr(state, []byte{established})
	request.AddData(info)
	if snat.IsValid() {
		nat := nl.NewRtAttr(unix.NLA_F_NESTED|natSource, nil)
		nat.AddRtAttr(natMin4, snat.AsSlice())
		nat.AddRtAttr(natMax4, snat.AsSlice())
		request.AddData(nat)
	}
	if _, err := request.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		t.Fatal(err)
	}
}

func TestTracked(t *testing.T) {
	n := testnet.New(t)
	plain, plain6 := flowTo(n.HostIP4, n.PeerIP4), flowTo(n.HostIP6, n.PeerIP6)
	rewritten := flowTo(n.HostIP4, n.PeerIP4.Next())
	in(t, n.Host, func() error {
		track(t, plain, netip.Addr{})
		track(t, plain6, netip.Addr{})
		track(t, rewritten, n.HostIP4.Next().Next().Next())
		for _, tt := range []struct {
			name string
			id   flow.ID
			want bool
		}{
			{"tracked, IPv4", plain, false},
			{"tracked, IPv6", plain6, false},
			{"tracked, the other direction", plain.Reverse(), false},
			{"not tracked", flowTo(n.PeerIP4, n.PeerIP4), false},
			{"rewritten", rewritten, true},
		} {
			tracked, nat, err := Tracked(tt.id)
			if nat != tt.want || tracked != (tt.name != "not tracked") || err != nil {
				t.Errorf("%s: tracked %t, rewritten %t, %v", tt.name, tracked, nat, err)
			}
		}
		return nil
	})
}

// What is tracked is made liberal in both directions; what is not is left alone.
func TestLiberal(t *testing.T) {
	n := testnet.New(t)
	in(t, n.Host, func() error {
		for _, id := range []flow.ID{flowTo(n.HostIP4, n.PeerIP4), flowTo(n.HostIP6, n.PeerIP6)} {
			if err := Liberal(id); err != nil {
				t.Errorf("not tracked: %v", err)
			}
			track(t, id, netip.Addr{})
			if got := windowFlags(t, id); got != [2]byte{} {
				t.Errorf("before: %#x", got)
			}
			if err := Liberal(id.Reverse()); err != nil { // found in either direction
				t.Error(err)
			}
			if got := windowFlags(t, id); got != [2]byte{beLiberal, beLiberal} {
				t.Errorf("after: %#x", got)
			}
		}
		return nil
	})
}

// windowFlags are conntrack's flags of both directions of a flow.
func windowFlags(t *testing.T, id flow.ID) (flags [2]byte) {
	t.Helper()
	request := nl.NewNetlinkRequest(subsystem<<8|get, unix.NLM_F_ACK)
	addTuple(request, id)
	answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil || len(answers) == 0 {
		t.Fatalf("%d answers, %v", len(answers), err)
	}
	eachAttribute(answers[0][generic:], func(kind uint16, value []byte) {
		if kind != protoInfo {
			return
		}
		eachAttribute(value, func(_ uint16, value []byte) {
			eachAttribute(value, func(kind uint16, value []byte) {
				if kind == flagsOriginal || kind == flagsReply {
					flags[kind-flagsOriginal] = value[0]
				}
			})
		})
	})
	return flags
}

func TestStatusOfNonsense(t *testing.T) {
	for _, answer := range [][]byte{nil, {1, 2, 3}, make([]byte, 4), {0, 0, 0, 0, 9, 0}, {0, 0, 0, 0, 6, 0, 3, 0, 1, 1}} {
		if status, err := statusOf(answer); err == nil {
			t.Errorf("%x gave %#x", answer, status)
		}
	}
}

func TestXFRM(t *testing.T) {
	n := testnet.New(t)
	whole4 := &netlink.XfrmPolicy{Src: network("0.0.0.0/0"), Dst: network("0.0.0.0/0")}
	id4, id6 := flowTo(n.HostIP4, n.PeerIP4), flowTo(n.HostIP6, n.PeerIP6)
	for _, tt := range []struct {
		name     string
		id       flow.ID
		edit     func(p *netlink.XfrmPolicy)
		applies  bool
		template bool
	}{
		{"out", id4, func(p *netlink.XfrmPolicy) { p.Dir = netlink.XFRM_DIR_OUT }, true, true},
		{"in", id4, func(p *netlink.XfrmPolicy) { p.Dir = netlink.XFRM_DIR_IN }, true, true},
		{"forward", id4, func(p *netlink.XfrmPolicy) { p.Dir = netlink.XFRM_DIR_FWD }, false, true},
		{"other family", id6, func(p *netlink.XfrmPolicy) { p.Dir = netlink.XFRM_DIR_OUT }, false, true},
		{"lets pass", id4, func(p *netlink.XfrmPolicy) { p.Dir = netlink.XFRM_DIR_OUT }, false, false},
		{"blocks", id4, func(p *netlink.XfrmPolicy) {
			p.Dir, p.Action = netlink.XFRM_DIR_OUT, netlink.XFRM_POLICY_BLOCK
		}, true, false},
		{"UDP only", id4, func(p *netlink.XfrmPolicy) {
			p.Dir, p.Proto = netlink.XFRM_DIR_OUT, unix.IPPROTO_UDP
		}, false, true},
		{"other network", id4, func(p *netlink.XfrmPolicy) {
			p.Dir, p.Dst = netlink.XFRM_DIR_OUT, network("192.0.2.0/24")
		}, false, true},
		{"our port", id4, func(p *netlink.XfrmPolicy) {
			p.Dir, p.Proto, p.DstPort = netlink.XFRM_DIR_OUT, unix.IPPROTO_TCP, 2000
		}, true, true},
		{"other port", id4, func(p *netlink.XfrmPolicy) {
			p.Dir, p.Proto, p.DstPort = netlink.XFRM_DIR_OUT, unix.IPPROTO_TCP, 2001
		}, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := *whole4
			if tt.edit(&p); tt.template {
				p.Tmpls = []netlink.XfrmPolicyTmpl{{
					Src: n.HostIP4.AsSlice(), Dst: n.PeerIP4.AsSlice(),
					Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TUNNEL,
				}}
			}
			in(t, n.Host, func() error {
				if err := netlink.XfrmPolicyAdd(&p); err != nil {
					return err
				}
				defer netlink.XfrmPolicyFlush()
				got, err := XFRM(tt.id)
				if got != tt.applies {
					t.Errorf("applies: %t", got)
				}
				all, errs := XFRMs([]flow.ID{flowTo(n.PeerIP6, n.HostIP6), tt.id})
				if all[1] != tt.applies {
					t.Errorf("of many: applies: %t", all[1])
				}
				return errors.Join(err, errs)
			})
		})
	}
}
