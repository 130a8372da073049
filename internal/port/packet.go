package port

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/frame"
)

// readBatch is the most frames that one call reads. Each has a Large buffer
// waiting for it.
const readBatch = 32

// controlLen holds one control message: struct tpacket_auxdata.
const controlLen = 64

// Packet is the port of an AF_PACKET socket with PACKET_VNET_HDR, in batches
// by recvmmsg and sendmmsg.
type Packet struct {
	fd    int
	pool  *frame.Pool
	stats Stats

	wide    bool // the latest batch was of super-segments
	slots   [readBatch]*frame.Buf
	in      [readBatch]mmsghdr
	iovecs  [readBatch]unix.Iovec
	control [readBatch][controlLen]byte

	queue queue
	out   [batch]mmsghdr
}

// NewPacket makes the port of a socket from OpenPacketSocket. It owns fd from
// now on, also when it fails, and keeps readBatch Large buffers of pool for
// reading.
func NewPacket(fd int, pool *frame.Pool) (*Packet, error) {
	// A tag that the card took off, or the kernel, comes beside the frame.
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("ask for VLAN tags: %w", err)
	}
	return newPacket(fd, pool)
}

func newPacket(fd int, pool *frame.Pool) (*Packet, error) {
	p := &Packet{fd: fd, pool: pool}
	for i := range p.slots {
		if p.slots[i] = pool.Get(frame.Large); p.slots[i] == nil {
			p.Close()
			return nil, errPool
		}
		h := &p.in[i].hdr
		h.Iov, h.Control = &p.iovecs[i], &p.control[i][0]
		h.SetIovlen(1)
		p.aim(i)
	}
	for i := range p.out {
		p.out[i].hdr.Iov = &p.queue.iovecs[i][0]
	}
	return p, nil
}

// aim points message i at its slot and undoes what the kernel wrote to it.
func (p *Packet) aim(i int) {
	p.iovecs[i].Base = &p.slots[i].B[0]
	p.iovecs[i].SetLen(len(p.slots[i].B))
	p.in[i].hdr.SetControllen(controlLen)
}

// FD is the socket.
func (p *Packet) FD() int { return p.fd }

// Receive implements Port.
func (p *Packet) Receive(into []Received) (int, error) {
	want := min(len(into), readBatch)
	if p.wide {
		want = min(want, readOctets/frame.Large+1)
	}
	if want == 0 {
		return 0, nil
	}
	n, err := p.read(want)
	got, octets := 0, 0
	for i := range n {
		octets += int(p.in[i].n)
		if r, ok := p.message(i); ok {
			into[got] = r
			got++
		}
		p.aim(i)
	}
	if n > 0 {
		p.wide = octets > n*frame.Large/4
	}
	return got, err
}

// read fills up to want slots.
func (p *Packet) read(want int) (int, error) {
	for {
		n, e := recvmmsg(p.fd, &p.in[0], want)
		if e == 0 {
			return n, nil
		}
		switch sort(e) {
		case again:
		case blocked:
			return 0, nil
		case gone:
			return 0, goneError("recvmmsg", e)
		default:
			return 0, p.trouble(e)
		}
	}
}

// trouble sorts an error that the socket kept for the next reader. An
// interface that went down may come up again and the socket with it; one that
// was removed leaves the socket bound to none (packet_notifier in
// net/packet/af_packet.c).
func (p *Packet) trouble(e unix.Errno) error {
	if e != unix.ENETDOWN {
		return fmt.Errorf("recvmmsg: %w", e)
	}
	sa, err := unix.Getsockname(p.fd)
	if err != nil {
		return goneError("getsockname", err)
	}
	if ll, ok := sa.(*unix.SockaddrLinklayer); ok && ll.Ifindex <= 0 {
		return goneError("recvmmsg", e)
	}
	return nil
}

// message makes a Received of message i.
func (p *Packet) message(i int) (Received, bool) {
	m := &p.in[i]
	if m.hdr.Flags&unix.MSG_TRUNC != 0 {
		p.stats.RxTooLarge++
		return Received{}, false
	}
	n := int(m.n)
	if tci, tpid, ok := tag(p.control[i][:m.hdr.Controllen]); ok {
		if n = insertTag(p.slots[i].B, n, tci, tpid); n == 0 {
			p.stats.RxTooLarge++
			return Received{}, false
		}
	}
	r, ok := take(p.pool, &p.slots[i], n)
	if !ok {
		p.stats.RxNoBuffer++
		return r, false
	}
	p.stats.received(n)
	return r, true
}

// tag finds an 802.1Q tag in a control message: struct cmsghdr, then struct
// tpacket_auxdata (include/uapi/linux/if_packet.h).
func tag(control []byte) (tci, tpid uint16, ok bool) {
	const (
		data = unix.SizeofCmsghdr
		end  = data + int(unsafe.Sizeof(unix.TpacketAuxdata{}))
	)
	if len(control) < end {
		return 0, 0, false
	}
	aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&control[data]))
	if aux.Status&unix.TP_STATUS_VLAN_VALID == 0 {
		return 0, 0, false
	}
	tpid = unix.ETH_P_8021Q
	if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		tpid = aux.Vlan_tpid
	}
	return aux.Vlan_tci, tpid, true
}

// insertTag puts a tag behind the addresses of the frame in b[:n] and moves
// the offload offsets, which do not count it. It returns the new length, 0
// when b is too short.
func insertTag(b []byte, n int, tci, tpid uint16) int {
	const at = vnetLen + 12
	if n < at || n+4 > len(b) {
		return 0
	}
	copy(b[at+4:n+4], b[at:n])
	binary.BigEndian.PutUint16(b[at:], tpid)
	binary.BigEndian.PutUint16(b[at+2:], tci)
	shiftVNet(b, 4)
	return n + 4
}

// Queue implements Port. A frame past the limits of one frame
// is counted in TxErrors and dropped.
func (p *Packet) Queue(header []byte, pieces []frame.Span) bool {
	if !fits(header, pieces) {
		p.stats.TxErrors++
		return true
	}
	i := p.queue.end
	if !p.queue.add(header, pieces) {
		return false
	}
	p.out[i].hdr.SetIovlen(p.queue.frames[i].iovecs)
	return true
}

// Flush implements Port.
func (p *Packet) Flush() (bool, error) {
	for p.queue.pending() > 0 {
		n, e := sendmmsg(p.fd, &p.out[p.queue.first], p.queue.pending())
		if e == 0 {
			p.sent(n)
			continue
		}
		switch sort(e) {
		case again:
		case blocked:
			p.stats.TxBlocked++
			return false, nil
		case gone:
			p.queue.pop(p.queue.pending())
			return true, goneError("sendmmsg", e)
		default:
			p.stats.TxErrors++
			p.queue.pop(1)
		}
	}
	return true, nil
}

func (p *Packet) sent(n int) {
	p.stats.TxFrames += uint64(n)
	p.stats.TxBytes += p.queue.octets(n)
	p.queue.pop(n)
}

// Pending implements Port.
func (p *Packet) Pending() int { return p.queue.pending() }

// Stats implements Port. The kernel's count of drops starts again at every
// reading (packet(7)), so they are summed here.
func (p *Packet) Stats() Stats {
	if s, err := unix.GetsockoptTpacketStats(p.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		p.stats.RxDropped += uint64(s.Drops)
	}
	return p.stats
}

// Close implements Port.
func (p *Packet) Close() error {
	p.queue.pop(p.queue.pending())
	for i, b := range p.slots {
		if b != nil {
			b.Release()
			p.slots[i] = nil
		}
	}
	return unix.Close(p.fd)
}
