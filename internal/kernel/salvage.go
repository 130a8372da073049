package kernel

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/flow"
	"toehold/internal/recovery"
)

// A Rebuild is the state that a socket is to be brought to. Salvage describes
// a socket as it is; who has the connection's true state changes what differs.
//
// A Rebuild keeps these promises, and Restore checks them:
//  1. RcvNxt is that of the first octet after Unread.
//  2. SndWnd is not above MaxWnd, RcvWup not after RcvNxt, and SndWL1 not after
//     RcvNxt+RcvWnd.
type Rebuild struct {
	Flow            flow.ID
	recovery.Socket // Finish sends Unsent, and nothing of Sent

	MSS                  uint32 // octets of payload, at most, that the peer takes (rx_opt.mss_clamp)
	SndWscale, RcvWscale uint8
	SACK, Timestamps     bool
	// TSVal is the least timestamp value that the socket may send from now on; 0:
	// its own clock is right.
	TSVal uint32

	ShutWrite bool // the program has shut down its writing side: Finish says FIN after Unsent
	// ShutRead says that the program gets the end once it has read what is there: of
	// itself, or as the peer has said FIN.
	ShutRead bool
	// PeerFIN says that the socket had the peer's FIN, at RcvNxt. A rebuilt
	// socket has not: who speaks to it gives it again.
	PeerFIN bool
	// NotSentLowat is the TCP_NOTSENT_LOWAT that the socket is to have, in octets; -1:
	// no limit. Until all is queued it has none.
	NotSentLowat int

	kept
}

// What connect(AF_UNSPEC) and connect take from a socket (tcp_disconnect,
// tcp_connect_init), or TCP_REPAIR (SO_REUSEADDR), and what the buffers were
// before the queues were filled.
type kept struct {
	family         int
	boundIf        int    // interface index
	reuse          int    // SO_REUSEADDR
	mark           int    // SO_MARK
	foreign        [2]int // transparent, freebind: may have addresses that are not the host's
	sndBuf, rcvBuf int    // octets
	bufLock        int    // SO_BUF_LOCK
	options        [len(lostOptions)]int
	congestion     string
	raised         bool // a buffer is larger than it was
}

// Options that linux/tcp.h has and package unix has not.
const (
	tcpRTOMin    = 45 // TCP_RTO_MIN_US
	tcpDelackMax = 46 // TCP_DELACK_MAX_US
)

// foreignOptions are those by which a socket may have an address that is not
// the host's, by family.
var foreignOptions = map[int][2]struct{ level, name int }{
	unix.AF_INET:  {{unix.IPPROTO_IP, unix.IP_TRANSPARENT}, {unix.IPPROTO_IP, unix.IP_FREEBIND}},
	unix.AF_INET6: {{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT}, {unix.IPPROTO_IPV6, unix.IPV6_FREEBIND}},
}

// absentOption is the value of an option that the kernel does not have.
const absentOption = -1 << 31

// lostOptions are those of numbers which a rebuild resets.
var lostOptions = [...]struct {
	level, name int
	text        string
}{
	{unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP"},
	{unix.IPPROTO_TCP, unix.TCP_QUICKACK, "TCP_QUICKACK"},
	{unix.IPPROTO_TCP, tcpRTOMin, "TCP_RTO_MIN_US"},
	{unix.IPPROTO_TCP, tcpDelackMax, "TCP_DELACK_MAX_US"},
	{unix.SOL_SOCKET, unix.SO_PEEK_OFF, "SO_PEEK_OFF"},
}

// windowClamp is the place of TCP_WINDOW_CLAMP in lostOptions.
const windowClamp = 0

// A repairWindow is struct tcp_repair_window.
type repairWindow struct {
	SndWL1, SndWnd, MaxWnd, RcvWnd, RcvWup uint32
}

// unreadRoom is for what is read, of which there is nothing as a rule.
var unreadRoom = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// TakeUnread reads what the program has not: of a socket in a sockmap that
// queue first, then TCP's. From then on nobody else has these octets; so it
// comes before the socket leaves the sockmap, which throws its queue away. fin
// says that the peer's FIN follows them.
func TakeUnread(fd int) (octets []byte, fin bool, err error) {
	room := unreadRoom.Get().(*[256 << 10]byte)
	defer unreadRoom.Put(room)
	for {
		n, _, err := unix.Recvfrom(fd, room[:], unix.MSG_DONTWAIT)
		octets = append(octets, room[:max(n, 0)]...)
		switch {
		case errors.Is(err, unix.EINTR) || n > 0:
		case errors.Is(err, unix.EAGAIN):
			return octets, false, nil
		case err != nil:
			return octets, false, fmt.Errorf("read what the program has not: %w", err)
		default:
			return octets, true, nil
		}
	}
}

// Salvage describes a socket whose program is frozen and which is in no
// sockmap any more, all but Unread and ShutRead (TakeUnread). It leaves the socket as it is.
func Salvage(fd int, id flow.ID) (r *Rebuild, err error) {
	r = &Rebuild{Flow: id}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return nil, fmt.Errorf("salvage: TCP_INFO: %w", err)
	}
	if err := r.keep(fd); err != nil {
		return nil, fmt.Errorf("salvage: %w", err)
	}
	if err := r.described(info); err != nil {
		return nil, fmt.Errorf("salvage: %w", err)
	}
	if err := setTCP(fd, unix.TCP_REPAIR, unix.TCP_REPAIR_ON); err != nil {
		return nil, fmt.Errorf("salvage: TCP_REPAIR: %w", err)
	}
	err = r.repaired(fd, info.State)
	if err = errors.Join(err, r.leave(fd)); err != nil {
		return nil, fmt.Errorf("salvage: %w", err)
	}
	return r, nil
}

// A socketOption is one of SOL_SOCKET, and where its value is kept.
type socketOption struct {
	option int
	to     *int
}

func readOptions(fd int, options ...socketOption) (err error) {
	for _, o := range options {
		if *o.to, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.option); err != nil {
			return fmt.Errorf("socket option %d: %w", o.option, err)
		}
	}
	return nil
}

// keep reads the options that are to be put back. SO_REUSEADDR is another in
// repair mode.
func (r *Rebuild) keep(fd int) error {
	err := readOptions(fd, socketOption{unix.SO_REUSEADDR, &r.reuse}, socketOption{unix.SO_SNDBUF, &r.sndBuf},
		socketOption{unix.SO_RCVBUF, &r.rcvBuf}, socketOption{unix.SO_BUF_LOCK, &r.bufLock})
	if err == nil {
		r.NotSentLowat, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
	}
	if err == nil {
		err = r.keepRoute(fd)
	}
	if err != nil {
		return err
	}
	return r.keepLost(fd)
}

// keepRoute reads what the route depends on.
func (r *Rebuild) keepRoute(fd int) error {
	err := readOptions(fd, socketOption{unix.SO_DOMAIN, &r.family}, socketOption{unix.SO_BINDTOIFINDEX, &r.boundIf}, socketOption{unix.SO_MARK, &r.mark})
	if err != nil {
		return err
	}
	for i, o := range foreignOptions[r.family] {
		if r.foreign[i], err = unix.GetsockoptInt(fd, o.level, o.name); err != nil {
			return fmt.Errorf("socket option %d of level %d: %w", o.name, o.level, err)
		}
	}
	return nil
}

// keepLost reads the options that are lost.
func (r *Rebuild) keepLost(fd int) (err error) {
	for i, o := range lostOptions {
		if r.options[i], err = unix.GetsockoptInt(fd, o.level, o.name); errors.Is(err, unix.ENOPROTOOPT) {
			r.options[i], err = absentOption, nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", o.text, err)
		}
	}
	r.congestion, err = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	return err
}

// described takes what TCP_INFO says of state and options.
func (r *Rebuild) described(info *unix.TCPInfo) error {
	switch info.State {
	case unix.BPF_TCP_ESTABLISHED:
	case unix.BPF_TCP_FIN_WAIT1, unix.BPF_TCP_FIN_WAIT2:
		r.ShutWrite = true
	case unix.BPF_TCP_CLOSE_WAIT:
		r.PeerFIN = true
	case unix.BPF_TCP_LAST_ACK, unix.BPF_TCP_CLOSING:
		r.PeerFIN, r.ShutWrite = true, true
	default:
		return fmt.Errorf("a socket in state %d has no connection to rebuild", info.State)
	}
	const timestamps, sack, scales = 1, 2, 4 // TCPI_OPT_...
	r.Timestamps, r.SACK = info.Options&timestamps != 0, info.Options&sack != 0
	if info.Options&scales != 0 {
		r.SndWscale, r.RcvWscale = wscales(info)
	}
	return nil
}

// wscales are the bit fields of struct tcp_info, which package unix has not.
func wscales(info *unix.TCPInfo) (snd, rcv uint8) {
	octets := (*[8]byte)(unsafe.Pointer(info))
	return octets[6] & 15, octets[6] >> 4
}

// repaired reads what the kernel tells in repair mode alone.
func (r *Rebuild) repaired(fd int, state uint8) error {
	mss, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	if err != nil {
		return fmt.Errorf("TCP_MAXSEG: %w", err)
	}
	var w repairWindow
	if err := getOctets(fd, unix.TCP_REPAIR_WINDOW, unsafe.Pointer(&w), unsafe.Sizeof(w)); err != nil {
		return fmt.Errorf("TCP_REPAIR_WINDOW: %w", err)
	}
	r.MSS = uint32(mss)
	r.SndWL1, r.SndWnd, r.MaxWnd, r.RcvWnd, r.RcvWup = w.SndWL1, w.SndWnd, w.MaxWnd, w.RcvWnd, w.RcvWup
	if err := r.received(fd); err != nil {
		return err
	}
	return r.queued(fd, state)
}

func (r *Rebuild) received(fd int) (err error) {
	if r.RcvNxt, err = queueSequence(fd, receiveQueue); err != nil {
		return err
	}
	if r.PeerFIN {
		r.RcvNxt--
	}
	if int32(r.RcvWup-r.RcvNxt) > 0 {
		r.RcvWup, r.RcvWnd = r.RcvNxt, r.RcvWnd+1 // the edge stays where it is
	}
	return nil
}

// queued reads the send queue, which ends with a FIN that takes a sequence
// number if the program has shut down its side; a FIN that the peer has
// acknowledged is to be said again.
func (r *Rebuild) queued(fd int, state uint8) error {
	end, err := queueSequence(fd, sendQueue)
	if err != nil {
		return err
	}
	length, err1 := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	unsent, err2 := unix.IoctlGetInt(fd, unix.SIOCOUTQNSD)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("length of the send queue: %w", err)
	}
	if r.ShutWrite {
		end, length, unsent = end-1, max(length-1, 0), max(unsent-1, 0)
	}
	r.SndUna = end - uint32(length)
	octets := make([]byte, length)
	if length > 0 {
		n, _, err := unix.Recvfrom(fd, octets, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err == nil && n != length {
			err = fmt.Errorf("%d octets of %d", n, length)
		}
		if err != nil {
			return fmt.Errorf("read the send queue: %w", err)
		}
	}
	r.Sent, r.Unsent = pieces(octets[:length-unsent]), pieces(octets[length-unsent:])
	return nil
}

// pieces is a list of the octets, if there are any.
func pieces(octets []byte) [][]byte {
	if len(octets) == 0 {
		return nil
	}
	return [][]byte{octets}
}

// The queues of TCP_REPAIR_QUEUE.
const (
	receiveQueue = 1
	sendQueue    = 2
)

// queueSequence selects a queue and reads the sequence number after its end.
func queueSequence(fd, queue int) (uint32, error) {
	if err := setTCP(fd, unix.TCP_REPAIR_QUEUE, queue); err != nil {
		return 0, fmt.Errorf("TCP_REPAIR_QUEUE: %w", err)
	}
	q, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
	if err != nil {
		return 0, fmt.Errorf("TCP_QUEUE_SEQ: %w", err)
	}
	return uint32(q), nil
}

func getOctets(fd, option int, to unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, uintptr(option),
		uintptr(to), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func setOctets(fd, option int, from unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, uintptr(option), uintptr(from), size, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
