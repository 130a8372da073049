package driver

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/kernel"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// A channel is the kernel socket C that a connection's S is tied to, and what
// is known of S's holders. The loop has it; the surgeon works on it.
type channel struct {
	id     abi.HWID
	flow   flow.ID
	fd     int // C, -1: none
	inode  uint64
	owners []kernel.Owner
	tied   bool
	lowat  int // TCP_NOTSENT_LOWAT of S, before it was tied

	thawed  chan struct{} // closed when the program may go on
	once    sync.Once
	resumed bool // valid then: a device speaks with S

	seen   uint64    // of octets read by the program, at the last look,
	idling mono.Time // since when it has left some unread, 0: it has not

	tried mono.Time     // when its rebuild without a device was first tried, 0: not yet
	rest  mono.Time     // it is not taken back to shadow before then,
	pause time.Duration // as that has failed; longer every time
}

func (ch *channel) thaw(resumed bool) {
	ch.once.Do(func() {
		ch.resumed = resumed
		close(ch.thawed)
	})
}

// failed has the connection left in bypass for a while.
func (ch *channel) failed(now mono.Time) {
	ch.pause = min(max(2*ch.pause, firstPause), lastPause)
	ch.rest = now.Add(ch.pause)
}

const (
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
)

// channelLimit is how many octets may wait in a channel. What the program sends
// beyond stays in its socket's own send queue.
const channelLimit = 256 << 10

// Attach begins to make channels for programs' sockets.
func (u *uplink) Attach(conns []*handover.Conn) {
	set, channels := u.set, make([]*channel, len(conns))
	for i, c := range conns {
		channels[i] = &channel{id: c.HWID, flow: c.Flow, fd: -1, inode: c.State.Inode, thawed: make(chan struct{})}
		u.channels[c.HWID] = channels[i]
		if set != nil { // what stands there is of the channel before
			set.Blocks()[c.HWID.Index()].Channel = abi.ChannelPart{}
		}
	}
	u.surgeon.do(func() {
		ends := u.surgeon.prepare(set, channels)
		u.report(func() { u.attached(channels, ends) })
	})
}

// report runs f on the loop; not at all when that has ended.
func (u *uplink) report(f func()) {
	select {
	case u.reports <- f:
	case <-u.ended:
	}
}

// attached tells the table how the making of channels ended.
func (u *uplink) attached(channels []*channel, ends []handover.Step) {
	told := ends[:0]
	for i, ch := range channels {
		if u.channels[ch.id] != ch { // detached meanwhile
			continue
		}
		if ends[i].Reason != abi.None {
			delete(u.channels, ch.id)
		}
		told = append(told, ends[i])
	}
	u.checked(u.table.Attached(mono.Now(), told))
}

// checked takes a device for lost that the table cannot rely on any more.
func (u *uplink) checked(err error) {
	if err != nil {
		u.lose(mono.Now(), abi.DeviceDied, err.Error())
	}
}

// Detach is the undo of Attach, however far the surgeon is with it. An S that is
// tied already is that of a connection which is over: its program may have octets
// to read.
func (u *uplink) Detach(c *handover.Conn) {
	ch := u.channels[c.HWID]
	if ch == nil {
		return
	}
	delete(u.channels, c.HWID)
	ch.thaw(false)
	set := u.set
	u.surgeon.do(func() {
		if ch.tied && set != nil {
			if err := set.Leave(ch.id.Index()); err != nil {
				u.log.Debug("channel not left", "id", ch.id, "err", err)
			}
			if ch.unread() {
				u.report(func() { u.remember(ch) })
			}
		}
		ch.close(u.log)
	})
}

// remember keeps a connection that is over until its program has read all. Those
// that have are forgotten whenever the list has doubled.
func (u *uplink) remember(ch *channel) {
	if len(u.unread) >= u.unreadMost {
		u.forgetRead()
		u.unreadMost = max(2*len(u.unread), 64)
	}
	u.unread = append(u.unread, ch)
}

func (u *uplink) forgetRead() {
	u.unread = slices.DeleteFunc(u.unread, func(ch *channel) bool { return !ch.unread() })
}

// unread reports that the program has something to read.
func (ch *channel) unread() (yes bool) {
	for _, o := range ch.owners {
		err := kernel.Borrow(o, ch.inode, func(fd int) error {
			yes = kernel.Held(fd) > 0
			return nil
		})
		if err == nil {
			return yes
		}
	}
	return false // who has it now is not known
}

// leaveWithin is how long the end waits for programs to read what only the channels'
// maps hold.
const leaveWithin = 5 * time.Second

// allRead reports that the maps of the channels hold nothing any more that a program
// of an ended connection may want to read, or have been kept for long enough.
func (u *uplink) allRead(now mono.Time) bool {
	u.forgetRead()
	if len(u.unread) == 0 {
		u.readBy = 0
		return true
	}
	if u.readBy == 0 {
		u.readBy = now.Add(leaveWithin)
	}
	if now < u.readBy {
		return false
	}
	for _, ch := range u.unread {
		u.log.Warn("the program of a connection that is over has not read all that it was sent, and cannot any more", "flow", ch.flow)
	}
	u.unread, u.readBy = nil, 0
	return true
}

// Join sends Joins with the connections' channels.
func (u *uplink) Join(conns []*handover.Conn) error {
	for some := range slices.Chunk(conns, abi.MaxJoins) {
		if err := u.joinSome(some); err != nil {
			return err
		}
	}
	return nil
}

func (u *uplink) joinSome(conns []*handover.Conn) error {
	if u.proc == nil || u.proc.doomed {
		return errNoDevice
	}
	var (
		commands [abi.MaxJoins]abi.Command
		fds      [abi.MaxJoins]int
	)
	for i, c := range conns {
		ch := u.channels[c.HWID]
		if ch == nil || ch.fd < 0 {
			return fmt.Errorf("%s has no channel", c.HWID)
		}
		commands[i].HWID, fds[i] = c.HWID, ch.fd
	}
	u.message = abi.Append(u.message[:0], abi.Join, 0, commands[:len(conns)])
	return u.proc.sendWith(u.message, unix.UnixRights(fds[:len(conns)]...))
}

// A program that reads at all has read what was there within this time.
const (
	drainLimit = 50 * time.Millisecond
	drainLeast = 20 * time.Microsecond // between two looks, at first
	drainMost  = time.Millisecond
)

// A reader is a connection whose program is to read what S has, up to a sequence
// number.
type reader struct {
	key   flow.Key
	id    abi.HWID
	given uint32
}

// Drain waits until programs have read all that their sockets received.
func (u *uplink) Drain(conns []*handover.Conn) {
	set, readers := u.set, make([]reader, len(conns))
	for i, c := range conns {
		readers[i] = reader{c.Key, c.HWID, c.Given}
	}
	go func() {
		by := mono.Now().Add(drainLimit)
		for pause := drainLeast; len(readers) > 0; pause = min(2*pause, drainMost) {
			var ends []handover.Step
			if readers, ends = look(set, readers, mono.Now() > by); len(ends) > 0 {
				u.report(func() { u.checked(u.table.Drained(mono.Now(), ends)) })
			}
			if len(readers) > 0 {
				time.Sleep(pause)
			}
		}
	}()
}

// look returns those of the connections whose programs are to read on, and how
// the waiting for the others has ended; for all of them, when it is late.
func look(set *bpf.Set, readers []reader, late bool) (reading []reader, ends []handover.Step) {
	keys, states := make([]flow.Key, len(readers)), make([]abi.KernelState, len(readers))
	for i := range readers {
		keys[i] = readers[i].key
	}
	err := set.Probe(keys, states)
	for i, r := range readers {
		s, end := &states[i], handover.Step{HWID: r.id}
		switch {
		case err != nil:
			end.Reason, end.Detail = abi.InternalError, err.Error()
		case s.State != unix.BPF_TCP_ESTABLISHED || handover.Verdict(s) != abi.None:
			end.Reason, end.Detail = abi.NotEstablished, abi.NotEstablished.Text()
		case seqnum.Value(r.given).Less(seqnum.Value(s.RcvNxt)):
			end.Reason, end.Detail = abi.OutOfStep, handover.ErrStrayed.Error()
		case s.RcvNxt == r.given && s.CopiedSeq == r.given:
		case late:
			end.Reason, end.Detail = abi.NotDrained, fmt.Sprintf("%d octets were unread after %v", s.RcvNxt-s.CopiedSeq, drainLimit)
		default:
			reading = append(reading, r)
			continue
		}
		ends = append(ends, end)
	}
	return reading, ends
}

// Open has what the program sends go to the channel.
func (u *uplink) Open(c *handover.Conn) error {
	if u.set == nil {
		return errNoInterface
	}
	ch := u.channels[c.HWID]
	if ch == nil {
		return fmt.Errorf("%s has no channel", c.HWID)
	}
	if err := u.set.Bypass(c.Key, true); err != nil {
		return err
	}
	if err := u.tie(c, ch); err != nil {
		return errors.Join(err, u.set.Bypass(c.Key, false))
	}
	u.seats.write([]bpf.Order{{Flow: c.Key, Set: bpf.SetDiverted}})
	atomic.StoreUint32(&u.set.Blocks()[c.HWID.Index()].Channel.Open, 1)
	return nil
}

// tie ties S to the channel. That takes S's lock, so what waited in its backlog is
// in its queue then. It may be what was on its way when the flow was steered: the
// device has never seen that, and the peer will send it again.
func (u *uplink) tie(c *handover.Conn, ch *channel) error {
	if err := ch.tie(u.set); err != nil {
		return err
	}
	var s [1]abi.KernelState
	err := u.set.Probe([]flow.Key{c.Key}, s[:])
	if err == nil && (s[0].RcvNxt != c.Given || s[0].CopiedSeq != c.Given) {
		err = handover.ErrStrayed
	}
	if err != nil {
		return errors.Join(err, ch.loosen(u.set))
	}
	return nil
}

// Thaw lets programs go on whose sockets are in step, or over.
func (u *uplink) Thaw(conns []*handover.Conn, resumed bool) {
	for _, c := range conns {
		if u.set != nil {
			u.set.Bypass(c.Key, false) // an error: it is un-steered already
		}
		if ch := u.channels[c.HWID]; ch != nil {
			delete(u.channels, c.HWID)
			ch.thaw(resumed)
		}
	}
}

// leftBy is closed when the device that was lost is gone, nil while there is one
// that serves.
func (u *uplink) leftBy() <-chan struct{} {
	if u.proc == nil || !u.proc.doomed {
		return nil
	}
	return u.proc.exited
}

// Rebuild has the surgeon bring sockets in step with the wire.
func (u *uplink) Rebuild(conns []*handover.Conn) {
	set, alive := u.set, u.leftBy() == nil && u.proc != nil
	now := mono.Now()
	report := func(ends []handover.Rebuilt) { u.report(func() { u.rebuilt(ends) }) }
	op := &operation{
		log: u.log, rings: u.rings, left: u.leftBy(),
		rebuilt: func(ends []handover.Rebuilt) {
			if !alive {
				ends = after(tryAgain, ends, report)
			}
			report(ends)
		},
		leave: func(ch *channel) error { return set.Leave(ch.id.Index()) },
		alive: alive,
		seat:  func(k flow.Key, set bpf.OrderSet) { u.seats.write([]bpf.Order{{Flow: k, Set: set}}) },
		untie: func(ch *channel) error { return set.Untie(ch.id.Index()) },
	}
	if set != nil {
		op.blocks = set.Blocks()
	}
	var ends []handover.Rebuilt
	for _, c := range conns {
		ch := u.channels[c.HWID]
		if ch == nil || set == nil {
			ends = append(ends, handover.Rebuilt{HWID: c.HWID, Reason: abi.NotRebuilt, Detail: "nothing is kept of it", Over: true})
			continue
		}
		p := newPatient(ch)
		if !alive {
			if ch.tried == 0 {
				ch.tried = now
			}
			p.last = now.Sub(ch.tried) > rebuildWithin
		}
		op.patients = append(op.patients, p)
	}
	u.surgeon.do(op.run)
	if len(ends) > 0 {
		go report(ends)
	}
}

// rebuilt tells the table, and remembers whose programs could not be frozen.
func (u *uplink) rebuilt(ends []handover.Rebuilt) {
	now := mono.Now()
	for i := range ends {
		if ch := u.channels[ends[i].HWID]; ch != nil && ends[i].Reason != abi.None {
			ch.failed(now)
		}
	}
	u.checked(u.table.Rebuilt(now, ends))
}

// after has those ends reported later that the table answers with another try, as
// there is no device that could go on. It returns the others.
func after(d time.Duration, ends []handover.Rebuilt, report func([]handover.Rebuilt)) (now []handover.Rebuilt) {
	var later []handover.Rebuilt
	for _, e := range ends {
		if e.Reason != abi.None && !e.Over {
			later = append(later, e)
		} else {
			now = append(now, e)
		}
	}
	if len(later) > 0 {
		time.AfterFunc(d, func() { report(later) })
	}
	return now
}

// A program that leaves octets unread for this long waits for something that
// the channel does not give: the kernel's own queue does.
const unreadLimit = 100 * time.Millisecond

// observeBypass looks what programs do with bypassed sockets, and takes those
// back to shadow whose programs do what only the kernel's TCP can serve.
func (u *uplink) observeBypass(now mono.Time) {
	if u.set == nil || len(u.channels) == 0 {
		return
	}
	blocks := u.set.Blocks()
	for id, ch := range u.channels {
		b := &blocks[id.Index()].Channel
		if atomic.LoadUint32(&b.Open) == 0 || now < ch.rest {
			continue
		}
		if why := ch.misfit(now, b); why != abi.None {
			u.checked(u.table.Shadow(now, []abi.HWID{id}, why, why.Text()))
		}
	}
}

// misfit says why a program is better served in shadow.
func (ch *channel) misfit(now mono.Time, b *abi.ChannelPart) abi.Reason {
	read, in := atomic.LoadUint64(&b.Read), atomic.LoadUint64(&b.In)
	switch flags := atomic.LoadUint32(&b.Flags); {
	case flags&(abi.ChannelRcvLowat|abi.ChannelNotSentLowat) != 0:
		return abi.LowWaterMark
	case flags&abi.ChannelZeroCopy != 0:
		return abi.ZeroCopy
	case flags&abi.ChannelOption != 0:
		return abi.SocketOption
	case in == read || read != ch.seen:
		ch.seen, ch.idling = read, 0
	case ch.idling == 0:
		ch.idling = now
	case now.Sub(ch.idling) > unreadLimit:
		ch.idling = 0
		return abi.LeftUnread
	}
	return abi.None
}
