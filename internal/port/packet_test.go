package port

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"toehold/internal/frame"
	"toehold/internal/wire"
)

// local is a Packet port over a pair of datagram sockets, which block, refuse
// and cut off as packet sockets do but need no interface, and the other end.
func local(t testing.TB, pool *frame.Pool) (*Packet, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPacket(fds[0], pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		unix.Close(fds[1])
	})
	return p, fds[1]
}

// small gives p the smallest send buffer: a few frames.
func small(t testing.TB, p *Packet) {
	t.Helper()
	if err := unix.SetsockoptInt(p.FD(), unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil {
		t.Fatal(err)
	}
}

// next reads one datagram without its virtio_net_hdr; "" when none waits.
func next(t testing.TB, fd int) string {
	t.Helper()
	b := make([]byte, 1<<17)
	n, err := unix.Read(fd, b)
	if errors.Is(err, unix.EAGAIN) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b[vnetLen:n])
}

func TestPacketSendsTheRestLaterInOrder(t *testing.T) {
	pool := frame.NewPool(10 << 20)
	p, other := local(t, pool)
	small(t, p)
	for i := range batch {
		say(t, p, pool, string(rune('0'+i)))
	}
	if p.Queue(nil, nil) {
		t.Fatal("took more than a batch")
	}
	flush(t, p, false)
	sent := p.Stats().TxFrames
	if sent == 0 || p.Pending() != batch-int(sent) || p.Stats().TxBlocked != 1 {
		t.Fatalf("%d pending, %+v", p.Pending(), p.Stats())
	}
	for i := range batch {
		if got := next(t, other); got != string(rune('0'+i)) {
			t.Fatalf("frame %d is %q", i, got)
		}
		if _, err := p.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if s := p.Stats(); s.TxFrames != batch || s.TxBytes != batch || s.TxErrors != 0 || p.Pending() != 0 {
		t.Errorf("%d pending, %+v", p.Pending(), s)
	}
}

func TestPacketSkipsWhatIsRefused(t *testing.T) {
	pool := frame.NewPool(100 << 20)
	p, other := local(t, pool)
	small(t, p)
	say(t, p, pool, "before")
	say(t, p, pool, strings.Repeat("x", 60000)) // EMSGSIZE
	say(t, p, pool, "after")
	p.Queue(nil, make([]frame.Span, maxPieces+1)) // past the limits
	flush(t, p, true)
	if a, b, c := next(t, other), next(t, other), next(t, other); a != "before" || b != "after" || c != "" {
		t.Errorf("received %q %q %q", a, b, c)
	}
	if s := p.Stats(); s.TxFrames != 2 || s.TxErrors != 2 {
		t.Errorf("stats %+v", s)
	}
}

func TestPacketKeepsTheSmallestBuffer(t *testing.T) {
	pool := frame.NewPool(10 << 20)
	p, other := local(t, pool)
	held := pool.Used()
	lengths := []int{vnetLen, 100, frame.Small, frame.Small + 1, frame.Medium, frame.Medium + 1, 60000}
	sizes := []int{frame.Small, frame.Small, frame.Small, frame.Medium, frame.Medium, frame.Large, frame.Large}
	for i, n := range lengths {
		unix.Write(other, bytes.Repeat([]byte{byte(i)}, n))
	}
	into := make([]Received, 32)
	n, err := p.Receive(into)
	if n != len(lengths) || err != nil {
		t.Fatalf("%d frames, %v", n, err)
	}
	for i, r := range into[:n] {
		if r.N != lengths[i] || len(r.Buf.B) != sizes[i] || r.Buf.B[r.N-1] != byte(i) {
			t.Errorf("frame of %d: %d octets in a buffer of %d", lengths[i], r.N, len(r.Buf.B))
		}
		r.Buf.Release()
	}
	pool.Recycle()
	if pool.Used() != held {
		t.Errorf("holds %d octets, at first %d", pool.Used(), held)
	}
}

func TestPacketReceivesNoMoreThanAskedFor(t *testing.T) {
	pool := frame.NewPool(10 << 20)
	p, other := local(t, pool)
	for i := range 5 {
		unix.Write(other, append(noVNet[:], byte('0'+i)))
	}
	if n, err := p.Receive(nil); n != 0 || err != nil {
		t.Errorf("%d frames, %v", n, err)
	}
	into := make([]Received, 2)
	if n, _ := p.Receive(into); n != 2 || into[1].Buf.B[vnetLen] != '1' {
		t.Errorf("%d frames", n)
	}
	if got := texts(t, p); strings.Join(got, "") != "234" {
		t.Errorf("then %q", got)
	}
}

func TestPacketDropsWhatDoesNotFit(t *testing.T) {
	pool := frame.NewPool(10 << 20)
	p, other := local(t, pool)
	unix.Write(other, make([]byte, frame.Large+1))
	unix.Write(other, append(noVNet[:], "fits"...))
	if got := texts(t, p); len(got) != 1 || got[0] != "fits" {
		t.Errorf("received %q", got)
	}
	if s := p.Stats(); s.RxTooLarge != 1 || s.RxFrames != 1 || s.RxBytes != 4 {
		t.Errorf("stats %+v", s)
	}
}

func TestPacketWithoutBuffers(t *testing.T) {
	pool := frame.NewPool(readBatch*frame.Large + frame.Small - frame.Reserve)
	p, other := local(t, pool)
	unix.Write(other, make([]byte, 60000))
	unix.Write(other, append(noVNet[:], "kept"...))
	unix.Write(other, append(noVNet[:], "lost"...))
	into := make([]Received, 8)
	if n, err := p.Receive(into); n != 1 || err != nil || p.Stats().RxNoBuffer != 2 {
		t.Fatalf("%d frames, %v, %+v", n, err, p.Stats())
	}
	into[0].Buf.Release()
	pool.Recycle()
	unix.Write(other, append(noVNet[:], "again"...))
	if got := texts(t, p); len(got) != 1 || got[0] != "again" {
		t.Errorf("received %q", got)
	}
	if _, err := newPacket(-1, pool); !errors.Is(err, errPool) {
		t.Errorf("a second port from a full pool: %v", err)
	}
}

func TestPacketWhoseSocketIsGone(t *testing.T) {
	pool := frame.NewPool(10 << 20)
	p, _ := local(t, pool)
	say(t, p, pool, "x")
	fd := p.fd
	p.fd = -1
	if done, err := p.Flush(); !done || !errors.Is(err, ErrGone) || !errors.Is(err, unix.EBADF) {
		t.Errorf("flush %v, %v", done, err)
	}
	if _, err := p.Receive(make([]Received, 1)); !errors.Is(err, ErrGone) {
		t.Errorf("receive: %v", err)
	}
	p.fd = fd
}

func TestPacketAllocatesNothing(t *testing.T) {
	pool := frame.NewPool(10 << 20)
	p, other := local(t, pool)
	q, err := newPacket(other, pool)
	if err != nil {
		t.Fatal(err)
	}
	into := make([]Received, 8)
	payload := pool.Get(frame.Large)
	span := []frame.Span{{Buf: payload, Len: 60000}}
	if n := testing.AllocsPerRun(100, func() {
		p.Queue(noVNet[:], span)
		p.Queue(noVNet[:], nil)
		p.Flush()
		n, _ := q.Receive(into)
		for _, r := range into[:n] {
			r.Buf.Release()
		}
		pool.Recycle()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSortErrors(t *testing.T) {
	for e, want := range map[unix.Errno]outcome{
		unix.EINTR: again, unix.EAGAIN: blocked, unix.EMSGSIZE: refused, unix.ENETDOWN: refused,
		unix.ENOBUFS: refused, unix.EINVAL: refused, unix.EIO: refused,
		unix.ENXIO: gone, unix.ENODEV: gone, unix.EBADFD: gone, unix.EBADF: gone,
	} {
		if got := sort(e); got != want {
			t.Errorf("%v: %d, want %d", e, got, want)
		}
	}
}

// auxdata is a control message as packet_recvmsg writes it.
func auxdata(status uint32, tci, tpid uint16) []byte {
	b := make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.TpacketAuxdata{}))))
	aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&b[unix.SizeofCmsghdr]))
	*aux = unix.TpacketAuxdata{Status: status, Vlan_tci: tci, Vlan_tpid: tpid}
	return b
}

func TestTag(t *testing.T) {
	const valid, tpid = unix.TP_STATUS_VLAN_VALID, unix.TP_STATUS_VLAN_TPID_VALID
	for _, tt := range []struct {
		name      string
		control   []byte
		tci, tpid uint16
		ok        bool
	}{
		{"no message", nil, 0, 0, false},
		{"short message", auxdata(valid, 7, 0)[:20], 0, 0, false},
		{"no tag", auxdata(0, 7, 0x8100), 0, 0, false},
		{"tag 0 is a tag", auxdata(valid|tpid, 0, 0x8100), 0, 0x8100, true},
		{"802.1ad", auxdata(valid|tpid, 7, 0x88a8), 7, 0x88a8, true},
		{"protocol not told", auxdata(valid, 7, 0), 7, 0x8100, true},
	} {
		if tci, tpid, ok := tag(tt.control); tci != tt.tci || tpid != tt.tpid || ok != tt.ok {
			t.Errorf("%s: %d %#x %v", tt.name, tci, tpid, ok)
		}
	}
}

func TestInsertTag(t *testing.T) {
	v := wire.VNet{Flags: wire.NeedsCsum, HdrLen: 54, CsumStart: 34, CsumOffset: 16}
	b := make([]byte, 64)
	v.Put(b)
	n := vnetLen + copy(b[vnetLen:], "destinsourceTTrest")
	n = insertTag(b, n, 0x2007, 0x8100)
	want := append(binary.BigEndian.AppendUint32([]byte("destinsource"), 0x81002007), "TTrest"...)
	if !bytes.Equal(b[vnetLen:n], want) {
		t.Errorf("frame %q", b[vnetLen:n])
	}
	v.HdrLen, v.CsumStart = 58, 38
	var got wire.VNet
	if got.Get(b); got != v {
		t.Errorf("offload header %+v", got)
	}
	if insertTag(b, 21, 1, 1) != 0 || insertTag(b, len(b)-3, 1, 1) != 0 {
		t.Error("a tag went where it does not fit")
	}
}
