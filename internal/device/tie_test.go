package device

import (
	"bytes"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/frame"
	"toehold/internal/recovery"
	"toehold/internal/seqnum"
	"toehold/internal/shm"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
)

// A tie joins the program's socket S to a channel C as a sockmap does: verdicts,
// counters and the two queues. It is the device's Channel too.
type tie struct {
	w      *world
	id     abi.HWID
	block  *abi.Block
	toC    []byte // sent by the program, not yet taken
	toS    []byte // given by the device, not yet read by the program
	event  bool   // C has become readable
	closed int
	kill   bool // the device dies in the middle of its next call
	fails  error
}

// death is the end of a device in the middle of a turn.
type death struct{}

// newTiedWorld is a world whose devices have rings.
func newTiedWorld(t *testing.T, seed uint64, f faults) *world {
	fd, err := shm.MakeRings(4)
	if err != nil {
		t.Fatal(err)
	}
	rings, err := shm.MapRings(fd, 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd); unix.Munmap(rings) })
	w := newWorld(t, seed, f)
	w.rings, w.ringsFD = rings, fd
	w.newDevice(64 << 20)
	return w
}

// turn is the device's, which may die in it.
func (w *world) turn() (busy bool, err error) {
	if w.died {
		return false, nil
	}
	defer w.mourn()
	w.point()
	if t := w.tie; t != nil && t.event {
		t.event = false
		w.device.Ready(w.now, t.id)
	}
	return w.device.Turn(w.now)
}

func (w *world) mourn() {
	r := recover()
	w.left()
	if r == (death{}) {
		w.died = true
	} else if r != nil {
		panic(r)
	}
}

// Watch implements Channel.
func (t *tie) Watch(id abi.HWID) error { t.id = id; return nil }

// Take implements Channel.
func (t *tie) Take(a, b []byte) (int, error) {
	if t.fails != nil {
		return 0, t.fails
	}
	if len(t.toC) == 0 {
		return 0, unix.EAGAIN
	}
	t.w.left()
	n := copy(a, t.toC)
	n += copy(b, t.toC[n:])
	t.toC = t.toC[n:]
	t.w.point()
	if t.kill {
		panic(death{})
	}
	return n, nil
}

// Give implements Channel.
func (t *tie) Give(pieces []frame.Span) (int, error) {
	if t.fails != nil {
		return 0, t.fails
	}
	if t.w.r.IntN(20) == 0 {
		return 0, unix.EAGAIN
	}
	t.w.left()
	n := 0
	for _, p := range pieces {
		b := p.Bytes()
		if t.w.r.IntN(30) == 0 {
			b = b[:1+t.w.r.IntN(len(b))]
		}
		t.toS = append(t.toS, b...)
		if n += len(b); len(b) < int(p.Len) {
			break
		}
	}
	t.block.Channel.In += uint64(n)
	t.w.point()
	if t.kill {
		panic(death{})
	}
	return n, nil
}

// Close implements Channel.
func (t *tie) Close() { t.closed++ }

// sendTied is the verdict on what the program sends: whether it goes to C.
func (w *world) sendTied(b []byte) bool {
	t, e := w.tie, w.program
	if t == nil || t.block == nil || t.block.Channel.Open == 0 {
		return false
	}
	ch := &t.block.Channel
	if e.conn.SndUna() != e.conn.SndEnd() || ch.Out-t.block.Ledger.Taken >= uint64(ch.Limit) {
		ch.Passed++
		return false
	}
	ch.Out += uint64(len(b))
	t.toC = append(t.toC, b...)
	t.event = true
	return true
}

// readTied has the program read of what C has given, and reports that there is no
// more: that comes before what S's TCP has.
func (w *world) readTied() bool {
	t := w.tie
	if t == nil || len(t.toS) == 0 {
		return true
	}
	n := len(t.toS)
	if w.r.IntN(4) == 0 {
		n = 1 + w.r.IntN(n)
	}
	w.program.read(t.toS[:n])
	t.toS = t.toS[n:]
	if t.block != nil {
		t.block.Channel.Read += uint64(n)
	}
	return len(t.toS) == 0
}

// The driver's steps.

func (w *world) join(id abi.HWID) {
	b := &w.blocks[id.Index()]
	b.Channel = abi.ChannelPart{Limit: 64 << 10}
	w.tie = &tie{w: w, block: b}
	w.handle(abi.Append(nil, abi.Join, 1, []abi.Command{{HWID: id}}), w.tie)
}

// kept is what the host has of a bypassed connection.
func (w *world) kept(id abi.HWID) *recovery.Kept {
	t, b := w.tie, &w.blocks[id.Index()]
	return &recovery.Kept{
		ID: id, Ledger: shm.ReadLedger(&b.Ledger), Hardware: shm.ReadHardware(w.blocks, id),
		Taken: t.block.Channel.Out - uint64(len(t.toC)), Given: t.block.Channel.In,
		Ring: w.rings[int(id.Index())*abi.RingSize:][:abi.RingSize], Waiting: bytes.Clone(t.toC),
	}
}

// salvaged is a socket as the kernel describes it: of an acknowledged FIN, which is to
// be said again, it knows nothing.
func salvaged(s *tcb.Snapshot) *recovery.Socket {
	r := &recovery.Socket{
		SndUna: uint32(s.SndUna), RcvNxt: uint32(s.RcvNxt),
		Sent: [][]byte{concat(s.Unacked)}, Unsent: [][]byte{concat(s.Unsent)},
		SndWnd: s.SndWnd, SndWL1: uint32(s.SndWL1), MaxWnd: s.SndWnd,
		RcvWup: uint32(s.RcvAcked), RcvWnd: s.RcvEdge.Sub(s.RcvAcked),
	}
	if s.FINSent && s.SndUna == s.SndNxt {
		r.SndUna--
	}
	return r
}

// reckoned is S as it is, what the host has of it, and what S has to be.
func (w *world) reckoned(id abi.HWID) (old tcb.Snapshot, k *recovery.Kept, r *recovery.Socket) {
	w.state(&old)
	k, r = w.kept(id), salvaged(&old)
	if err := k.Reckon(r); err != nil {
		w.t.Fatalf("seed %d: %v", w.seed, err)
	}
	return old, k, r
}

// rebuild makes S anew in the wire's sequence numbers, by what the host has kept.
func (w *world) rebuild(id abi.HWID) {
	old, k, r := w.reckoned(id)
	early := k.Ledger.HWID != id
	if early && len(k.Waiting) == 0 {
		w.tie.block, w.tie = nil, nil
		return
	}
	whole := w.blocks[id.Index()].Ledger.Sequence%2 == 0
	if want := k.Ledger.HostNxt + uint32(k.Ledger.Taken); !early && whole && k.Ledger.SndEnd != want {
		w.t.Fatalf("seed %d: ledger ends at %d, not %d", w.seed, k.Ledger.SndEnd, want)
	}
	sent := slices.Concat(r.Sent...)
	s := old
	s.State, s.FINSent, s.FINQueued = tcb.Established, false, false
	s.SndUna, s.RcvNxt = seqOf(r.SndUna), seqOf(r.RcvNxt)
	s.SndNxt, s.SndWnd = s.SndUna.Add(uint32(len(sent))), r.SndWnd
	if s.PeerFIN {
		s.State = tcb.CloseWait
		if !early {
			s.RcvNxt = s.RcvNxt.Add(1)
		}
	}
	s.RcvAcked = seqnum.Min(seqOf(r.RcvWup), s.RcvNxt)
	s.RcvEdge = seqnum.Max(seqOf(r.RcvWup).Add(r.RcvWnd), s.RcvNxt)
	s.SndWL1, s.SndWL2 = s.RcvNxt, s.SndUna
	w.replace(&s, sent, slices.Concat(r.Unsent...))
}

// replace puts a connection in the place of S's.
func (w *world) replace(s *tcb.Snapshot, sent, unsent []byte) {
	e := w.program
	// A FIN that may be on the wire is sent again whatever the window of congestion
	// (tcp_cwnd_test): the peer acknowledges it.
	closed := e.closed && len(unsent) > 0
	if e.closed && !closed {
		s.FINSent, s.SndNxt, s.State = true, s.SndNxt.Add(1), tcb.FinWait1
		if s.PeerFIN {
			s.State = tcb.LastAck
		}
	}
	e.conn.Close()
	s.Unacked, s.Unsent, s.OutOfOrder, s.Sacked = e.spans(sent), nil, nil, nil
	if err := e.conn.Restore(w.now, s, tcp.Options{CC: "cubic", RcvBuf: 512 << 10}); err != nil {
		w.t.Fatalf("seed %d: %v", w.seed, err)
	}
	for _, p := range e.spans(unsent) {
		e.conn.Send(p)
	}
	if closed {
		e.conn.CloseSend()
	}
	w.tie.toC, w.tie.block = nil, nil
	if len(w.tie.toS) == 0 {
		w.tie = nil
	}
}

func concat(list []frame.Span) (all []byte) {
	for _, p := range list {
		all = append(all, p.Bytes()...)
	}
	return all
}

func (e *endpoint) spans(b []byte) (list []frame.Span) {
	for len(b) > 0 {
		n := min(len(b), 60000)
		buf := e.pool.Get(n)
		copy(buf.B, b[:n])
		list, b = append(list, frame.Span{Buf: buf, Len: uint32(n)}), b[n:]
	}
	return list
}

// resume has the device go on with the rebuilt S.
func (w *world) resume(id abi.HWID) {
	part := &w.blocks[id.Index()].Kernel
	shm.Publish(&part.Sequence, func() { part.HWID, part.Key, part.State = id, testKey, w.program.kernelState() })
	w.command(abi.Resume, id)
}
