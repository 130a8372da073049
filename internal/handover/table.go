package handover

import (
	"errors"
	"fmt"
	"math"
	"time"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// Hands do to kernel and device what a Table decides. None of them blocks.
// Slices given to them are the Table's and are used again.
type Hands interface {
	// Probe reads the kernel's state of each flow into out.
	Probe(keys []flow.Key, out []abi.KernelState) error
	// Steer turns flows to the device, all or none.
	Steer(keys []flow.Key, ids []abi.HWID) error
	// Unsteer gives flows back to the kernel; flows not steered are no error.
	Unsteer(keys []flow.Key) error
	// Inherit gives the kernel's sockets of flows that are un-steered the
	// congestion windows that the device had, soon. Nothing depends on it.
	Inherit(conns []*Conn)
	// Describe writes the kernel-level part of the connection's block.
	Describe(c *Conn) error
	// Offer sends an Admit of at most abi.MaxEntries offers.
	Offer(batch uint32, offers []abi.Offer) error
	// Command sends an Own, Pass, Release, Divert, Part or Resume of at most
	// abi.MaxEntries ids.
	Command(t abi.Type, ids []abi.HWID) error

	// Attach begins to make channels to tie the programs' sockets to.
	// Table.Attached is to be called when that has come to an end for any.
	Attach(conns []*Conn)
	// Detach is the undo of Attach, also of one that has not ended.
	Detach(c *Conn)
	// Join sends Joins with the connections' channels.
	Join(conns []*Conn) error
	// Drain begins to wait until programs have read all that their sockets
	// received, up to Given; when any has, or takes too long, Table.Drained is to be called.
	Drain(conns []*Conn)
	// Open ties the channel to S: what the program sends goes there. An S that has
	// received anything beyond Given is ErrStrayed. It keeps the wire's
	// frames from its socket.
	Open(c *Conn) error
	// Rebuild begins to freeze the programs of connections and to bring their
	// sockets in step with the wire, together; Table.Rebuilt is to be called, in
	// the end with success or Over. Then the program stays frozen until Thaw.
	Rebuild(conns []*Conn)
	// Thaw lets programs go on, with their sockets in step, and ends the
	// channels. resumed says that the device speaks with the sockets.
	Thaw(conns []*Conn, resumed bool)
}

// Limits are how long the device may take to answer.
type Limits struct {
	Answer time.Duration // Admit, Pass and Release
	Own    time.Duration // Own, where the request names no other
}

// ErrBroken says that device or steering cannot be relied upon any more: the
// caller must fence the device and call Lost.
var ErrBroken = errors.New("handover: device cannot be relied upon")

// A Table is the connections of one device, with the moves under way. It
// keeps these promises, from one call to the next:
//
//  1. A flow is steered if and only if its connection is Owning, Owned,
//     Passing, or between shadow and bypass.
//  2. The device knows of no connection that the Table does not, except those
//     whose Release it did not answer in time.
//  3. Every Offload and Upload gives exactly one Outcome for each connection
//     it names.
//
// After ErrBroken, promise 1 holds again when Lost returned nil.
type Table struct {
	hands   Hands
	limits  Limits
	conns   map[abi.HWID]*Conn
	flows   map[flow.Key]*Conn
	moving  map[*Conn]struct{} // with a deadline
	batches map[uint32][]*Conn // Admits not answered
	batch   uint32
	done    []Outcome
	broken  error
	dead    bool // there has been no device since Lost
	issued  issued
	vain    int // answers that nobody waited for

	keys   []flow.Key // scratch
	ids    []abi.HWID
	offers []abi.Offer
	states []abi.KernelState
}

// NewTable returns a Table without connections.
func NewTable(h Hands, l Limits) *Table {
	return &Table{
		hands: h, limits: l,
		conns:   make(map[abi.HWID]*Conn),
		flows:   make(map[flow.Key]*Conn),
		moving:  make(map[*Conn]struct{}),
		batches: make(map[uint32][]*Conn),
	}
}

// Find returns the connection of a flow, nil when the kernel has it.
func (t *Table) Find(k flow.Key) *Conn { return t.flows[k] }

// Len is the number of connections, those that move included.
func (t *Table) Len() int { return len(t.flows) }

// Moving is the number of connections whose move is under way.
func (t *Table) Moving() int { return len(t.moving) }

// Each calls f for every connection.
func (t *Table) Each(f func(*Conn)) {
	for _, c := range t.flows {
		f(c)
	}
}

// Outcomes returns what ended since the last call, in order. The slice is
// valid until the next call of any method.
func (t *Table) Outcomes() []Outcome {
	done := t.done
	t.done = t.done[:0]
	return done
}

// never is the deadline of what ends by itself.
const never = mono.Time(math.MaxInt64)

// expect sets the phase of connections whose next answer must come by the deadline;
// 0: they rest.
func (t *Table) expect(p Phase, deadline mono.Time, conns ...*Conn) {
	for _, c := range conns {
		c.Phase, c.deadline = p, deadline
		if deadline == 0 {
			delete(t.moving, c)
		} else {
			t.moving[c] = struct{}{}
		}
	}
}

// finish ends the present move of c.
func (t *Table) finish(now mono.Time, c *Conn, k Kind) {
	if c.arrived != 0 {
		now = c.arrived
	}
	t.done = append(t.done, Outcome{
		Kind: k, Ticket: c.ticket, Flow: c.Flow, HWID: c.HWID, Inode: c.State.Inode,
		Reason: c.reason, Detail: c.detail,
		Took: now.Sub(c.since), Stall: c.stall, Bytes: c.bytes,
		Attachment: c.Attachment, Short: c.short,
	})
	c.ticket = 0
}

// forget takes c out of the table.
func (t *Table) forget(c *Conn) {
	if c.attaching || c.attached != nil {
		t.detach(c)
	}
	delete(t.moving, c)
	delete(t.flows, c.Key)
	if t.conns[c.HWID] == c {
		delete(t.conns, c.HWID)
	}
}

// fail notes that the table cannot go on with this device.
func (t *Table) fail(format string, args ...any) {
	if t.broken == nil {
		t.broken = fmt.Errorf("%w: %s", ErrBroken, fmt.Sprintf(format, args...))
	}
}

// Err is what broke the device since the last call of Lost, or nil.
func (t *Table) Err() error { return t.broken }

// chunks calls f with at most abi.MaxEntries connections at a time.
func chunks(conns []*Conn, f func([]*Conn)) {
	for len(conns) > abi.MaxEntries {
		f(conns[:abi.MaxEntries])
		conns = conns[abi.MaxEntries:]
	}
	if len(conns) > 0 {
		f(conns)
	}
}

func (t *Table) keysOf(conns []*Conn) []flow.Key {
	t.keys = t.keys[:0]
	for _, c := range conns {
		t.keys = append(t.keys, c.Key)
	}
	return t.keys
}

func (t *Table) idsOf(conns []*Conn) []abi.HWID {
	t.ids = t.ids[:0]
	for _, c := range conns {
		t.ids = append(t.ids, c.HWID)
	}
	return t.ids
}

// probe reads the kernel's state of each connection.
func (t *Table) probe(conns []*Conn) error {
	if cap(t.states) < len(conns) {
		t.states = make([]abi.KernelState, len(conns))
	}
	states := t.states[:len(conns)]
	if err := t.hands.Probe(t.keysOf(conns), states); err != nil {
		return err
	}
	for i, c := range conns {
		c.State = states[i]
	}
	return nil
}

// command tells the device; that it cannot be told breaks it.
func (t *Table) command(m abi.Type, conns []*Conn) bool {
	ok := true
	chunks(conns, func(some []*Conn) {
		if err := t.hands.Command(m, t.idsOf(some)); err != nil {
			t.fail("message of type %d not sent: %v", m, err)
			ok = false
		}
	})
	return ok
}
