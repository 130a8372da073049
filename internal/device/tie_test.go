package device

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/frame"
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
	if t := w.tie; t != nil && t.event {
		t.event = false
		w.device.Ready(w.now, t.id)
	}
	return w.device.Turn(w.now)
}

func (w *world) mourn() {
	if r := recover(); r == (death{}) {
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
	n := copy(a, t.toC)
	n += copy(b, t.toC[n:])
	t.toC = t.toC[n:]
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
	w.device.Handle(w.now, abi.Append(nil, abi.Join, 1, []abi.Command{{HWID: id}}), w.tie)
}

// state is what the driver reads of a parted or dead device.
type state struct {
	abi.LedgerPart
	una, ack, edge seqnum.Value
	ring           []byte
}

func (w *world) left(id abi.HWID) state {
	b := &w.blocks[id.Index()]
	s := state{LedgerPart: b.Ledger, ring: w.rings[int(id.Index())*abi.RingSize:][:abi.RingSize]}
	s.una, s.ack = seqOf(s.SndUna), seqOf(b.Hardware.RcvAcked)
	s.edge = s.ack.Add(b.Hardware.RcvWnd)
	return s
}

// rebuild makes S anew in the wire's sequence numbers, as the host does.
func (w *world) rebuild(id abi.HWID) {
	t, e := w.tie, w.program
	l := w.left(id)
	var old tcb.Snapshot
	e.conn.Snapshot(w.now, &old)
	own := concat(old.Unacked, old.Unsent)
	if l.HWID != id {
		w.rebuildEarly(&old, own)
		return
	}
	if want := l.HostNxt + uint32(l.Taken); l.SndEnd != want {
		w.t.Fatalf("seed %d: ledger ends at %d, not %d", w.seed, l.SndEnd, want)
	}
	end := seqOf(l.SndEnd).Add(uint32(t.block.Channel.Out - uint64(len(t.toC)) - l.Taken))
	una := l.una
	var sent []byte
	if start := seqOf(l.SndStart); una.Less(start) {
		sent = append(sent, own[una.Sub(old.SndUna):start.Sub(old.SndUna)]...)
	}
	for q := seqnum.Max(una, seqOf(l.SndStart)); q != end; q++ {
		sent = append(sent, l.ring[uint32(q)%abi.RingSize])
	}
	unsent := bytes.Clone(t.toC)
	if rest := seqOf(l.HostNxt).Sub(old.SndUna); int(rest) <= len(own) {
		unsent = append(unsent, own[rest:]...)
	}
	s := old
	s.State, s.FINSent, s.FINQueued, s.PeerFIN = tcb.Established, false, false, old.PeerFIN
	s.SndUna, s.SndNxt = una, end
	s.RcvNxt = seqOf(l.RcvStart).Add(uint32(t.block.Channel.In))
	if s.PeerFIN {
		s.State, s.RcvNxt = tcb.CloseWait, s.RcvNxt.Add(1)
	}
	s.RcvAcked, s.RcvEdge = seqnum.Min(l.ack, s.RcvNxt), seqnum.Max(l.edge, s.RcvNxt)
	s.SndWL1, s.SndWL2 = s.RcvNxt, una
	w.replace(&s, sent, unsent)
}

// rebuildEarly is rebuild when the device had not diverted yet: what is in C was sent
// when S's own queue was empty.
func (w *world) rebuildEarly(old *tcb.Snapshot, own []byte) {
	if len(w.tie.toC) == 0 {
		w.tie.block, w.tie = nil, nil
		return
	}
	s := *old
	s.State, s.FINSent, s.FINQueued = tcb.Established, false, false
	if s.PeerFIN {
		s.State = tcb.CloseWait
	}
	s.SndNxt = s.SndUna
	w.replace(&s, nil, append(bytes.Clone(w.tie.toC), own...))
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

func concat(lists ...[]frame.Span) (all []byte) {
	for _, list := range lists {
		for _, p := range list {
			all = append(all, p.Bytes()...)
		}
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
