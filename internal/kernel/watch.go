package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Watch tells the changes of links, addresses, routes, neighbours and of the
// rules that packets go by, of the calling thread's namespace, in the kernel's
// order for each of its subsystems, until ctx is done; then it closes the
// channel. A reader that is so slow that the kernel had to throw changes away
// is told so by an Overrun.
func Watch(ctx context.Context) (<-chan Change, error) {
	ctx, stop := context.WithCancel(ctx)
	changes := make(chan Change, 64)
	var readers sync.WaitGroup
	for _, s := range sources {
		file, err := subscribe(s)
		if s.optional && absent(err) {
			continue // nothing of the kind can change
		}
		if err != nil {
			stop()
			readers.Wait()
			return nil, fmt.Errorf("watch for changes of %s: %w", s.name, err)
		}
		context.AfterFunc(ctx, func() { file.Close() }) // ends the Read
		readers.Go(func() {
			defer stop() // one that has ended ends all, to be started anew
			watch(ctx, file, s.parse, changes)
		})
	}
	go func() {
		readers.Wait()
		stop()
		close(changes)
	}()
	return changes, nil
}

// A source is a subsystem that tells changes by netlink.
type source struct {
	name     string
	protocol int
	groups   []int
	parse    func([]byte) []Change
	optional bool // a kernel may be without it
}

var sources = []source{
	{"the network", unix.NETLINK_ROUTE, []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_TC,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE,
	}, parseChanges, false},
	{"IPsec", unix.NETLINK_XFRM, []int{4 /* XFRMNLGRP_POLICY */}, func([]byte) []Change { return rulesChanged }, true},
	{"nftables", unix.NETLINK_NETFILTER, []int{7 /* NFNLGRP_NFTABLES */}, parseTables, true},
}

var rulesChanged = []Change{{Kind: RulesChanged}}

// subscribe opens a netlink socket that joins all groups of interest.
func subscribe(s source) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, s.protocol)
	if err != nil {
		return nil, err
	}
	var groups uint32
	for _, g := range s.groups {
		groups |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

func watch(ctx context.Context, file *os.File, parse func([]byte) []Change, changes chan<- Change) {
	buf := make([]byte, 64<<10)
	for {
		n, err := file.Read(buf)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		list := []Change{{Kind: Overrun}}
		if err == nil {
			list = parse(buf[:n])
		}
		for _, c := range list {
			select {
			case changes <- c:
			case <-ctx.Done():
				return
			}
		}
	}
}

// lastOfRules is NFT_MSG_DELRULE: the messages up to it are of tables, chains
// and rules, those after it of sets and their elements, which may change with
// every packet.
const lastOfRules = 8

// parseTables reads one datagram of nftables.
func parseTables(datagram []byte) []Change {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return []Change{{Kind: Overrun}}
	}
	for i := range messages {
		if kind := messages[i].Header.Type; kind >= unix.NLMSG_MIN_TYPE && kind&0xff <= lastOfRules {
			return rulesChanged
		}
	}
	return nil
}

// parseChanges reads one datagram. What cannot be read may be anything.
func parseChanges(datagram []byte) []Change {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return []Change{{Kind: Overrun}}
	}
	var list []Change
	for i := range messages {
		if c, ok := parseChange(&messages[i]); ok {
			list = append(list, c)
		}
	}
	return list
}

func parseChange(m *syscall.NetlinkMessage) (Change, bool) {
	var c Change
	ok := false
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		c, ok = linkChange(m.Data)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		c, ok = addressChange(m.Data)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		c, ok = routeChange(m.Data)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		c, ok = neighbourChange(m.Data)
	case unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
		c, ok = Change{Kind: RulesChanged}, true
	default:
		return c, false
	}
	if !ok {
		return Change{Kind: Overrun}, true
	}
	switch m.Header.Type {
	case unix.RTM_DELLINK, unix.RTM_DELADDR, unix.RTM_DELROUTE, unix.RTM_DELNEIGH:
		c.Gone, c.Silent = true, false
	}
	return c, true
}

func linkChange(data []byte) (Change, bool) {
	if len(data) < unix.SizeofIfInfomsg {
		return Change{}, false
	}
	flags := number(data[8:])
	const up = unix.IFF_UP | unix.IFF_RUNNING
	c := Change{Kind: LinkChanged, Ifindex: int(int32(number(data[4:]))), Up: flags&up == up}
	ok := eachAttribute(data[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.IFLA_MTU:
			c.MTU = int(number(value))
		case unix.IFLA_ADDRESS:
			c.Hardware = bytes.Clone(value)
		}
	})
	return c, ok
}

func addressChange(data []byte) (Change, bool) {
	if len(data) < unix.SizeofIfAddrmsg {
		return Change{}, false
	}
	c := Change{Kind: AddressChanged, Ifindex: int(int32(number(data[4:])))}
	ok := eachAttribute(data[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) {
		// With a peer (point to point), IFA_LOCAL is this end.
		if kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS && !c.Prefix.IsValid() {
			c.Prefix = prefix(value, data[1])
		}
	})
	return c, ok
}

func routeChange(data []byte) (Change, bool) {
	if len(data) < unix.SizeofRtMsg {
		return Change{}, false
	}
	c := Change{Kind: RouteChanged, Prefix: prefix(make([]byte, 4), 0)}
	if data[0] == unix.AF_INET6 {
		c.Prefix = prefix(make([]byte, 16), 0)
	}
	ok := eachAttribute(data[unix.SizeofRtMsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.RTA_DST:
			c.Prefix = prefix(value, data[1])
		case unix.RTA_OIF:
			c.Ifindex = int(int32(number(value)))
		}
	})
	return c, ok
}

func prefix(address []byte, bits uint8) netip.Prefix {
	a, _ := netip.AddrFromSlice(address)
	return netip.PrefixFrom(a, int(bits))
}

func neighbourChange(data []byte) (Change, bool) {
	const header = 12 // struct ndmsg
	if len(data) < header {
		return Change{}, false
	}
	c := Change{
		Kind:    NeighbourChanged,
		Ifindex: int(int32(number(data[4:]))),
		Gone:    binary.NativeEndian.Uint16(data[8:])&usable == 0,
		Silent:  binary.NativeEndian.Uint16(data[8:])&netlink.NUD_FAILED != 0,
	}
	ok := eachAttribute(data[header:], func(kind uint16, value []byte) {
		switch kind {
		case netlink.NDA_DST:
			c.Address, _ = netip.AddrFromSlice(value)
		case netlink.NDA_LLADDR:
			c.Hardware = bytes.Clone(value)
		}
	})
	return c, ok
}
