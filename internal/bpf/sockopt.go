package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/flow"
)

// Options are the programs that serve getsockopt and setsockopt: TCP_INFO of
// connections that a device has, and TOEHOLD_OFFLOAD; and that judge new
// connections by a policy. They see the sockets of
// all processes, and answer for those of one network namespace. With each
// socket that was ever named to them they keep a seat, for as long as it lives.
type Options struct {
	objects sockoptObjects
	root    *os.File // of cgroup v2
	links   []link.Link
	judge   link.Link // while there is a policy
	wakes   *ringbuf.Reader
	mu      sync.Mutex // of orders and judge
	orders  *orders
}

// An Order is what to write into the seat of a flow's socket; what is zero
// stays as it is, but for Place.
type Order struct {
	Flow   flow.Key
	Set    OrderSet
	Table  int      // of the device
	HWID   abi.HWID // 0 in the kernel
	Place  abi.SeatPlace
	Counts *abi.HardwarePart // what the device has counted, nil: nothing
	Reason abi.Reason
}

// An OrderSet says what of a seat an Order writes.
type OrderSet uint32

// What an Order may write.
const (
	SetPlace  OrderSet = 1 << iota // Table, HWID, Place
	setCounts                      // Counts
	SetReason                      // Reason
	SetHeard                       // that the driver knows what the program wishes: later wishes wake it again
	// What TCP_INFO counts goes on over a bypass if these are set, each when it is so:
	SetDiverted // before Divert is sent, of a connection that has its HWID
	SetKept     // the program is frozen, the device has parted, the HWID is still there; the socket is about to be taken apart
	SetRebuilt  // its socket has been rebuilt, and nothing has been sent or received since
)

// maxOrders is how many seats one run writes.
const maxOrders = 256

// An order is struct order of c/sockopt.c, orders is struct orders.
type order struct {
	key                                  flow.Key
	set, table                           uint32
	hwid                                 abi.HWID
	place                                abi.SeatPlace
	wish                                 abi.Wish
	counted                              abi.HWID
	retransmits, bytesResent, gapsBefore uint64
	reason                               [len(abi.SocketOffload{}.Reason)]byte
	verdict, rule                        uint16
	_                                    [4]byte
}

type orders struct {
	count, done uint32
	order       [maxOrders]order
}

// LoadOptions loads the programs and attaches them to the root of cgroup v2,
// for the calling thread's network namespace. devices is how many block tables
// there will be.
func LoadOptions(devices, maxConnections int) (*Options, error) {
	o := new(Options)
	if err := o.load(devices, maxConnections); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

func (o *Options) load(devices, maxConnections int) error {
	spec, err := loadSockopt()
	if err != nil {
		return err
	}
	cookie, err := netnsCookie()
	if err != nil {
		return err
	}
	if err := spec.Variables[sockoptVarNetns].Set(cookie); err != nil {
		return err
	}
	tables := spec.Maps[sockoptMapTables]
	tables.MaxEntries = uint32(devices)
	tables.InnerMap = &ebpf.MapSpec{
		Type: ebpf.Array, KeySize: 4, ValueSize: abi.BlockSize,
		MaxEntries: uint32(maxConnections), Flags: unix.BPF_F_MMAPABLE,
	}
	if err := spec.LoadAndAssign(&o.objects, nil); err != nil {
		return Missing("BPF programs for socket options", "5.10", err)
	}
	mem, err := unix.Mmap(o.objects.Orders.FD(), 0, pages(unsafe.Sizeof(orders{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return Missing("mmapable BPF arrays", "5.5", err)
	}
	o.orders = (*orders)(unsafe.Pointer(&mem[0]))
	if o.wakes, err = ringbuf.NewReader(o.objects.Wakes); err != nil {
		return Missing("BPF ring buffers", "5.8", err)
	}
	return o.attach()
}

// netnsCookie is the calling thread's network namespace as BPF names it.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return cookie, Missing("cookies of network namespaces", "5.14", err)
}

func (o *Options) attach() error {
	var err error
	if o.root, err = cgroupRoot(); err != nil {
		return err
	}
	for at, p := range map[ebpf.AttachType]*ebpf.Program{ebpf.AttachCGroupGetsockopt: o.objects.Tell, ebpf.AttachCGroupSetsockopt: o.objects.Ask} {
		l, err := attachCgroup(o.root, at, p)
		if err != nil {
			return err
		}
		o.links = append(o.links, l)
	}
	return nil
}

func attachCgroup(root *os.File, where ebpf.AttachType, p *ebpf.Program) (link.Link, error) {
	l, err := link.AttachCgroup(link.CgroupOptions{Path: fmt.Sprintf("/proc/self/fd/%d", root.Fd()), Attach: where, Program: p})
	return l, Missing("BPF programs for sockets at a cgroup", "5.7", err)
}

// SetPolicy has connections judged by a table when they are established. An
// empty one ends that. Those that are established while the table is
// exchanged are not judged, so are the driver's to look at.
func (o *Options) SetPolicy(t *abi.PolicyTable) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.root == nil {
		return os.ErrClosed
	}
	if o.judge != nil {
		if err := o.judge.Close(); err != nil {
			return fmt.Errorf("detach the policy: %w", err)
		}
		o.judge = nil
	}
	if t.Count == 0 {
		return nil
	}
	octets := unsafe.Slice((*byte)(unsafe.Pointer(t)), unsafe.Sizeof(*t))
	if err := o.objects.Policies.Put(uint32(0), octets); err != nil {
		return fmt.Errorf("policy for the kernel: %w", err)
	}
	var err error
	o.judge, err = attachCgroup(o.root, ebpf.AttachCGroupSockOps, o.objects.Established)
	return err
}

// cgroupRoot opens the root of cgroup v2, as this process's cgroup namespace
// has it, by a mount of its own that is nowhere: whether and where the
// machine has mounted it does not matter.
func cgroupRoot() (*os.File, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, Missing("cgroup v2", "5.2", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, Missing("cgroup v2", "5.2", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, Missing("cgroup v2", "5.2", err)
	}
	return os.NewFile(uintptr(mount), "cgroup2"), nil
}

// SetTable gives the block table of a device, of as many connections as all
// have; it takes the place of the one before.
func (o *Options) SetTable(device int, s *Set) error {
	if err := o.objects.Tables.Put(uint32(device), uint32(s.BlocksFD())); err != nil {
		return fmt.Errorf("block table of device %d: %w", device, err)
	}
	return nil
}

// Forbid has programs' wishes refused with EPERM, or not any more. What they
// asked for before stands.
func (o *Options) Forbid(yes bool) error {
	value := uint32(0)
	if yes {
		value = 1
	}
	return o.objects.Forbidden.Set(value)
}

// A Seat is what is written in one that the driver has not written there.
type Seat struct {
	Wish    abi.Wish    // of the socket's program
	Verdict abi.Verdict // of the policy when the connection was established, 0: later, or there was none
	Rule    uint16      // that the verdict is of
}

// Write carries out orders, and returns the seats. A flow without socket, or
// whose socket has none, has a zero Seat. It may be called by several
// goroutines.
func (o *Options) Write(list []Order) ([]Seat, error) {
	seats := make([]Seat, 0, len(list))
	for len(list) > 0 {
		n := min(len(list), maxOrders)
		var err error
		if seats, err = o.write(list[:n], seats); err != nil {
			return nil, fmt.Errorf("write %d seats: %w", n, Missing("socket lookup in a test run", "5.17", err))
		}
		list = list[n:]
	}
	return seats, nil
}

func (o *Options) write(list []Order, seats []Seat) ([]Seat, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.orders == nil {
		return nil, os.ErrClosed
	}
	for i := range list {
		o.orders.order[i].take(&list[i])
	}
	o.orders.count, o.orders.done = uint32(len(list)), 0
	if _, err := o.objects.Usher.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
		return nil, err
	}
	if o.orders.done != o.orders.count {
		return nil, errors.New("the program did not run to its end")
	}
	for i := range list {
		r := &o.orders.order[i]
		seats = append(seats, Seat{r.wish, abi.Verdict(r.verdict), r.rule})
	}
	return seats, nil
}

func (r *order) take(from *Order) {
	*r = order{key: from.Flow, set: uint32(from.Set), table: uint32(from.Table), hwid: from.HWID, place: from.Place}
	copy(r.reason[:], from.Reason.String())
	if h := from.Counts; h != nil {
		r.set |= uint32(setCounts)
		r.counted, r.retransmits, r.bytesResent, r.gapsBefore = h.HWID, h.Retransmits, h.BytesResent, h.OutOfOrder
	}
}

// A Wake is a wish of a program, or a verdict of the policy, that the driver
// has to do something about.
type Wake struct {
	Flow    flow.Key
	Wish    abi.Wish
	Verdict uint32 // abi.Verdict of the policy, 0: it is the program that wishes
}

// Wakes waits for wishes and appends them to list. After Close the error is
// os.ErrClosed.
func (o *Options) Wakes(list []Wake) ([]Wake, error) {
	var record ringbuf.Record
	for {
		if err := o.wakes.ReadInto(&record); err != nil {
			return list, err
		}
		if len(record.RawSample) == int(unsafe.Sizeof(Wake{})) {
			list = append(list, *(*Wake)(unsafe.Pointer(&record.RawSample[0])))
		}
		if o.wakes.AvailableBytes() == 0 || len(list) >= maxOrders {
			return list, nil
		}
	}
}

// Close detaches and closes everything: programs see what the kernel alone
// knows again.
func (o *Options) Close() error {
	var errs []error
	for _, l := range o.links {
		errs = append(errs, l.Close())
	}
	if o.wakes != nil {
		errs = append(errs, o.wakes.Close())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.orders != nil {
		errs = append(errs, unix.MunmapPtr(unsafe.Pointer(o.orders), uintptr(pages(unsafe.Sizeof(orders{})))))
	}
	if o.judge != nil {
		errs = append(errs, o.judge.Close())
	}
	if o.root != nil {
		errs = append(errs, o.root.Close())
	}
	o.links, o.orders, o.judge, o.root = nil, nil, nil, nil
	return errors.Join(append(errs, o.objects.Close())...)
}
