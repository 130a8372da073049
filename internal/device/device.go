// Package device is the offload device: a table of connections, each first
// passed between the wire and the program's socket, then owned by a pair of
// TCP engines, and passed again on its way home. It knows frames, shared
// memory and messages; it never touches a kernel socket of a program.
package device

import (
	"log/slog"
	"time"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/flow"
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/port"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// A Device is one device's state. It has no thread of its own: Run, or a
// test, calls it.
type Device struct {
	log        *slog.Logger
	pool       *frame.Pool
	uplink     port.Port // the wire
	host       port.Port // S
	linkHeader int       // octets of the uplink's link header
	control    *abi.Control
	blocks     []abi.Block
	send       func(msg []byte) // to the driver
	clock      func() mono.Time // for measuring only; decisions are given the time
	mtuProbing bool

	memory []byte               // of the rings
	rings  []*ring              // of the slots, as far as they were used
	spans  [maxGiven]frame.Span // scratch

	flows map[flow.Key]*conn
	slots []slot
	step  uint32   // of the slots' generations
	free  []uint32 // indices of unused slots
	wheel wheel
	dead  deadHops

	dirty      []*conn // connections with something to send or to publish
	releasing  []release
	resuming   []resumption
	received   [2][]port.Received
	out        wire.Out
	header     [wire.MaxHeaders]byte
	whole      [1]frame.Span // a frame that is passed on
	rest       tcb.Snapshot  // scratch
	answers    map[answerKey][]abi.Answer
	message    []byte
	stats      Stats
	traffic    abi.Traffic // of all connections that there were
	returns    abi.Returns
	period     mono.Time // when it began, in which all connections are judged,
	reviewed   int       // slots before this one have been
	capability admission.Capability
	gates      gates
	relieved   mono.Time // when a connection was last sent home for its memory
}

// Stats count what the device did.
type Stats struct {
	Owned, Passing  int    // connections now
	Frames          uint64 // received, of both ports
	Unknown         uint64 // frames of flows that are not in the table
	BadFrames       uint64 // frames that could not be parsed or had a wrong checksum
	DroppedTransmit uint64 // frames that a port did not take
}

// A slot of the table; its index is the lower half of a hardware id.
type slot struct {
	generation uint32 // of its last connection
	conn       *conn
}

// A release is a connection that the driver has taken off the steering; it
// goes once the frames that were under way have been passed.
type release struct {
	conn  *conn
	batch uint32
	by    mono.Time // not to wait longer
	// Each port has been empty since.
	uplinkEmpty, hostEmpty bool
}

type answerKey struct {
	kind  abi.Type
	batch uint32
}

// Parts is what a Device is made of.
type Parts struct {
	Log          *slog.Logger
	Pool         *frame.Pool
	Uplink, Host port.Port
	LinkHeader   int // octets of the uplink's link header: 14 or 0
	Control      *abi.Control
	Blocks       []abi.Block // its length is the capacity
	Rings        []byte      // abi.RingSize octets for each of them; nil: nothing is bypassed
	Send         func(msg []byte)
	Clock        func() mono.Time // measures stalls
	Generations  abi.Generations
	MTUProbing   bool // as tcp.Options
	Returns      abi.Returns
	Capability   admission.Capability
}

// New makes a device with an empty table.
func New(now mono.Time, p Parts) *Device {
	d := &Device{
		log: p.Log, pool: p.Pool, uplink: p.Uplink, host: p.Host, linkHeader: p.LinkHeader,
		control: p.Control, blocks: p.Blocks, send: p.Send, clock: p.Clock,
		flows: make(map[flow.Key]*conn),
		slots: make([]slot, len(p.Blocks)), memory: p.Rings, rings: make([]*ring, len(p.Rings)/abi.RingSize),
		step: max(p.Generations.Step, 1), mtuProbing: p.MTUProbing, returns: p.Returns,
		answers:    make(map[answerKey][]abi.Answer),
		capability: p.Capability,
		gates:      gates{busy: admission.Gate{Limit: float64(p.Capability.Busy)}, segments: admission.Gate{Limit: float64(p.Capability.Segments)}},
	}
	for i := len(p.Blocks) - 1; i >= 0; i-- {
		d.free = append(d.free, uint32(i))
		d.slots[i].generation = max(p.Generations.First, 1) - d.step
	}
	d.received[0] = make([]port.Received, batch)
	d.received[1] = make([]port.Received, batch)
	d.wheel.init(now)
	return d
}

// batch is how many frames are read from a port before the other one is
// looked at.
const batch = 32

// Stats returns the counters.
func (d *Device) Stats() Stats {
	s := d.stats
	for _, c := range d.flows {
		if c.place == abi.PlaceOwned {
			s.Owned++
		} else {
			s.Passing++
		}
	}
	return s
}

// Turn does all that can be done without waiting, once: frames of both
// ports, timers, transmission, publication. It reports whether there were
// frames; an error means that a port is gone.
func (d *Device) Turn(now mono.Time) (bool, error) {
	n, err := d.receive(now, d.uplink, d.received[0], d.frameFromWire)
	if err != nil {
		return false, err
	}
	m, err := d.receive(now, d.host, d.received[1], d.frameFromHost)
	if err != nil {
		return false, err
	}
	d.lookAtHops()
	d.wheel.run(now, func(t *timer) { d.expired(now, t.conn) })
	d.relieve(now)
	d.review(now)
	d.emitAll(now)
	if err := d.flush(); err != nil {
		return false, err
	}
	d.resume(now, m < batch)
	d.release(now, n == 0, m == 0)
	d.answerAll()
	return n+m > 0, nil
}

// A rawFrame is a frame as it was read, for passing on.
type rawFrame struct {
	buf *frame.Buf
	n   int
}

func (d *Device) receive(now mono.Time, p port.Port, into []port.Received, handle func(mono.Time, rawFrame)) (int, error) {
	n, err := p.Receive(into)
	if err != nil {
		return 0, err
	}
	for i := range into[:n] {
		d.stats.Frames++
		handle(now, rawFrame{into[i].Buf, into[i].N})
		into[i].Buf.Release()
		into[i].Buf = nil
	}
	return n, nil
}

func (d *Device) frameFromWire(now mono.Time, raw rawFrame) {
	var p wire.Packet
	if v := wire.Parse(raw.buf, raw.n, d.linkHeader, &p); v != wire.OK {
		d.notTCP(now, v, raw)
		return
	}
	c := d.flows[p.Key.Reverse()]
	if c == nil {
		d.stats.Unknown++
		return
	}
	if d.linkHeader == 0 {
		c.toHost.learn(&p, etherHeader(p.Key.Family))
	} else {
		c.toHost.learn(&p, p.Link)
	}
	if c.place != abi.PlaceOwned {
		if c.by == nil { // else it has ended, and S's sequence numbers are others
			d.passFromWire(now, c, &p, raw)
		}
		return
	}
	if !wire.VerifyChecksum(raw.buf, raw.n, &p) {
		d.stats.BadFrames++
		return
	}
	d.spare(&p.Seg)
	if c.bypassed() {
		d.fromPeerBypassed(now, c, &p)
		return
	}
	d.fromPeer(now, c, &p, raw)
}

// notTCP handles a frame of the wire that is no segment: routers say there
// which segments are too large. The kernel has it as well.
func (d *Device) notTCP(now mono.Time, v wire.Verdict, raw rawFrame) {
	var t wire.TooBig
	if v != wire.NotTCP || !wire.ParseTooBig(raw.buf, raw.n, d.linkHeader, &t) {
		d.stats.BadFrames++
		return
	}
	c := d.flows[t.Key]
	if c == nil || c.place != abi.PlaceOwned || !c.sent(t.Seq) {
		d.stats.Unknown++
		return
	}
	if mss, ok := c.segmentIn(t.MTU); ok {
		c.wire.PacketTooBig(now, mss)
		d.touch(c)
	}
}

// sent reports that seq is in flight to the peer: who does not see the
// connection cannot know that (RFC 5927, section 4.1).
func (c *conn) sent(seq seqnum.Value) bool {
	return c.wire.SndUna().LessEq(seq) && seq.Less(c.wire.SndNxt())
}

// The least MTUs: of IPv4 that Linux goes down to (ip_rt_min_pmtu), and what
// every IPv6 link has.
const (
	leastMTU4 = 552
	leastMTU6 = 1280
)

// segmentIn is the payload of a segment in a packet of mtu octets. It reports
// false for an MTU that no IPv6 router can mean (RFC 8201, section 4).
func (c *conn) segmentIn(mtu uint32) (uint32, bool) {
	headers := uint32(20 + 20)
	if c.key.Family == 6 {
		headers += 20
	}
	if c.kernel.Flags&abi.FlagTimestamps != 0 {
		headers += 12
	}
	return max(mtu, leastMTU4) - headers, c.key.Family == 4 || mtu >= leastMTU6
}

func (d *Device) frameFromHost(now mono.Time, raw rawFrame) {
	var p wire.Packet
	if v := wire.Parse(raw.buf, raw.n, etherLen, &p); v != wire.OK {
		d.stats.BadFrames++
		return
	}
	c := d.flows[p.Key]
	if c == nil {
		d.stats.Unknown++
		return
	}
	c.toPeer.learn(&p, p.Link[:min(len(p.Link), d.linkHeader)])
	c.heardIn = d.dead.epoch
	if c.place != abi.PlaceOwned {
		if c.by == nil && !c.mute {
			d.passFromHost(now, c, &p, raw)
		}
		return
	}
	d.spare(&p.Seg)
	if c.bypassed() {
		d.fromHostBypassed(now, c, &p)
		return
	}
	d.fromHost(now, c, &p, raw)
}

// spare takes payload off a segment when buffers are scarce: what it
// acknowledges is worth more, as that is what frees them. Its sender sends it
// again.
func (d *Device) spare(s *wire.Segment) {
	if d.pool.Scarce() {
		s.Payload, s.Size = frame.Span{}, 0
		s.Flags &^= wire.FIN
	}
}

// relieveEvery bounds how often a connection is sent home for its memory.
const relieveEvery = 10 * time.Millisecond

// relieve sends the connection home that holds the most, when buffers are
// scarce.
func (d *Device) relieve(now mono.Time) {
	if !d.pool.Scarce() || now.Sub(d.relieved) < relieveEvery {
		return
	}
	d.relieved = now
	var most *conn
	for _, c := range d.flows {
		if c.place == abi.PlaceOwned && !c.askedFor(abi.DeviceMemory) && (most == nil || c.held() > most.held()) {
			most = c
		}
	}
	if most != nil {
		d.giveBack(now, most, abi.DeviceMemory)
		d.touch(most)
	}
}

// touch puts c on the list of connections to look after before the turn ends.
func (d *Device) touch(c *conn) {
	if !c.dirty {
		c.dirty = true
		d.dirty = append(d.dirty, c)
	}
}

func (d *Device) expired(now mono.Time, c *conn) {
	if c.place != abi.PlaceOwned {
		return
	}
	if at := c.deadline(); at > now { // it moved on meanwhile
		d.wheel.set(&c.timer, at)
		return
	}
	timeouts := c.wire.Stats().RTOs
	c.wire.Advance(now)
	c.host.Advance(now)
	if c.wire.Stats().RTOs != timeouts && c.silence.lasts(now, c.wire.SndUna()) {
		d.giveBack(now, c, abi.RecoveryTimeout)
		d.touch(c)
		return
	}
	if c.unanswered() {
		d.ask(now, c, abi.RecoveryTimeout)
	}
	d.pump(now, c)
	d.touch(c)
}

func (c *conn) deadline() mono.Time {
	return mono.Earliest(c.patience(), mono.Earliest(c.wire.Deadline(), c.host.Deadline()))
}

// emitAll sends for every touched connection, publishes its state and sets
// its timer. What a port does not take now stays on the list.
func (d *Device) emitAll(now mono.Time) {
	keep := d.dirty[:0]
	for _, c := range d.dirty {
		done := true
		if c.place == abi.PlaceOwned {
			d.follow(now, c)
			d.followSocket(now, c)
		}
		if c.place == abi.PlaceOwned {
			toPeer, toHost := d.emit(now, c)
			done = toPeer && toHost
			d.finish(now, c, toPeer, toHost)
		}
		if c.place == abi.PlaceOwned {
			c.tidy(now)
			d.wheel.set(&c.timer, c.deadline())
		}
		d.publish(now, c)
		c.dirty = !done
		if !done {
			keep = append(keep, c)
		}
	}
	clear(d.dirty[len(keep):])
	d.dirty = keep
}

// flush hands the queued frames to the kernel.
func (d *Device) flush() error {
	if _, err := d.uplink.Flush(); err != nil {
		return err
	}
	if _, err := d.host.Flush(); err != nil {
		return err
	}
	d.pool.Recycle() // the ports hold on to what waits in them
	return nil
}

// Blocked reports which ports wait to be writable.
func (d *Device) Blocked() (uplink, host bool) {
	return d.uplink.Pending() > 0, d.host.Pending() > 0
}

// Busy reports that there is something to do at once.
func (d *Device) Busy() bool { return len(d.releasing)+len(d.resuming) > 0 }
