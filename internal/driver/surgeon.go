package driver

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/freeze"
	"toehold/internal/handover"
	"toehold/internal/kernel"
	"toehold/internal/recovery"
	"toehold/internal/shm"
)

// A surgeon works on the sockets of programs: ties channels to them, and brings
// them in step with the wire while their programs are frozen. There is one, as
// a process can be frozen by one at a time. It works off what it is given to do
// in order.
type surgeon struct {
	log *slog.Logger

	mu     sync.Mutex
	jobs   []func()
	closed bool
	wake   chan struct{} // has room for one
	ended  chan struct{}
}

func newSurgeon(log *slog.Logger) *surgeon {
	s := &surgeon{log: log, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go s.run()
	return s
}

// do has f done. It does not block: there are no more jobs than connections.
func (s *surgeon) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs = append(s.jobs, f)
	s.nudge()
}

func (s *surgeon) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *surgeon) run() {
	defer close(s.ended)
	for range s.wake {
		for f, closed := s.next(); f != nil || closed; f, closed = s.next() {
			if f == nil {
				return
			}
			f()
		}
	}
}

func (s *surgeon) next() (f func(), closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.jobs) == 0 {
		return nil, s.closed
	}
	f, s.jobs = s.jobs[0], s.jobs[1:]
	return f, s.closed
}

// end has everything done and ends the surgeon.
func (s *surgeon) end() {
	s.mu.Lock()
	s.closed = true
	s.nudge()
	s.mu.Unlock()
	<-s.ended
}

// prepare makes channels for those programs' sockets whose programs will not
// notice.
func (s *surgeon) prepare(set *bpf.Set, channels []*channel) []handover.Step {
	why, detail := abi.None, ""
	if set == nil {
		why, detail = abi.UplinkGone, errNoInterface.Error()
	} else if err := set.OpenChannels(); err != nil {
		why, detail = abi.ChannelFailed, err.Error()
	} else if err := findOwners(channels); err != nil {
		s.log.Debug("owners", "err", err)
	}
	screen, ends := new(kernel.Screen), make([]handover.Step, len(channels))
	for i, ch := range channels {
		ends[i] = handover.Step{HWID: ch.id, Reason: why, Detail: detail}
		if why == abi.None {
			ends[i].Reason, ends[i].Detail = ch.open(screen)
		}
	}
	return ends
}

// open makes the channel, or says why its S cannot be bypassed.
func (ch *channel) open(screen *kernel.Screen) (why abi.Reason, detail string) {
	if len(ch.owners) == 0 {
		return abi.NoOwner, abi.NoOwner.Text()
	}
	err := kernel.Borrow(ch.owners[0], ch.inode, func(fd int) (err error) {
		if why, detail = screen.Bypassable(fd, ch.owners); why == abi.None {
			ch.fd, err = kernel.OpenChannel()
		}
		return err
	})
	switch {
	case err != nil:
		return abi.ChannelFailed, err.Error()
	case why != abi.None && detail == "":
		detail = why.Text()
	}
	return why, detail
}

// tie ties S to the channel.
func (ch *channel) tie(set *bpf.Set) error {
	return kernel.Borrow(ch.owners[0], ch.inode, func(fd int) (err error) {
		if ch.lowat, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); err != nil {
			return fmt.Errorf("TCP_NOTSENT_LOWAT: %w", err)
		}
		err = set.Tie(ch.id.Index(), fd, ch.fd, channelLimit)
		ch.tied = err == nil
		return err
	})
}

// loosen is the undo of tie.
func (ch *channel) loosen(set *bpf.Set) error {
	ch.tied = false
	return errors.Join(set.Untie(ch.id.Index()), kernel.Borrow(ch.owners[0], ch.inode, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, ch.lowat)
	}))
}

// close closes C, which nothing is tied to any more.
func (ch *channel) close(log *slog.Logger) {
	if ch.fd < 0 {
		return
	}
	if err := kernel.CloseChannel(ch.fd); err != nil {
		log.Debug("channel not closed", "id", ch.id, "err", err)
	}
	ch.fd, ch.tied = -1, false
}

// findOwners finds who has the sockets of those channels of which it is not
// known.
func findOwners(channels []*channel) error {
	var inodes []uint64
	for _, ch := range channels {
		if len(ch.owners) == 0 {
			inodes = append(inodes, ch.inode)
		}
	}
	if len(inodes) == 0 {
		return nil
	}
	owners, err := kernel.FindAllOwners(inodes)
	if err != nil {
		return err
	}
	for _, ch := range channels {
		if len(ch.owners) == 0 {
			ch.owners = owners[ch.inode]
		}
		if len(ch.owners) == 0 {
			err = errors.Join(err, fmt.Errorf("no process has the socket with inode %d", ch.inode))
		}
	}
	return err
}

// A patient is a connection whose socket is to be brought in step.
type patient struct {
	*channel

	fd   int             // S, -1: not taken
	made *kernel.Rebuild // what it is now
	end  handover.Rebuilt
	done bool
	cut  bool // its queues have been taken from: there is no way back
	last bool // there is no other try
}

func newPatient(ch *channel) *patient { return &patient{channel: ch, fd: -1} }

// An operation is the rebuilding of several connections' sockets.
type operation struct {
	log      *slog.Logger
	blocks   []abi.Block
	rings    []byte
	left     <-chan struct{} // closed when the device that had them is gone; nil: it is not
	patients []*patient
	rebuilt  func([]handover.Rebuilt)           // is told the ends; thaw is to be called of those that succeeded or are over
	alive    bool                               // there is a device that goes on with them
	untie    func(*channel) error               // its sockets are plain ones then
	leave    func(*channel) error               // the same of one that is over, and may have octets to read
	seat     func(k flow.Key, set bpf.OrderSet) // notes in S's seat what is done with it
}

const (
	// freezeLimit is for each process. A thread that waits for a processor does so
	// whether it is to be frozen or not, and on a busy machine for many turns of the
	// others; the limit is for the other threads of the process, which stand still
	// meanwhile.
	freezeLimit = 200 * time.Millisecond
	goneLimit   = 5 * time.Second // for a device that was killed to end
	thawLimit   = 5 * time.Second // a loop that takes longer is a fault of ours
	tryAgain    = 20 * time.Millisecond
)

// run freezes the programs, rebuilds the sockets, and lets the programs go on
// when the device has been told.
func (o *operation) run() {
	o.await()
	frozen := o.freeze()
	defer func() {
		for _, f := range frozen {
			if err := f.Thaw(); err != nil {
				o.log.Error("a program was not let go on", "err", err)
			}
		}
	}()
	ends := make([]handover.Rebuilt, len(o.patients))
	for i, p := range o.patients {
		o.rebuild(p)
		p.end.HWID = p.id
		ends[i] = p.end
	}
	o.rebuilt(ends)
	o.finish()
}

// await waits until a device that was killed cannot touch anything any more.
func (o *operation) await() {
	if o.left == nil {
		return
	}
	select {
	case <-o.left:
	case <-time.After(goneLimit):
		o.log.Error("a killed device does not end")
	}
}

// freeze freezes all that have the sockets. Patients whose programs it cannot
// freeze get their end.
func (o *operation) freeze() map[int]*freeze.Frozen {
	channels := make([]*channel, len(o.patients))
	for i, p := range o.patients {
		channels[i] = p.channel
		p.owners = nil // there may be others by now
	}
	if err := findOwners(channels); err != nil {
		o.log.Debug("owners", "err", err)
	}
	frozen, failed := make(map[int]*freeze.Frozen), make(map[int]error)
	for _, p := range o.patients {
		for _, owner := range p.owners {
			if frozen[owner.PID] == nil && failed[owner.PID] == nil {
				frozen[owner.PID], failed[owner.PID] = freeze.Freeze(freezeLimit, owner.PID)
			}
			if err := failed[owner.PID]; err != nil {
				p.fail(notFrozen(err), fmt.Sprintf("process %d: %v", owner.PID, err))
			}
		}
	}
	for pid, f := range frozen {
		if f == nil {
			delete(frozen, pid)
		}
	}
	return frozen
}

func notFrozen(err error) abi.Reason {
	if errors.Is(err, freeze.ErrTraced) {
		return abi.Traced
	}
	return abi.NotFrozen
}

func (p *patient) fail(why abi.Reason, detail string) {
	p.end.Reason, p.end.Detail = why, detail
}

// rebuild brings one socket in step, or ends a connection with which that cannot be
// done.
func (o *operation) rebuild(p *patient) {
	if p.end.Reason == abi.None {
		o.operate(p)
	}
	if p.end.Reason != abi.None && !p.end.Over && (p.cut || p.last) {
		o.lose(p)
	}
}

func (o *operation) operate(p *patient) {
	if len(p.owners) == 0 {
		p.fail(abi.NoOwner, abi.NoOwner.Text())
		return
	}
	fd, err := kernel.Take(p.owners[0], p.inode)
	if err != nil {
		p.fail(abi.NotFrozen, err.Error())
		return
	}
	p.fd = fd
	if over(fd) {
		o.part(p)
		return
	}
	if err := o.restore(p); err != nil {
		p.fail(abi.NotRebuilt, err.Error())
		return
	}
	p.done = true
}

// over reports that a socket's TCP has come to its end: the program has what is
// still to be read.
func over(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == unix.BPF_TCP_CLOSE
}

// part leaves a socket that is over to its program. A device that lives has to say
// that it is over, when it has answered the peer's last segments.
func (o *operation) part(p *patient) {
	p.fail(abi.NotEstablished, "its socket has come to its end")
	if o.alive {
		return
	}
	p.end.Over = true
	if err := o.leave(p.channel); err != nil {
		o.log.Debug("channel not left", "id", p.id, "err", err)
	}
}

// lose ends a connection whose socket cannot be brought in step: its program is told,
// and the peer when it sends.
func (o *operation) lose(p *patient) {
	err := o.untie(p.channel)
	if p.fd >= 0 {
		err = errors.Join(err, kernel.Abort(p.fd))
	} else {
		err = errors.Join(err, kernel.Destroy(p.flow))
	}
	o.log.Error("a connection is lost", "flow", p.flow, "reason", p.end.Reason, "detail", p.end.Detail, "err", err)
	p.end.Over = true
}

// restore finds out what S is to be, and makes it so.
func (o *operation) restore(p *patient) error {
	b := &o.blocks[p.id.Index()]
	l, h := shm.ReadLedger(&b.Ledger), shm.ReadHardware(o.blocks, p.id)
	if err := kernel.Reachable(p.fd, p.flow); err != nil {
		return err
	}
	p.cut = true
	o.seat(p.flow.Key(), bpf.SetKept)
	taken := b.Channel.Taken
	waiting, _, err := kernel.TakeUnread(p.channel.fd)
	if err != nil {
		return err
	}
	unread, ended, err := kernel.TakeUnread(p.fd)
	if err != nil {
		return err
	}
	if err := o.untie(p.channel); err != nil {
		return err
	}
	r, err := kernel.Salvage(p.fd, p.flow)
	if err != nil {
		return err
	}
	r.ShutRead = ended
	if atomic.LoadUint32(&b.Channel.Flags)&abi.ChannelNotSentLowat == 0 { // it has the one of the bypass
		r.NotSentLowat = p.lowat
	}
	given := b.Channel.Read // now that nothing is unread
	if o.alive {
		given = l.Delivered
	}
	kept := recovery.Kept{
		ID: p.id, Ledger: l, Hardware: h, Taken: taken, Given: given,
		Ring: ringOf(o.rings, p.id), Waiting: waiting, Unread: unread,
	}
	if err := kept.Reckon(&r.Socket); err != nil {
		return err
	}
	if err := kernel.Restore(p.fd, r); err != nil {
		return err
	}
	o.seat(p.flow.Key(), bpf.SetRebuilt)
	p.made = r
	return nil
}

// ringOf is the memory of a connection's unacknowledged octets.
func ringOf(rings []byte, id abi.HWID) []byte {
	at := int(id.Index()) * abi.RingSize
	return rings[at : at+abi.RingSize]
}

// finish ends repair mode, sends what was not sent yet, and closes the
// channels, as the loop says that the device has been told.
func (o *operation) finish() {
	late := time.NewTimer(thawLimit)
	defer late.Stop()
	for _, p := range o.patients {
		if p.done || p.end.Over {
			select {
			case <-p.thawed:
			case <-late.C:
				o.log.Error("the loop does not say that a program may go on", "id", p.id)
				late.Reset(0)
			}
		}
		if p.done {
			if err := kernel.Finish(p.fd, p.made, !p.resumed); err != nil {
				o.log.Error("a socket is in step, and not all of it is as it should be", "flow", p.flow, "err", err)
			}
		}
		if p.fd >= 0 {
			if err := kernel.GiveBack(p.fd); err != nil {
				o.log.Debug("a socket is not given back", "flow", p.flow, "err", err)
			}
		}
		if p.done || p.end.Over {
			p.channel.close(o.log)
		}
	}
}
