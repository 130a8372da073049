package device

import (
	"bytes"
	"container/heap"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/port"
	"toehold/internal/seqnum"
	"toehold/internal/shm"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// A world is a program's kernel, its peer and a device between them, in
// virtual time: the steering, the wire with its faults, and two ordinary TCP
// endpoints that compare every octet.
type world struct {
	t       *testing.T
	seed    uint64
	r       *rand.Rand
	now     mono.Time
	events  eventQueue
	order   uint64
	program *endpoint // S
	peer    *endpoint
	steered bool
	probed  *abi.KernelState // what the probe read, when it was not read now

	device       *Device
	kernelUplink port.Port // the kernel's ends of the device's ports
	kernelHost   port.Port
	answers      []spoken
	blocks       []abi.Block
	control      abi.Control
	faults       faults
	rings        []byte // of the devices
	ringsFD      int
	died         bool     // the device, in the middle of a turn
	tie          *tie     // of the program's socket to a channel, nil: none
	id           abi.HWID // that the connection was last admitted by
	shared       *shared  // what the devices see of the host's memory, nil: nothing is between
	watch        watcher  // nil: nobody
	points       int      // that were passed
	l3           bool     // the uplink has no link header
}

type spoken struct {
	kind abi.Type
	abi.Answer
}

// faults of the wire: probabilities, and the longest extra delay.
type faults struct {
	lose, double, corrupt, reorder, mark float64
	delay                                time.Duration
}

type event struct {
	at    mono.Time
	order uint64
	do    func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.events, event{w.now.Add(d), w.order, do})
}

// An endpoint is an ordinary TCP with the application above it.
type endpoint struct {
	name     string
	w        *world
	conn     tcp.Conn
	pool     *frame.Pool
	template wire.Template
	transmit func(frame []byte)
	toSend   []byte // not yet given to conn
	closing  bool   // FIN after toSend
	closed   bool
	got      []byte
	want     []byte // what it is to receive in all
	stalled  bool   // the application does not read
	reset    bool
	gone     bool // it has no socket any more
}

const (
	sndSpace = 256 << 10
	mss      = 1448
)

var testKey = flow.Make(netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:40000")).Key()

func newWorld(t *testing.T, seed uint64, f faults) *world {
	w := &world{t: t, seed: seed, r: rand.New(rand.NewPCG(seed, 7)), now: mono.Time(time.Hour), faults: f}
	iss, irs := seqnum.Value(w.r.Uint32()), seqnum.Value(w.r.Uint32())
	sack := w.r.IntN(4) != 0
	ts := w.r.IntN(4) != 0
	ecn := w.r.IntN(2) != 0
	if ecn {
		w.faults.mark = 0.05
	}
	a := tcb.Snapshot{SndUna: iss, RcvNxt: irs, SACK: sack, Timestamps: ts, ECN: ecn, TSOffset: w.r.Uint32()}
	b := tcb.Snapshot{SndUna: irs, RcvNxt: iss, SACK: sack, Timestamps: ts, ECN: ecn, TSOffset: w.r.Uint32()}
	a.TSRecent, b.TSRecent = b.TSOffset+uint32(w.now.Milliseconds()), a.TSOffset+uint32(w.now.Milliseconds())
	w.program = w.endpoint("program", testKey, a)
	w.peer = w.endpoint("peer", testKey.Reverse(), b)
	w.l3 = w.r.IntN(5) == 0
	w.program.transmit = w.fromProgram
	w.peer.transmit = w.fromPeer
	w.newDevice(64 << 20)
	return w
}

func (w *world) endpoint(name string, key flow.Key, snap tcb.Snapshot) *endpoint {
	e := &endpoint{name: name, w: w, pool: frame.NewPool(256 << 20)}
	snap.State, snap.SndNxt, snap.SndWL1, snap.SndWL2 = tcb.Established, snap.SndUna, snap.RcvNxt, snap.SndUna
	snap.SndWnd, snap.RcvAcked, snap.RcvEdge = 64<<10, snap.RcvNxt, snap.RcvNxt.Add(64<<10)
	snap.SndWscale, snap.RcvWscale, snap.MSS = 4, 4, mss
	if err := e.conn.Restore(w.now, &snap, tcp.Options{CC: "cubic", RcvBuf: 512 << 10}); err != nil {
		w.t.Fatal(err)
	}
	link := append(bytes.Repeat([]byte{2}, 12), 0x08, 0)
	e.template.Set(&wire.Packet{Key: key, Link: link, TTL: 64, DF: true})
	return e
}

// newDevice makes a fresh device; what an older one held is gone.
func (w *world) newDevice(memory int) {
	pool, kernel := frame.NewPool(memory), frame.NewPool(256<<20)
	var up, host port.Port
	up, w.kernelUplink = port.NewPipe(pool, kernel)
	host, w.kernelHost = port.NewPipe(pool, kernel)
	w.blocks = make([]abi.Block, 4)
	parts := Parts{
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)), Pool: pool, Uplink: w.watched(up), Host: w.watched(host),
		LinkHeader: w.linkHeader(), Control: &w.control, Blocks: w.blocks, Rings: w.rings, Send: w.hear,
		Clock: func() mono.Time { return w.now },
	}
	if w.shared != nil {
		w.share(&parts)
	}
	w.device = New(w.now, parts)
}

func (w *world) hear(msg []byte) {
	h, octets, err := abi.ParseHeader(msg)
	if err != nil {
		w.t.Fatal(err)
	}
	answers, err := abi.Parse([]abi.Answer(nil), h, octets)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, a := range answers {
		w.answers = append(w.answers, spoken{h.Type, a})
	}
	w.point()
}

// answer takes the first answer of a kind.
func (w *world) answer(kind abi.Type) (abi.Answer, bool) {
	for i, a := range w.answers {
		if a.kind == kind {
			w.answers = append(w.answers[:i:i], w.answers[i+1:]...)
			return a.Answer, true
		}
	}
	return abi.Answer{}, false
}

// fromProgram is what the egress program does.
func (w *world) fromProgram(b []byte) {
	if w.steered {
		give(w.t, w.kernelHost, b)
		return
	}
	w.onWire(w.bare(b), w.peerReceives)
}

// fromPeer puts a frame on the wire; at the other end, the ingress program.
func (w *world) fromPeer(b []byte) { w.onWire(w.bare(b), w.arrive) }

func (w *world) peerReceives(b []byte) { w.peer.receive(w.linked(b)) }

func (w *world) arrive(b []byte) {
	if w.steered {
		give(w.t, w.kernelUplink, b)
		return
	}
	w.program.receive(w.linked(b))
}

func (w *world) linkHeader() int {
	if w.l3 {
		return 0
	}
	return etherLen
}

// bare is a frame as it is on the wire: without its Ethernet header where the
// uplink has none.
func (w *world) bare(b []byte) []byte {
	if !w.l3 {
		return b
	}
	return append(shifted(b, -etherLen), b[wire.VNetLen+etherLen:]...)
}

// linked puts the Ethernet header back.
func (w *world) linked(b []byte) []byte {
	if !w.l3 {
		return b
	}
	return append(append(shifted(b, etherLen), ether4...), b[wire.VNetLen:]...)
}

// shifted is b's virtio-net header for a link header that is longer by so much.
func shifted(b []byte, by int) []byte {
	var v wire.VNet
	v.Get(b)
	if v.Flags&wire.NeedsCsum != 0 {
		v.CsumStart = uint16(int(v.CsumStart) + by)
	}
	if v.GSOType != wire.GSONone {
		v.HdrLen = uint16(int(v.HdrLen) + by)
	}
	header := make([]byte, wire.VNetLen)
	v.Put(header)
	return header
}

// onWire carries a frame with the wire's faults.
func (w *world) onWire(b []byte, to func([]byte)) {
	f := &w.faults
	copies := 1
	if w.r.Float64() < f.lose {
		copies--
	}
	if w.r.Float64() < f.double {
		copies++
	}
	for range copies {
		c := bytes.Clone(b)
		if w.r.Float64() < f.corrupt {
			corrupt(w.r, c, w.linkHeader())
		}
		if w.r.Float64() < f.mark {
			mark(c[wire.VNetLen+w.linkHeader():][:20])
		}
		delay := f.delay
		if w.r.Float64() < f.reorder {
			delay += time.Duration(w.r.Int64N(int64(f.delay) + 1))
		}
		w.after(delay, func() { to(c) })
	}
}

// corrupt computes the checksum that the sender left to its card and flips a
// bit behind the IP header.
func corrupt(r *rand.Rand, b []byte, link int) {
	var v wire.VNet
	v.Get(b)
	if v.Flags&wire.NeedsCsum != 0 {
		at := wire.VNetLen + int(v.CsumStart)
		sum := onesSum(b[at:])
		b[at+int(v.CsumOffset)], b[at+int(v.CsumOffset)+1] = byte(^sum>>8), byte(^sum)
		v.Flags &^= wire.NeedsCsum
		v.GSOType, v.GSOSize = wire.GSONone, 0 // nobody merges bad segments
		v.Put(b)
	}
	at := wire.VNetLen + link + 20 + r.IntN(len(b)-wire.VNetLen-link-20)
	b[at] ^= 1 << r.IntN(8)
}

// mark is what a router does to an ECN-capable packet instead of dropping it.
func mark(ip []byte) {
	if ip[1]&3 == wire.NotECT {
		return
	}
	ip[1] |= wire.CE
	ip[10], ip[11] = 0, 0
	sum := ^onesSum(ip)
	ip[10], ip[11] = byte(sum>>8), byte(sum)
}

func onesSum(b []byte) uint16 {
	var sum uint32
	for i, x := range b {
		if i&1 == 0 {
			sum += uint32(x) << 8
		} else {
			sum += uint32(x)
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

func give(t *testing.T, p port.Port, b []byte) {
	if !p.Queue(nil, spanOf(b)) {
		if _, err := p.Flush(); err != nil || !p.Queue(nil, spanOf(b)) {
			t.Fatalf("pipe full: %v", err)
		}
	}
	if _, err := p.Flush(); err != nil {
		t.Fatal(err)
	}
}

// spanOf is b as a span of a buffer that belongs to nobody.
func spanOf(b []byte) []frame.Span {
	pool := frame.NewPool(1 << 30)
	buf := pool.Get(len(b))
	copy(buf.B, b)
	return []frame.Span{{Buf: buf, Len: uint32(len(b))}}
}

// turnDevice runs the device and carries what it sent.
func (w *world) turnDevice() bool {
	busy, err := w.turn()
	if err != nil {
		w.t.Fatal(err)
	}
	busy = w.carry(w.kernelUplink, func(b []byte) { w.onWire(b, w.peerReceives) }) || busy
	busy = w.carry(w.kernelHost, w.program.receive) || busy
	return busy
}

func (w *world) carry(p port.Port, to func([]byte)) bool {
	var rx [16]port.Received
	any := false
	for {
		n, err := p.Receive(rx[:])
		if err != nil {
			w.t.Fatal(err)
		}
		if n == 0 {
			return any
		}
		any = true
		for _, f := range rx[:n] {
			b := bytes.Clone(f.Buf.B[:f.N])
			f.Buf.Release()
			to(b)
		}
	}
}

func (e *endpoint) receive(b []byte) {
	if e.gone {
		e.refuse()
		return
	}
	buf := e.pool.Get(len(b))
	copy(buf.B, b)
	defer buf.Release()
	var p wire.Packet
	if wire.Parse(buf, len(b), etherLen, &p) != wire.OK || !wire.VerifyChecksum(buf, len(b), &p) {
		return
	}
	key := testKey
	if e == e.w.peer {
		key = testKey.Reverse()
	}
	if p.Key.Reverse() != key {
		return // a corrupted address
	}
	if e.conn.Receive(e.w.now, &p.Seg)&tcp.Reset != 0 {
		e.reset = true
	}
	e.run()
}

// refuse is the answer where there is no socket (tcp_v4_send_reset).
func (e *endpoint) refuse() {
	var h [wire.MaxHeaders]byte
	var out wire.Out
	out.Flags = wire.RST
	e.transmit(bytes.Clone(h[:e.template.Build(h[:], &out)]))
}

// read takes octets as the application reads them.
func (e *endpoint) read(b []byte) {
	if !bytes.HasPrefix(e.want[len(e.got):], b) {
		e.w.t.Fatalf("%s: octets differ after the first %d: %v", e.name, len(e.got), e.w)
	}
	e.got = e.want[:len(e.got)+len(b)]
}

// run lets the application read and write and the TCP send.
func (e *endpoint) run() {
	w := e.w
	var s frame.Span
	for !e.stalled && (e == w.peer || w.readTied()) && e.conn.Next(&s) {
		e.read(s.Bytes())
		s.Buf.Release()
	}
	for len(e.toSend) > 0 && e.conn.SndEnd().Sub(e.conn.SndUna()) < sndSpace {
		n := min(len(e.toSend), 1+w.r.IntN(60000))
		if e == w.program && w.sendTied(e.toSend[:n]) {
			e.toSend = e.toSend[n:]
			continue
		}
		buf := e.pool.Get(n)
		copy(buf.B, e.toSend[:n])
		e.toSend = e.toSend[n:]
		e.conn.Send(frame.Span{Buf: buf, Len: uint32(n)})
	}
	if e.closing && !e.closed && len(e.toSend) == 0 {
		e.closed = true
		e.conn.CloseSend()
	}
	var out wire.Out
	for e.conn.Output(w.now, &out) {
		var header [wire.MaxHeaders]byte
		b := bytes.Clone(header[:e.template.Build(header[:], &out)])
		for _, p := range out.Pieces[:out.NPieces] {
			b = append(b, p.Bytes()...)
		}
		e.transmit(b)
	}
	e.pool.Recycle()
}

// step advances the world to its next event, and its device with it.
func (w *world) step() bool {
	for w.turnDevice() {
	}
	next := w.now.Add(time.Second)
	if !w.died {
		next = w.device.wheel.next(w.now, time.Second)
	}
	for _, e := range []*endpoint{w.program, w.peer} {
		next = mono.Earliest(next, e.conn.Deadline())
	}
	if len(w.events) > 0 && w.events[0].at <= next {
		e := heap.Pop(&w.events).(event)
		w.now = max(w.now, e.at)
		e.do()
	} else {
		w.now = max(w.now, next)
	}
	for _, e := range []*endpoint{w.program, w.peer} {
		if d := e.conn.Deadline(); d != 0 && d <= w.now {
			e.conn.Advance(w.now)
		}
		e.run()
	}
	return true
}

// done reports that both sides have all their octets and the other's FIN.
func (w *world) done() bool {
	for _, e := range []*endpoint{w.program, w.peer} {
		if len(e.got) != len(e.want) || !e.conn.PeerFINReceived() {
			return false
		}
	}
	return true
}

// The driver's steps.

func (w *world) command(t abi.Type, id abi.HWID) {
	w.handle(abi.Append(nil, t, 1, []abi.Command{{HWID: id}}))
}

// handle has the device handle a message, which may be its death.
func (w *world) handle(msg []byte, channels ...Channel) {
	defer w.mourn()
	w.point()
	w.device.Handle(w.now, msg, channels...)
}

func (w *world) admit() abi.HWID {
	w.handle(abi.Append(nil, abi.Admit, 1, []abi.Offer{{Key: testKey, MSS: mss}}))
	for w.turnDevice() {
	}
	a, ok := w.answer(abi.Admitted)
	if (!ok || a.Reason != abi.None) && !w.died {
		w.t.Fatalf("not admitted: %v %v", ok, a.Reason)
	}
	w.id = a.HWID
	return a.HWID
}

func (w *world) ownIt(id abi.HWID) {
	part := &w.blocks[id.Index()].Kernel
	state := w.program.kernelState()
	if w.probed != nil {
		state = *w.probed
	}
	shm.Publish(&part.Sequence, func() {
		part.HWID, part.Key, part.State = id, testKey, state
	})
	w.command(abi.Own, id)
}

// kernelState is what the probe would read of e's socket.
func (e *endpoint) kernelState() abi.KernelState {
	var s tcb.Snapshot
	e.conn.Snapshot(e.w.now, &s)
	k := abi.KernelState{
		SndUna: uint32(s.SndUna), SndNxt: uint32(s.SndNxt), RcvNxt: uint32(s.RcvNxt),
		SndWnd: s.SndWnd, RcvWup: uint32(s.RcvAcked), RcvWnd: s.RcvEdge.Sub(s.RcvAcked), SRTT: uint32(s.SRTT / time.Microsecond),
		RTTVar: uint32(s.RTTVar / time.Microsecond), RTO: 200000, SndCwnd: s.Cwnd, SndSsthresh: s.Ssthresh,
		MSS: mss, TSOffset: s.TSOffset, TSRecent: s.TSRecent, SndWscale: s.SndWscale, RcvWscale: s.RcvWscale,
	}
	if s.SACK {
		k.Flags |= abi.FlagSACK
	}
	if s.Timestamps {
		k.Flags |= abi.FlagTimestamps
	}
	if s.PeerFIN {
		k.Flags |= abi.FlagPeerFIN
	}
	if s.ECN {
		k.Flags |= abi.FlagECN
	}
	if s.EchoCE {
		k.Flags |= abi.FlagEchoCE
	}
	if s.CWRDue {
		k.Flags |= abi.FlagCWRDue
	}
	return k
}

func (w *world) fill(program, peer int) {
	out, in := make([]byte, program), make([]byte, peer)
	for i := range out {
		out[i] = byte(w.r.Uint32())
	}
	for i := range in {
		in[i] = byte(w.r.Uint32())
	}
	w.program.toSend, w.peer.want = out, bytes.Clone(out)
	w.peer.toSend, w.program.want = in, bytes.Clone(in)
	w.program.run()
	w.peer.run()
}

func (w *world) String() string {
	p, q := w.program, w.peer
	return fmt.Sprintf("seed %d at %v: program has %d of %d, peer has %d of %d, steered %v, device %+v",
		w.seed, w.now, len(p.got), len(p.want), len(q.got), len(q.want), w.steered, w.device.Stats())
}
