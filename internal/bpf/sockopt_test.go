package bpf

import (
	"bytes"
	"errors"
	"net"
	"os"
	"reflect"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/shm"
	"toehold/internal/testnet"
)

// What the programs look into has the same fields at the same places in C
// and in Go.
func TestSockoptLayoutsAgree(t *testing.T) {
	spec, err := loadSockopt()
	if err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]reflect.Type{
		"orders": reflect.TypeFor[orders](),
		"order":  reflect.TypeFor[order](),
	} {
		var c *btf.Struct
		if err := spec.Types.TypeByName(name, &c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, want := placesInC(c, 0), placesInGo(g, 0); name != "orders" && !reflect.DeepEqual(got, want) || uintptr(c.Size) != g.Size() {
			t.Errorf("%s: C has %d octets %v\nGo has %d %v", name, c.Size, got, g.Size(), want)
		}
	}
	var block *btf.Struct
	if err := spec.Types.TypeByName("block", &block); err != nil {
		t.Fatal(err)
	}
	members := make(map[string]btf.Member)
	for _, m := range block.Members {
		members[m.Name] = m
	}
	hardware := placesInC(members["hardware"].Type.(*btf.Struct), 0)
	hardware = hardware[:len(hardware)-1] // the last one only fills it up
	if want := placesInGo(reflect.TypeFor[abi.HardwarePart](), 0)[:len(hardware)]; !reflect.DeepEqual(hardware, want) {
		t.Errorf("hardware_part: C has %v\nGo has %v", hardware, want)
	}
	if block.Size != abi.BlockSize {
		t.Errorf("C has a block of %d octets, Go of %d", block.Size, abi.BlockSize)
	}
	for name, want := range map[string]uintptr{
		"hardware":  unsafe.Offsetof(abi.Block{}.Hardware),
		"ledger":    unsafe.Offsetof(abi.Block{}.Ledger),
		"channel":   unsafe.Offsetof(abi.Block{}.Channel),
		"fragments": unsafe.Offsetof(abi.Block{}.Fragments),
	} {
		if m := members[name]; uintptr(m.Offset.Bytes()) != want {
			t.Errorf("C has %s of a block at %d, Go at %d", name, m.Offset.Bytes(), want)
		}
	}
}

func TestReasonsFit(t *testing.T) {
	for _, r := range abi.Reasons() {
		if len(r.String()) >= len(abi.SocketOffload{}.Reason) {
			t.Errorf("%s is longer than what a program is told", r)
		}
	}
}

// A seated is a connection with the programs in its host's namespace.
type seated struct {
	*testnet.Net
	t       *testing.T
	set     *Set
	options *Options
	s, peer net.Conn
	key     flow.Key
}

func newSeated(t *testing.T) *seated {
	t.Helper()
	e := &seated{Net: testnet.New(t), t: t, set: loadSet(t)}
	e.must(e.Host.Do(func() (err error) {
		e.options, err = LoadOptions(2, 1024)
		return err
	}))
	t.Cleanup(func() {
		if err := e.options.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	e.must(e.options.SetTable(1, e.set))
	e.s, e.peer = connect(t, e.Host, e.Peer, e.HostIP4)
	e.key = keyOf(e.s)
	return e
}

func (e *seated) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *seated) order(o Order) abi.Wish {
	e.t.Helper()
	o.Flow, o.Table = e.key, 1
	return e.seat(o).Wish
}

func (e *seated) seat(o Order) Seat {
	e.t.Helper()
	o.Flow = e.key
	var seats []Seat
	e.must(e.Host.Do(func() (err error) {
		seats, err = e.options.Write([]Order{o})
		return err
	}))
	return seats[0]
}

func (e *seated) info(c net.Conn) (info unix.TCPInfo) {
	e.t.Helper()
	control(e.t, c.(*net.TCPConn), func(fd int) error {
		i, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err == nil {
			info = *i
		}
		return err
	})
	return info
}

// publish writes a block as a device would.
func (e *seated) publish(h abi.HardwarePart) {
	b := &e.set.Blocks()[h.HWID.Index()].Hardware
	shm.Publish(&b.Sequence, func() {
		h.Sequence = b.Sequence
		*b = h
	})
}

var published = abi.HardwarePart{
	HWID: abi.MakeHWID(7, 3), Place: abi.PlaceOwned, Recovery: 2,
	SndWnd: 70001, RcvWnd: 70002, SRTT: 10_001, RTTVar: 1002, RTO: 210_003, MinRTT: 9_004, Cwnd: 77, Ssthresh: 55,
	Unacked: 31, Sacked: 7, Lost: 5, Resent: 3, MSS: 1300,
	Retransmits: 11, BytesResent: 14_001, OutOfOrder: 4, DeliveryRate: 1_234_567, PacingRate: 7_654_321,
}

// TCP_INFO of a program that knows of nothing tells what the device knows,
// and what it has counted stays told.
func TestTCPInfoOnTheDevice(t *testing.T) {
	e := newSeated(t)
	before := e.info(e.s)
	h := published
	e.publish(h)
	if got := e.info(e.s); got.Total_retrans != before.Total_retrans || got.Rtt == h.SRTT {
		t.Errorf("in the kernel: %+v", got)
	}
	e.order(Order{Set: SetPlace, HWID: h.HWID, Place: abi.SeatDevice})
	got := e.info(e.s)
	want := got
	want.Ca_state, want.Rto, want.Rtt, want.Rttvar, want.Min_rtt = 4, h.RTO, h.SRTT, h.RTTVar, h.MinRTT
	want.Unacked, want.Sacked, want.Lost, want.Retrans = h.Unacked, h.Sacked, h.Lost, h.Resent
	want.Snd_cwnd, want.Snd_ssthresh, want.Snd_wnd, want.Rcv_wnd = h.Cwnd, h.Ssthresh, h.SndWnd, h.RcvWnd
	want.Pacing_rate, want.Delivery_rate = h.PacingRate, h.DeliveryRate
	want.Snd_mss, want.Pmtu = h.MSS, before.Pmtu-(before.Snd_mss-h.MSS)
	want.Total_retrans, want.Bytes_retrans, want.Rcv_ooopack = 11, 14_001, 4
	want.Bytes_sent, want.Segs_out, want.Data_segs_out = before.Bytes_sent+14_001, before.Segs_out+11, before.Data_segs_out+11
	if got != want {
		t.Errorf("on the device\n got %+v\nwant %+v", got, want)
	}
	if other := e.info(e.peer); other.Rtt == h.SRTT || other.Total_retrans != 0 {
		t.Errorf("the peer's: %+v", other)
	}
}

// What devices count is added up over offloads and uploads, whoever reads it
// and however often.
func TestTCPInfoDoesNotJump(t *testing.T) {
	e := newSeated(t)
	told := func(step string, want uint32) {
		t.Helper()
		for range 2 {
			i := e.info(e.s)
			if i.Total_retrans != want || i.Bytes_retrans != 1000*uint64(want) || i.Rcv_ooopack != want {
				t.Errorf("%s: %d retransmissions of %d octets, %d after a gap; want %d", step, i.Total_retrans, i.Bytes_retrans, i.Rcv_ooopack, want)
			}
		}
	}
	count := func(id abi.HWID, n uint64) abi.HardwarePart {
		return abi.HardwarePart{HWID: id, Place: abi.PlaceOwned, Retransmits: n, BytesResent: 1000 * n, OutOfOrder: n}
	}
	first, second := abi.MakeHWID(7, 1), abi.MakeHWID(9, 4)
	told("in the kernel", 0)
	e.order(Order{Set: SetPlace, HWID: first, Place: abi.SeatDevice})
	told("nothing is published", 0)
	e.publish(count(first, 5))
	told("on the device", 5)
	last := count(first, 8)
	e.publish(last)
	e.order(Order{Set: SetPlace, Place: abi.SeatKernel, Counts: &last})
	told("home", 8)
	e.order(Order{Counts: &last})
	told("told again", 8)
	e.publish(count(second, 3)) // of the slot's last owner, as far as anybody knows
	e.order(Order{Set: SetPlace, HWID: second, Place: abi.SeatDevice})
	told("on a device again", 11)
	b := &e.set.Blocks()[second.Index()].Hardware
	shm.Begin(&b.Sequence)
	b.Retransmits = 1
	told("the device died while it wrote", 11)
	e.order(Order{Set: SetPlace, Place: abi.SeatKernel})
	told("home without its help", 11)
	other := count(abi.MakeHWID(9, 8), 100)
	e.publish(other)
	e.order(Order{Set: SetPlace, HWID: second, Place: abi.SeatDevice})
	told("the slot is another's", 11)
}

// Programs that were built for an older kernel give less room.
func TestTCPInfoInLessRoom(t *testing.T) {
	e := newSeated(t)
	h := published
	e.publish(h)
	e.order(Order{Set: SetPlace, HWID: h.HWID, Place: abi.SeatDevice})
	whole := e.info(e.s)
	all := (*[unsafe.Sizeof(whole)]byte)(unsafe.Pointer(&whole))[:]
	for _, room := range []int{1, 8, 70, 72, 104, 192, 232, 248, 300, 4096, 5000} {
		got := bytes.Repeat([]byte{0xee}, room)
		n, err := getsockopt(t, e.s, unix.TCP_INFO, got)
		if err != nil || n > room {
			t.Errorf("room for %d: %d, %v", room, n, err)
			continue
		}
		for i := range got {
			volatile := i >= 44 && i < 60 || i >= n // times since, and what is not given
			if room <= 4096 && !volatile && i < n/4*4 && i < 236 && got[i] != all[i] {
				t.Errorf("room for %d: octet %d is %#x, with all the room %#x", room, i, got[i], all[i])
			}
			if i >= n && got[i] != 0xee {
				t.Errorf("room for %d, %d given: octet %d was written", room, n, i)
			}
		}
	}
}

// The programs see the options of all sockets. An answer that is longer than
// the room, as that of netlink which tells how much there should be, comes as it
// would without them; so do options that are longer than a page.
func TestOtherOptionsStayAsTheyAre(t *testing.T) {
	o, err := LoadOptions(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := loadSet(t).OpenChannels(); err != nil { // which attaches such programs too
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_LINK); err != nil {
		t.Fatal(err)
	}
	get := func(level, name int, into []byte) (uint32, error) {
		length := uint32(len(into))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
			uintptr(unsafe.Pointer(unsafe.SliceData(into))), uintptr(unsafe.Pointer(&length)), 0)
		if errno != 0 {
			return length, errno
		}
		return length, nil
	}
	groups := make([]byte, 4)
	if n, err := get(unix.SOL_NETLINK, unix.NETLINK_LIST_MEMBERSHIPS, groups); err != nil || n <= 4 || groups[0] != 1<<(unix.RTNLGRP_LINK-1) {
		t.Errorf("groups: %v, %d octets, %x", err, n, groups)
	}
	long := make([]byte, 3*os.Getpagesize())
	long[0] = 9
	if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_MARK, string(long)); err != nil {
		t.Errorf("set, %d octets: %v", len(long), err)
	}
	clear(long)
	if n, err := get(unix.SOL_SOCKET, unix.SO_MARK, long); err != nil || n != 4 || long[0] != 9 {
		t.Errorf("get: %v, %d octets, mark %d", err, n, long[0])
	}
}

func getsockopt(t *testing.T, c net.Conn, option int, into []byte) (n int, err error) {
	t.Helper()
	length := uint32(len(into))
	control(t, c.(*net.TCPConn), func(fd int) error {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_TCP, uintptr(option),
			uintptr(unsafe.Pointer(unsafe.SliceData(into))), uintptr(unsafe.Pointer(&length)), 0)
		if errno != 0 {
			err = errno
		}
		return nil
	})
	return int(length), err
}

func setWish(t *testing.T, c net.Conn, value any) (err error) {
	t.Helper()
	control(t, c.(*net.TCPConn), func(fd int) error {
		switch v := value.(type) {
		case abi.Wish:
			err = unix.SetsockoptInt(fd, unix.SOL_TCP, abi.OffloadOption, int(v))
		case string:
			err = unix.SetsockoptString(fd, unix.SOL_TCP, abi.OffloadOption, v)
		}
		return nil
	})
	return err
}

func (e *seated) told() (o abi.SocketOffload) {
	e.t.Helper()
	into := (*[unsafe.Sizeof(o)]byte)(unsafe.Pointer(&o))[:]
	if n, err := getsockopt(e.t, e.s, abi.OffloadOption, into); err != nil || n != len(into) {
		e.t.Errorf("getsockopt: %d octets, %v", n, err)
	}
	return o
}

// A program may ask, and is told.
func TestOffloadOption(t *testing.T) {
	e := newSeated(t)
	if o := e.told(); o != (abi.SocketOffload{}) {
		t.Errorf("at first: %+v", o)
	}
	e.must(setWish(t, e.s, abi.WishNow))
	e.must(setWish(t, e.s, abi.WishNow)) // wakes nobody: the driver has not looked yet
	want := Wake{Flow: e.key, Wish: abi.WishNow}
	if got, err := e.options.Wakes(nil); err != nil || !reflect.DeepEqual(got, []Wake{want}) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if w := e.order(Order{Set: SetHeard}); w != abi.WishNow {
		t.Errorf("it wishes %d", w)
	}
	e.order(Order{Set: SetPlace | SetReason, HWID: published.HWID, Place: abi.SeatDevice, Reason: abi.Asked})
	o := e.told()
	if name, _, _ := bytes.Cut(o.Reason[:], []byte{0}); o.Place != abi.SeatDevice || o.Wish != abi.WishNow || o.HWID != published.HWID || string(name) != "asked" {
		t.Errorf("on the device: %+v", o)
	}
	e.must(setWish(t, e.s, abi.WishNever))
	want.Wish = abi.WishNever
	if got, err := e.options.Wakes(nil); err != nil || !reflect.DeepEqual(got, []Wake{want}) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	e.order(Order{Set: SetHeard | SetPlace | SetReason, Place: abi.SeatKernel, Reason: abi.DeviceFull})
	e.must(setWish(t, e.s, abi.WishAuto))
	e.must(setWish(t, e.s, abi.WishNever)) // in the kernel already
	if n := e.options.wakes.AvailableBytes(); n != 0 {
		t.Errorf("%d octets of wishes that need nothing", n)
	}
	for room, want := range map[int]int{4: 4, 15: 4, 16: 16, 55: 16, 56: 56, 100: 56} {
		into := bytes.Repeat([]byte{0xee}, room)
		if n, err := getsockopt(t, e.s, abi.OffloadOption, into); err != nil || n != want || into[0] != byte(abi.SeatKernel) || n < room && into[n] != 0xee {
			t.Errorf("room for %d: %d octets, %v, %x", room, n, err, into)
		}
	}
}

// What cannot be is refused, with the error that says why.
func TestOffloadOptionRefuses(t *testing.T) {
	e := newSeated(t)
	for _, value := range []any{abi.Wish(3), abi.Wish(1 << 31), "", "no!"} {
		if err := setWish(t, e.s, value); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%v: %v", value, err)
		}
	}
	if _, err := getsockopt(t, e.s, abi.OffloadOption, make([]byte, 3)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("room for 3 octets: %v", err)
	}
	if err := setWish(t, e.peer, abi.WishNow); !errors.Is(err, unix.ENOPROTOOPT) {
		t.Errorf("in another namespace: %v", err)
	}
	if _, err := getsockopt(t, e.peer, abi.OffloadOption, make([]byte, 56)); !errors.Is(err, unix.ENOPROTOOPT) {
		t.Errorf("in another namespace: %v", err)
	}
	e.must(e.options.Forbid(true))
	if err := setWish(t, e.s, abi.WishNow); !errors.Is(err, unix.EPERM) {
		t.Errorf("forbidden: %v", err)
	}
	e.must(e.options.Forbid(false))
	e.must(setWish(t, e.s, abi.WishNow))
	e.must(e.options.Close())
	if err := setWish(t, e.s, abi.WishNow); !errors.Is(err, unix.ENOPROTOOPT) {
		t.Errorf("without a driver: %v", err)
	}
	if _, err := e.options.Wakes(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("wakes after Close: %v", err)
	}
	if _, err := e.options.Write([]Order{{}}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("orders after Close: %v", err)
	}
}

// What a listening socket was told holds for those that it accepts; it cannot
// be on a device itself.
func TestOffloadOptionOfListener(t *testing.T) {
	e := newSeated(t)
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // Go's default is MPTCP, whose sockets do not pass it on
	var l net.Listener
	e.must(e.Host.Do(func() (err error) {
		l, err = plain.Listen(t.Context(), "tcp4", net.JoinHostPort(e.HostIP4.String(), "0"))
		return err
	}))
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	e.must(err)
	raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_TCP, abi.OffloadOption, int(abi.WishNow)); !errors.Is(err, unix.ENOTCONN) {
			t.Errorf("now, of a listener: %v", err)
		}
		e.must(unix.SetsockoptInt(int(fd), unix.SOL_TCP, abi.OffloadOption, int(abi.WishNever)))
	})
	c, err := e.Peer.Dial("tcp4", l.Addr().String())
	e.must(err)
	defer c.Close()
	accepted, err := l.Accept()
	e.must(err)
	defer accepted.Close()
	e.key = keyOf(accepted)
	if w := e.order(Order{}); w != abi.WishNever {
		t.Errorf("the accepted one wishes %d", w)
	}
}

// Orders for flows that have no socket are passed over, also many at once.
func TestOrdersWithoutSocket(t *testing.T) {
	e := newSeated(t)
	list := make([]Order, 600)
	for i := range list {
		list[i] = Order{Flow: flow.Key{Family: 4, RemotePort: [2]byte{byte(i >> 8), byte(i)}}, Set: SetReason, Reason: abi.NAT}
	}
	list[599].Flow = e.key
	e.must(setWish(t, e.s, abi.WishNever))
	e.must(e.Host.Do(func() error {
		seats, err := e.options.Write(list)
		if err == nil && (len(seats) != len(list) || seats[599].Wish != abi.WishNever || seats[0] != Seat{}) {
			t.Errorf("%d seats: %v", len(seats), seats)
		}
		return err
	}))
	if o := e.told(); string(o.Reason[:3]) != "nat" {
		t.Errorf("%+v", o)
	}
}

// What it costs a program to ask for TCP_INFO: of the kernel alone, and with
// the programs, in the kernel and on the device.
func BenchmarkTCPInfo(b *testing.B) {
	n, set := testnet.New(b), loadSet(b)
	s, _ := connect(b, n.Host, n.Peer, n.HostIP4)
	raw, err := s.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	ask := func(b *testing.B) {
		raw.Control(func(fd uintptr) {
			for b.Loop() {
				if _, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("without", ask)
	err = n.Host.Do(func() error {
		o, err := LoadOptions(1, 1024)
		if err != nil {
			return err
		}
		defer o.Close()
		b.Run("kernel", ask)
		blocks := set.Blocks()
		blocks[7].Hardware = published
		blocks[7].Hardware.Sequence = 2
		if err := o.SetTable(0, set); err != nil {
			return err
		}
		if _, err := o.Write([]Order{{Flow: keyOf(s), Set: SetPlace, HWID: published.HWID, Place: abi.SeatDevice}}); err != nil {
			return err
		}
		b.Run("device", ask)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
