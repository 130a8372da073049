package handover

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// world is a simulated kernel and device, written for plainness: a steering
// map, the sockets by name, and the device's slots. Messages wait in a queue
// until the test has the device answer.
type world struct {
	sockets   map[flow.Key]*abi.KernelState
	steered   map[flow.Key]abi.HWID
	described map[abi.HWID]bool

	slots      map[abi.HWID]place // what the device knows
	capacity   int
	generation uint32
	queue      []message
	tasks      []task            // of the hands, under way
	tied       map[abi.HWID]bool // to a channel
	open       map[abi.HWID]bool // the channel is: S falls behind
	frozen     map[abi.HWID]bool // its program is
	refuseOwn  map[flow.Key]abi.Reason
	refuseJoin map[flow.Key]abi.Reason // once
	strayed    map[flow.Key]bool       // S has what the device never saw: seen once

	refuseResume map[flow.Key]abi.Reason

	calls  int
	failAt int // the call that fails, counted from 1; 0 none
	log    []string
}

type place struct {
	key      flow.Key
	owned    bool
	quiet    bool // towards S
	diverted bool
	given    uint64 // as Joined says
}

// A task is what hands do by themselves: attach, drain or rebuild.
type task struct {
	what  string
	conns []*Conn
}

type message struct {
	kind   abi.Type
	batch  uint32
	offers []abi.Offer
	ids    []abi.HWID
}

var errInjected = errors.New("injected")

func newWorld() *world {
	return &world{
		sockets:    make(map[flow.Key]*abi.KernelState),
		steered:    make(map[flow.Key]abi.HWID),
		described:  make(map[abi.HWID]bool),
		slots:      make(map[abi.HWID]place),
		refuseJoin: make(map[flow.Key]abi.Reason),
		strayed:    make(map[flow.Key]bool),
		refuseOwn:  make(map[flow.Key]abi.Reason), refuseResume: make(map[flow.Key]abi.Reason),
		tied:     make(map[abi.HWID]bool),
		open:     make(map[abi.HWID]bool),
		frozen:   make(map[abi.HWID]bool),
		capacity: 1000,
	}
}

// named is the flow of connection n of a test, n a small number.
func named(n int) flow.ID {
	return flow.Make(netip.MustParseAddrPort("10.0.0.1:80"), netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(n)))
}

func nameOf(id flow.ID) string { return fmt.Sprintf("c%d", id.Remote.Port()) }

func (w *world) socket(n int) *abi.KernelState {
	s := &abi.KernelState{State: tcpEstablished, MSS: 1448, SndWnd: 65535, Inode: 77}
	w.sockets[named(n).Key()] = s
	return s
}

func (w *world) call(format string, args ...any) error {
	w.calls++
	w.log = append(w.log, fmt.Sprintf(format, args...))
	if w.calls == w.failAt {
		w.log[len(w.log)-1] += " FAILS"
		return errInjected
	}
	return nil
}

func names(keys []flow.Key) string {
	var s []string
	for _, k := range keys {
		s = append(s, nameOf(k.ID()))
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}

func namesOf(conns []*Conn) string {
	var keys []flow.Key
	for _, c := range conns {
		keys = append(keys, c.Key)
	}
	return names(keys)
}

func (w *world) Probe(keys []flow.Key, out []abi.KernelState) error {
	if err := w.call("probe %s", names(keys)); err != nil {
		return err
	}
	for i, k := range keys {
		out[i] = abi.KernelState{Special: abi.SpecialMissing}
		if s := w.sockets[k]; s != nil {
			out[i] = *s
		}
	}
	return nil
}

func (w *world) Steer(keys []flow.Key, ids []abi.HWID) error {
	if err := w.call("steer %s", names(keys)); err != nil {
		return err
	}
	for i, k := range keys {
		w.steered[k] = ids[i]
	}
	return nil
}

func (w *world) Unsteer(keys []flow.Key) error {
	if err := w.call("unsteer %s", names(keys)); err != nil {
		return err
	}
	for _, k := range keys {
		if id := w.steered[k]; w.open[id] {
			w.log = append(w.log, "un-steered while S is behind")
		}
		delete(w.steered, k)
	}
	return nil
}

// Inherit cannot fail; it is for flows that are the kernel's.
func (w *world) Inherit(conns []*Conn) {
	var keys []flow.Key
	for _, c := range conns {
		keys = append(keys, c.Key)
		if _, steered := w.steered[c.Key]; steered {
			w.log = append(w.log, "inherit while steered")
		}
	}
	w.log = append(w.log, "inherit "+names(keys))
}

func (w *world) Describe(c *Conn) error {
	if err := w.call("describe %s", nameOf(c.Flow)); err != nil {
		return err
	}
	w.described[c.HWID] = true
	return nil
}

func (w *world) Offer(batch uint32, offers []abi.Offer) error {
	var keys []flow.Key
	for i := range offers {
		keys = append(keys, offers[i].Key)
	}
	if err := w.call("offer %s", names(keys)); err != nil {
		return err
	}
	w.queue = append(w.queue, message{kind: abi.Admit, batch: batch, offers: slices.Clone(offers)})
	return nil
}

var commandNames = map[abi.Type]string{
	abi.Own: "own", abi.Pass: "pass", abi.Release: "release", abi.Divert: "divert", abi.Part: "part", abi.Resume: "resume",
}

func (w *world) Attach(conns []*Conn) {
	w.log = append(w.log, "attach "+namesOf(conns))
	for _, c := range conns {
		w.tied[c.HWID] = true
	}
	w.tasks = append(w.tasks, task{"attach", slices.Clone(conns)})
}

func (w *world) Detach(c *Conn) {
	w.log = append(w.log, "detach "+nameOf(c.Flow))
	delete(w.tied, c.HWID)
	delete(w.open, c.HWID) // S is over
}

func (w *world) Join(conns []*Conn) error {
	if err := w.call("join %s", namesOf(conns)); err != nil {
		return err
	}
	var ids []abi.HWID
	for _, c := range conns {
		ids = append(ids, c.HWID)
	}
	w.queue = append(w.queue, message{kind: abi.Join, ids: ids})
	return nil
}

func (w *world) Drain(conns []*Conn) {
	w.log = append(w.log, "drain "+namesOf(conns))
	w.tasks = append(w.tasks, task{"drain", slices.Clone(conns)})
}

func (w *world) Open(c *Conn) error {
	if err := w.call("open %s", nameOf(c.Flow)); err != nil {
		return err
	}
	if c.Given != uint32(w.slots[c.HWID].given) {
		return errors.New("the device said another number when it was joined")
	}
	if w.strayed[c.Key] {
		delete(w.strayed, c.Key)
		return ErrStrayed
	}
	w.open[c.HWID] = true
	return nil
}

func (w *world) Rebuild(conns []*Conn) {
	w.log = append(w.log, "rebuild "+namesOf(conns))
	w.tasks = append(w.tasks, task{"rebuild", slices.Clone(conns)})
}

func (w *world) Thaw(conns []*Conn, resumed bool) {
	for _, c := range conns {
		w.log = append(w.log, "thaw "+nameOf(c.Flow))
		delete(w.frozen, c.HWID)
		delete(w.tied, c.HWID)
	}
}

// perform ends the first task of the hands; with a reason, without success.
func (w *world) perform(now mono.Time, t *Table, r abi.Reason, lost bool) error {
	k := w.tasks[0]
	w.tasks = w.tasks[1:]
	if r == abi.None && w.call("%s is done", k.what) != nil {
		r = abi.InternalError
	}
	var steps []Step
	for _, c := range k.conns {
		steps = append(steps, Step{c.HWID, r, r.Text()})
		if k.what == "attach" && r != abi.None {
			delete(w.tied, c.HWID)
		}
	}
	switch k.what {
	case "attach":
		return t.Attached(now, steps)
	case "drain":
		return t.Drained(now, steps)
	}
	var ends []Rebuilt
	for _, c := range k.conns {
		if r == abi.None || lost {
			w.frozen[c.HWID] = true
			delete(w.open, c.HWID)
		}
		ends = append(ends, Rebuilt{HWID: c.HWID, Reason: r, Detail: r.Text(), Over: lost})
	}
	return t.Rebuilt(now, ends)
}

func (w *world) Command(m abi.Type, ids []abi.HWID) error {
	var keys []flow.Key
	for _, id := range ids {
		keys = append(keys, w.slots[id].key)
	}
	if err := w.call("%s %s", commandNames[m], names(keys)); err != nil {
		return err
	}
	w.queue = append(w.queue, message{kind: m, ids: slices.Clone(ids)})
	return nil
}

// answer has the device take the first message waiting, and returns what the
// Table says to its answer.
func (w *world) answer(now mono.Time, t *Table) error {
	m := w.queue[0]
	w.queue = w.queue[1:]
	var answers []abi.Answer
	for i := range m.offers {
		answers = append(answers, w.admit(&m.offers[i]))
	}
	for _, id := range m.ids {
		answers = append(answers, w.obey(m.kind, id))
	}
	// Each type of answer follows its message's in package abi.
	h := abi.Header{Type: m.kind + 1, Count: uint16(len(answers)), Batch: m.batch}
	return t.Answer(now, h, answers)
}

func (w *world) admit(o *abi.Offer) abi.Answer {
	if len(w.slots) == w.capacity {
		return abi.Answer{Reason: abi.DeviceFull}
	}
	if o.CongestionControl != [16]byte{} {
		return abi.Answer{Reason: abi.CongestionControl} // the simulated device has none with a name
	}
	w.generation++
	id := abi.MakeHWID(w.unused(), w.generation)
	w.slots[id] = place{key: o.Key}
	return abi.Answer{HWID: id}
}

// unused is the least index that no connection has.
func (w *world) unused() (index uint32) {
	taken := make(map[uint32]bool)
	for id := range w.slots {
		taken[id.Index()] = true
	}
	for taken[index] {
		index++
	}
	return index
}

func (w *world) obey(m abi.Type, id abi.HWID) abi.Answer {
	p := w.slots[id]
	switch m {
	case abi.Own:
		if r := w.refuseOwn[p.key]; r != abi.None {
			return abi.Answer{HWID: id, Reason: r}
		}
		p.owned = true
	case abi.Pass:
		if w.open[id] || p.quiet {
			w.log = append(w.log, "passed while S is behind")
		}
		p.owned = false
	case abi.Join:
		if r := w.refuseJoin[p.key]; r != abi.None {
			delete(w.refuseJoin, p.key)
			return abi.Answer{HWID: id, Reason: r}
		}
		p.quiet, p.given = true, 1000+uint64(id.Index())
		w.slots[id] = p
		return abi.Answer{HWID: id, Bytes: p.given}
	case abi.Divert:
		p.diverted = true
	case abi.Part:
		p.diverted = false
	case abi.Resume:
		if w.open[id] {
			w.log = append(w.log, "resumed while S is behind")
		}
		if r := w.refuseResume[p.key]; r != abi.None {
			return abi.Answer{HWID: id, Reason: r}
		}
		p.quiet = false
	case abi.Release:
		delete(w.slots, id)
		return abi.Answer{HWID: id}
	}
	w.slots[id] = p
	return abi.Answer{HWID: id, StallNS: 1000, Bytes: 10}
}

// check says which promise between table, kernel and device is broken when
// nothing moves.
func (w *world) check(t *Table) error {
	for k, id := range w.steered {
		if c := t.Find(k); c == nil || c.Phase != Owned || c.HWID != id {
			return fmt.Errorf("%s is steered and is not the device's in the table", nameOf(k.ID()))
		}
	}
	if len(t.conns) != len(t.flows) {
		return fmt.Errorf("%d ids for %d flows", len(t.conns), len(t.flows))
	}
	for _, c := range t.flows {
		switch {
		case c.Phase != Owned:
			return fmt.Errorf("%s stays %s", nameOf(c.Flow), c.Phase)
		case w.steered[c.Key] != c.HWID:
			return fmt.Errorf("%s is owned and not steered", nameOf(c.Flow))
		case !w.described[c.HWID] || !w.slots[c.HWID].owned:
			return fmt.Errorf("%s is owned and the device does not own it", nameOf(c.Flow))
		}
	}
	for _, c := range t.flows {
		p, bypassed := w.slots[c.HWID], c.Attachment == abi.AttachBypass
		if w.tied[c.HWID] != bypassed || w.open[c.HWID] != bypassed || p.diverted != bypassed || p.quiet != bypassed {
			return fmt.Errorf("%s has attachment %d: tied %v, open %v, %+v", nameOf(c.Flow), c.Attachment, w.tied[c.HWID], w.open[c.HWID], p)
		}
	}
	if n := len(w.frozen); n != 0 {
		return fmt.Errorf("%d programs stay frozen", n)
	}
	if len(w.tied) > len(t.flows) || len(w.open) > len(w.tied) {
		return fmt.Errorf("%d tied and %d open of %d connections", len(w.tied), len(w.open), len(t.flows))
	}
	if len(w.slots) != len(t.flows) {
		return fmt.Errorf("the device has %d connections, the table %d", len(w.slots), len(t.flows))
	}
	return nil
}
