package driver

import (
	"errors"
	"fmt"
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

	thawed chan struct{} // closed when the program may go on
	once   sync.Once

	seen   uint64    // of octets read by the program, at the last look,
	idling mono.Time // since when it has left some unread, 0: it has not
}

func (ch *channel) thaw() { ch.once.Do(func() { close(ch.thawed) }) }

// channelLimit is how many octets may wait in a channel. What the program sends
// beyond stays in its socket's own send queue.
const channelLimit = 256 << 10

// Attach begins to tie a channel to the program's socket.
func (u *uplink) Attach(c *handover.Conn) {
	ch := &channel{id: c.HWID, flow: c.Flow, fd: -1, inode: c.State.Inode, thawed: make(chan struct{})}
	u.channels[c.HWID] = ch
	set, key := u.set, c.Key
	if set != nil { // what stands there is of the channel before
		set.Blocks()[c.HWID.Index()].Channel = abi.ChannelPart{}
	}
	u.surgeon.do(func() {
		why, detail := u.surgeon.prepare(set, ch)
		u.report(func() { u.attached(key, ch, why, detail) })
	})
}

// report runs f on the loop; not at all when that has ended.
func (u *uplink) report(f func()) {
	select {
	case u.reports <- f:
	case <-u.ended:
	}
}

func (u *uplink) attached(key flow.Key, ch *channel, why abi.Reason, detail string) {
	if u.channels[ch.id] != ch { // detached meanwhile
		return
	}
	if why != abi.None {
		delete(u.channels, ch.id)
	}
	u.checked(u.table.Attached(mono.Now(), ch.id, why, detail))
}

// checked takes a device for lost that the table cannot rely on any more.
func (u *uplink) checked(err error) {
	if err != nil {
		u.lose(mono.Now(), abi.DeviceDied, err.Error())
	}
}

// Detach is the undo of Attach, however far the surgeon is with it.
func (u *uplink) Detach(c *handover.Conn) {
	if ch := u.channels[c.HWID]; ch != nil {
		delete(u.channels, c.HWID)
		ch.thaw()
		set := u.set
		u.surgeon.do(func() { u.surgeon.untie(set, ch) })
	}
}

// Join sends a Join with the connection's channel.
func (u *uplink) Join(c *handover.Conn) error {
	ch := u.channels[c.HWID]
	switch {
	case ch == nil || ch.fd < 0:
		return fmt.Errorf("%s has no channel", c.HWID)
	case u.proc == nil || u.proc.doomed:
		return errNoDevice
	}
	u.message = abi.Append(u.message[:0], abi.Join, 0, []abi.Command{{HWID: c.HWID}})
	return u.proc.sendWith(u.message, unix.UnixRights(ch.fd))
}

// A program that reads at all has read what was there within this time.
const (
	drainLimit = 50 * time.Millisecond
	drainLeast = 20 * time.Microsecond // between two looks, at first
	drainMost  = time.Millisecond
)

// Drain waits until the program has read all that S received.
func (u *uplink) Drain(c *handover.Conn) {
	set, key, id := u.set, c.Key, c.HWID
	go func() {
		why, detail := abi.NotDrained, ""
		var s [1]abi.KernelState
		for by, pause := mono.Now().Add(drainLimit), drainLeast; ; pause = min(2*pause, drainMost) {
			if err := set.Probe([]flow.Key{key}, s[:]); err != nil {
				why, detail = abi.InternalError, err.Error()
				break
			}
			if s[0].State != unix.BPF_TCP_ESTABLISHED || handover.Verdict(&s[0]) != abi.None {
				why = abi.NotEstablished
				break
			}
			if s[0].RcvNxt == s[0].CopiedSeq {
				why = abi.None
				break
			}
			if mono.Now() > by {
				detail = fmt.Sprintf("%d octets were unread after %v", s[0].RcvNxt-s[0].CopiedSeq, drainLimit)
				break
			}
			time.Sleep(pause)
		}
		if detail == "" {
			detail = why.Text()
		}
		u.report(func() { u.checked(u.table.Drained(mono.Now(), id, why, detail)) })
	}()
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
	if err := ch.tie(u.set); err != nil {
		return errors.Join(err, u.set.Bypass(c.Key, false))
	}
	u.seats.write([]bpf.Order{{Flow: c.Key, Set: bpf.SetDiverted}})
	atomic.StoreUint32(&u.set.Blocks()[c.HWID.Index()].Channel.Open, 1)
	return nil
}

// Thaw lets programs go on whose sockets are in step, or lost.
func (u *uplink) Thaw(conns []*handover.Conn) {
	for _, c := range conns {
		if u.set != nil {
			u.set.Bypass(c.Key, false) // an error: it is un-steered already
		}
		if ch := u.channels[c.HWID]; ch != nil {
			delete(u.channels, c.HWID)
			ch.thaw()
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
	report := func(ends []handover.Rebuilt) {
		u.report(func() { u.checked(u.table.Rebuilt(mono.Now(), ends)) })
	}
	op := &operation{
		log: u.log, rings: u.rings, left: u.leftBy(),
		rebuilt: func(ends []handover.Rebuilt) {
			if !alive {
				ends = after(tryAgain, ends, report)
			}
			report(ends)
		},
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
			ends = append(ends, handover.Rebuilt{HWID: c.HWID, Reason: abi.NotRebuilt, Detail: "nothing is kept of it", Lost: true})
			continue
		}
		op.patients = append(op.patients, newPatient(ch))
	}
	u.surgeon.do(op.run)
	if len(ends) > 0 {
		go report(ends)
	}
}

// after has those ends reported later that the table answers with another try, as
// there is no device that could go on. It returns the others.
func after(d time.Duration, ends []handover.Rebuilt, report func([]handover.Rebuilt)) (now []handover.Rebuilt) {
	var later []handover.Rebuilt
	for _, e := range ends {
		if e.Reason != abi.None && !e.Lost {
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
const unreadLimit = 50 * time.Millisecond

// observeBypass looks what programs do with bypassed sockets, and takes those
// back to shadow whose programs do what only the kernel's TCP can serve.
func (u *uplink) observeBypass(now mono.Time) {
	if u.set == nil || len(u.channels) == 0 {
		return
	}
	blocks := u.set.Blocks()
	for id, ch := range u.channels {
		b := &blocks[id.Index()].Channel
		if atomic.LoadUint32(&b.Open) == 0 {
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
