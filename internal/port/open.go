package port

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// socketBuffer is asked for in both directions, in octets. A full receive
// buffer drops in silence, on a hop that should lose nothing.
const socketBuffer = 64 << 20

// OpenPacketSocket opens an AF_PACKET socket on the interface ifindex, as
// NewPacket wants it: non-blocking, closed on exec, with virtio_net_hdr. The
// socket filter filterFD is in place before the first frame can come; a
// negative one means none. What is sent carries mark. It needs CAP_NET_RAW
// and CAP_NET_ADMIN.
func OpenPacketSocket(ifindex int, filterFD int, mark uint32) (fd int, err error) {
	// Protocol 0 receives nothing until bind.
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	if err = prepareSocket(fd, filterFD, mark); err == nil {
		err = bindAll(fd, ifindex)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	return fd, nil
}

func prepareSocket(fd, filterFD int, mark uint32) error {
	options := []struct {
		name               string
		level, opt, value  int
		optional, withheld bool
	}{
		{name: "PACKET_VNET_HDR", level: unix.SOL_PACKET, opt: unix.PACKET_VNET_HDR, value: 1},
		{name: "SO_ATTACH_BPF", level: unix.SOL_SOCKET, opt: unix.SO_ATTACH_BPF, value: filterFD, withheld: filterFD < 0},
		// For good: what the filter keeps from the device is not its to see.
		{name: "SO_LOCK_FILTER", level: unix.SOL_SOCKET, opt: unix.SO_LOCK_FILTER, value: 1, withheld: filterFD < 0},
		{name: "SO_MARK", level: unix.SOL_SOCKET, opt: unix.SO_MARK, value: int(mark)},
		{name: "SO_RCVBUFFORCE", level: unix.SOL_SOCKET, opt: unix.SO_RCVBUFFORCE, value: socketBuffer},
		{name: "SO_SNDBUFFORCE", level: unix.SOL_SOCKET, opt: unix.SO_SNDBUFFORCE, value: socketBuffer},
		// Linux 4.20; before it the filter has to do this alone.
		{name: "PACKET_IGNORE_OUTGOING", level: unix.SOL_PACKET, opt: unix.PACKET_IGNORE_OUTGOING, value: 1, optional: true},
	}
	for _, o := range options {
		if o.withheld {
			continue
		}
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil && !o.optional {
			return fmt.Errorf("%s: %w", o.name, err)
		}
	}
	return nil
}

// bindAll starts reception of every protocol: a tap for all of them is the
// one kind that sees a frame before the tcx ingress programs do.
func bindAll(fd, ifindex int) error {
	var be [2]byte
	binary.BigEndian.PutUint16(be[:], unix.ETH_P_ALL)
	sa := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(be[:]), Ifindex: ifindex}
	if err := unix.Bind(fd, sa); err != nil {
		return fmt.Errorf("bind to interface %d: %w", ifindex, err)
	}
	return nil
}

const (
	// tapQueue is the TAP's ring in frames; what finds it full is lost.
	tapQueue = 16384
	// tapMTU is the largest that the kernel lets a TAP have (MAX_MTU less
	// the link header, drivers/net/tun.c).
	tapMTU = 65535 - 14
)

// Offload flags of TUNSETOFFLOAD (include/uapi/linux/if_tun.h): without them
// the kernel would cut super-segments before they reach the TAP.
const (
	tunCsum   = 0x01
	tunTSO4   = 0x02
	tunTSO6   = 0x04
	tunTSOECN = 0x08
)

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE (include/uapi/linux/if_link.h).
const addrGenModeNone = 1

// OpenTAP makes a TAP interface in the calling thread's network namespace, as
// NewTAP wants it, and sets it up. name may be a pattern such as "toe%d". The
// interface vanishes with the last descriptor. It needs CAP_NET_ADMIN.
func OpenTAP(name string) (fd int, ifname string, ifindex int, err error) {
	fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", 0, fmt.Errorf("/dev/net/tun: %w", err)
	}
	if ifname, err = makeTun(fd, name, unix.IFF_TAP); err == nil {
		ifindex, err = setUpTAP(ifname)
	}
	if err != nil {
		unix.Close(fd)
		return -1, "", 0, fmt.Errorf("tap %q: %w", name, err)
	}
	return fd, ifname, ifindex, nil
}

// makeTun makes fd a TUN or TAP, whichever kind says, and returns its name.
func makeTun(fd int, name string, kind uint16) (string, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return "", err
	}
	ifr.SetUint16(kind | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return "", fmt.Errorf("TUNSETIFF: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetLen); err != nil {
		return "", fmt.Errorf("TUNSETVNETHDRSZ: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tunCsum|tunTSO4|tunTSO6|tunTSOECN); err != nil {
		return "", fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETSNDBUF, math.MaxInt32); err != nil {
		return "", fmt.Errorf("TUNSETSNDBUF: %w", err)
	}
	return ifr.Name(), nil
}

func tapName(fd int) (string, error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return "", fmt.Errorf("TUNGETIFF: %w", err)
	}
	return ifr.Name(), nil
}

// setUpTAP makes the interface a mere pipe: no neighbours, no IPv6 of its
// own, no queueing discipline.
func setUpTAP(name string) (ifindex int, err error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	// The TAP's ring is what holds frames; a discipline in front of it could
	// only drop or reorder.
	noqueue := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT},
		QdiscType:  "noqueue",
	}
	steps := []struct {
		name string
		run  func() error
	}{
		{"no IPv6 address", func() error { return noIPv6(l) }},
		{"no ARP", func() error { return netlink.LinkSetARPOff(l) }},
		{"queue length", func() error { return netlink.LinkSetTxQLen(l, tapQueue) }},
		{"MTU", func() error { return netlink.LinkSetMTU(l, tapMTU) }},
		{"up", func() error { return netlink.LinkSetUp(l) }},
		{"no queueing discipline", func() error { return netlink.QdiscReplace(noqueue) }},
	}
	for _, s := range steps {
		if err := s.run(); err != nil {
			return 0, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return l.Attrs().Index, nil
}

// noIPv6 keeps the kernel from speaking IPv6 on l. Where /proc/sys cannot be
// written, an interface without any address is silent enough.
func noIPv6(l netlink.Link) error {
	path := "/proc/sys/net/ipv6/conf/" + l.Attrs().Name + "/disable_ipv6"
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return nil
	}
	if err == nil {
		_, err = f.WriteString("1")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return netlink.LinkSetIP6AddrGenMode(l, addrGenModeNone)
	}
	return nil
}
