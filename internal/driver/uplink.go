package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/mono"
)

// Times of an uplink's loop.
const (
	tickEvery     = 20 * time.Millisecond // heartbeat, deadlines
	sweepEvery    = 500 * time.Millisecond
	helloWithin   = 5 * time.Second
	answerWithin  = 2 * time.Second
	rebuildWithin = 30 * time.Second // a program that is being traced cannot be frozen meanwhile
	quitWithin    = time.Second
	exitWithin    = 20 * time.Millisecond
	firstBackOff  = 100 * time.Millisecond
	lastBackOff   = 5 * time.Second
	steadyAfter   = 10 * time.Second // a device that lived this long starts again at once
)

// sweepAtOnce bounds the connections probed in one tick.
const sweepAtOnce = 2048

// An uplink is one interface with its device. Everything in it but the
// channels and counters belongs to its loop; others come in by call.
type uplink struct {
	name    string
	cfg     *Config
	log     *slog.Logger
	journal *Journal
	heirs   *heirs
	seats   *seats // nil: programs are not told
	slot    int    // of the device's block table there

	loosened mono.Time // when windows of sockets were last looked at

	strayed chan<- struct{} // tells the driver of a socket whose route may be another now; has room for one
	revived func()          // tells it that the device takes connections again

	calls chan func()
	ended chan struct{} // closed when the loop has ended

	index   atomic.Int64 // = ifindex, for others to read
	ifindex int
	claim   claim
	set     *bpf.Set // nil while the interface is gone
	table   *handover.Table
	proc    *process // nil between two device processes
	up      bool
	paused  bool      // by an operator: nobody new; holds for the devices to come
	fenced  bool      // by us; the steering programs may fence by themselves
	vain    int       // answers of the device's that nobody waited for, lately
	beat    uint64    // the last heartbeat seen
	quiet   int       // ticks since then
	dead    [][6]byte // next hops that the device was last told not to send to
	unclean bool      // flows are still steered though the device is lost

	retryAt  mono.Time // when to start the next process, 0 not by itself
	backOff  time.Duration
	down     string         // why there is no device
	waiting  []chan<- error // for a device that serves
	draining func()         // what to do when the table is empty
	drainBy  mono.Time
	stopping bool
	halted   bool // at once

	generations abi.Generations // of the next device
	latest      uint32          // the latest seen in a hardware id

	roster     *admission.Roster
	latecomers map[flow.Key]*latecomer
	makeRoom   map[flow.Key]flow.ID // for which latecomer each connection does

	surgeon  *surgeon
	channels map[abi.HWID]*channel // of connections in bypass, or between it and shadow
	unread   []*channel            // of those that are over: their programs had octets to read
	// unreadMost is the length of unread at which it is gone through again.
	unreadMost int
	readBy     mono.Time   // until when to wait for them at the end, 0: not yet set
	last       *process    // the device that is, or was there last, whose
	rings      []byte      // stay until another is started
	reports    chan func() // of the surgeon, and others that work beside the loop
	shutting   bool        // the interface is gone; shut when nothing is in bypass

	requests map[uint64]*request
	ticket   uint64
	counters counters

	sweepAt mono.Time
	sweep   []flow.ID
	message []byte
}

type counters struct {
	restarts          int
	offloads, uploads uint64
	refused           map[string]int
}

// A request is one API call's share of connections on one uplink.
type request struct {
	left     int
	why      cause
	outcomes []handover.Outcome
	done     chan []handover.Outcome // takes the outcomes once, and never blocks the loop
}

func newUplink(name string, cfg *Config, j *Journal, h *heirs) *uplink {
	u := &uplink{
		name: name, cfg: cfg, journal: j, heirs: h, log: cfg.Log.With("uplink", name),
		calls: make(chan func()), ended: make(chan struct{}),
		latecomers: make(map[flow.Key]*latecomer), makeRoom: make(map[flow.Key]flow.ID), revived: func() {},
		channels: make(map[abi.HWID]*channel), reports: make(chan func()),
		requests: make(map[uint64]*request), counters: counters{refused: make(map[string]int)},
		down: "not started",
	}
	limits := cfg.Limits
	limits.Connections = cfg.MaxConnections
	u.roster = admission.NewRoster(limits)
	u.table = handover.NewTable(u, handover.Limits{Answer: answerWithin, Own: DefaultTimeout})
	return u
}

// open claims the interface and attaches the steering programs to it.
func (u *uplink) open() error {
	l, err := netlink.LinkByName(u.name)
	if err != nil {
		var none netlink.LinkNotFoundError
		if errors.As(err, &none) {
			return fmt.Errorf("uplink %s does not exist in this network namespace", u.name)
		}
		return fmt.Errorf("uplink %s: %w", u.name, err)
	}
	a := l.Attrs()
	switch {
	case a.Flags&net.FlagLoopback != 0:
		return fmt.Errorf("uplink %s is a loopback interface; connections over it stay in the kernel", u.name)
	case a.Flags&net.FlagUp == 0:
		return fmt.Errorf("uplink %s is down; set it up first", u.name)
	}
	if u.claim, err = claimUplink(u.name, a.Index); err != nil {
		return err
	}
	if u.set, err = bpf.Load(bpf.Config{MaxConnections: uint32(u.cfg.MaxConnections), StaleAfter: u.cfg.StaleAfter}); err == nil {
		err = u.set.AttachUplink(a.Index)
	}
	if err != nil {
		u.shut()
		return fmt.Errorf("uplink %s: %w", u.name, err)
	}
	u.seats.table(u.slot, u.set)
	u.ifindex, u.up, u.fenced = a.Index, true, true
	u.index.Store(int64(a.Index))
	return nil
}

// shut lets go of the interface. No connection may be on the device.
func (u *uplink) shut() {
	if u.set != nil {
		if err := u.set.Close(); err != nil {
			u.log.Debug("programs not closed", "err", err)
		}
		u.set, u.dead = nil, nil
	}
	u.claim.release()
}

// call runs f on the loop and waits for it; false when the loop has ended.
func (u *uplink) call(f func()) bool {
	done := make(chan struct{})
	select {
	case u.calls <- func() { defer close(done); f() }:
		<-done
		return true
	case <-u.ended:
		return false
	}
}

// run is the loop: the only place of an uplink that waits.
func (u *uplink) run() {
	defer close(u.ended)
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		var messages chan []byte
		var exited chan struct{}
		if u.proc != nil {
			exited = u.proc.exited
			if u.proc.socket >= 0 {
				messages = u.proc.messages
			}
		}
		select {
		case f := <-u.calls:
			f()
		case f := <-u.reports:
			f()
		case m, ok := <-messages:
			u.receive(m, ok)
		case <-exited:
			u.exited()
		case <-tick.C:
			u.tick(mono.Now())
			u.loosen(mono.Now())
		}
		u.settle()
		if u.stopping && u.proc == nil && u.table.Len() == 0 && (u.halted || u.allRead(mono.Now())) {
			u.shut()
			return
		}
	}
}

// receive takes one message of the device's.
func (u *uplink) receive(msg []byte, ok bool) {
	now := mono.Now()
	if !ok {
		u.hungUp(now)
		return
	}
	h, octets, err := abi.ParseHeader(msg)
	if err == nil && h.Type == abi.Hello {
		err = u.hello(now, h, octets)
	} else if err == nil {
		var answers []abi.Answer
		if answers, err = abi.Parse(answers, h, octets); err == nil {
			err = u.table.Answer(now, h, answers)
		}
	}
	if u.vain += u.table.Vain(); err == nil && u.vain > u.vainMost() {
		err = fmt.Errorf("%d of its answers are to nothing that it was asked", u.vain)
	}
	if err != nil {
		u.lose(now, abi.DeviceDied, err.Error())
	}
}

// vainMost is how many answers to nothing a device may send in some seconds: a few for
// each connection, which came too late. More is a storm.
func (u *uplink) vainMost() int { return 2*u.cfg.MaxConnections + 1024 }

// hungUp is a device that has closed its socket: it is ending, as a rule, and
// its exit status, a moment later, says more.
func (u *uplink) hungUp(now mono.Time) {
	if u.proc.doomed {
		u.proc.shut() // as it was told to
		return
	}
	why, detail := u.death(), "it closed its socket"
	u.fence() // the kernel goes on meanwhile
	select {
	case <-u.proc.exited:
		detail = u.proc.status
	case <-time.After(exitWithin):
	}
	u.lose(now, why, detail)
}

// hello lets a new device serve: only now the fence is taken down.
func (u *uplink) hello(now mono.Time, h abi.Header, octets []byte) error {
	greetings, err := abi.Parse([]abi.Greeting(nil), h, octets)
	switch {
	case err != nil:
		return err
	case len(greetings) != 1 || u.proc.greeted() || u.proc.doomed:
		return errors.New("a greeting out of place")
	case greetings[0].Version != abi.Version:
		return fmt.Errorf("its version of the interface is %d, ours is %d", greetings[0].Version, abi.Version)
	}
	u.proc.greeting = greetings[0]
	u.down = ""
	c := u.set.Control()
	// The first heartbeat may be a moment away, and a stale one would put the
	// fence up again.
	atomic.CompareAndSwapUint64(&u.set.Pulse().Heartbeat, 0, uint64(now))
	atomic.StoreUint32(&c.Fenced, 0)
	u.fenced = false
	u.table.Serve()
	u.table.Issue(u.generations, u.cfg.MaxConnections)
	u.journal.Add(Event{Kind: EventDeviceStarted, Device: u.name, Detail: fmt.Sprintf("process %d", u.proc.pid)})
	u.served(nil)
	u.revived()
	return nil
}

// served tells those who wait for a device.
func (u *uplink) served(err error) {
	for _, w := range u.waiting {
		w <- err // has room for one
	}
	u.waiting = nil
}

// startDevice starts a device process. The device is fenced until it greets.
func (u *uplink) startDevice(now mono.Time) {
	u.retryAt = 0
	if err := u.sweepOut(); err != nil {
		u.retry(now, err.Error())
		return
	}
	atomic.StoreUint64(&u.set.Pulse().Heartbeat, 0)
	u.generations = u.generations.After(u.latest)
	p, err := startProcess(u.cfg, u.name, u.ifindex, u.set, u.generations)
	if err != nil {
		u.log.Error("device not started", "err", err)
		u.served(err)
		u.retry(now, err.Error())
		return
	}
	u.last.unmapRings()
	u.vain = 0
	u.proc, u.last, u.rings, u.down = p, p, p.rings, "starting"
}

// sweepOut un-steers what a failure may have left in the steering map: a new
// device must know every flow that is turned to it.
func (u *uplink) sweepOut() error {
	keys, err := u.set.Steered()
	if err != nil || len(keys) == 0 {
		return err
	}
	u.log.Warn("flows were still steered", "count", len(keys))
	return u.set.Unsteer(keys)
}

// retry notes why there is no device, and when to try again: at once for the
// first time, later and later for those that follow soon.
func (u *uplink) retry(now mono.Time, why string) {
	u.down, u.retryAt = why, now.Add(u.backOff)
	u.backOff = min(max(2*u.backOff, firstBackOff), lastBackOff)
}

// fence shuts the device off: whatever it does from now on reaches nobody,
// and flows that are still steered go straight between wire and kernel.
func (u *uplink) fence() {
	if u.set != nil {
		atomic.StoreUint32(&u.set.Control().Fenced, 1)
	}
	u.fenced = true
}

// lose takes every connection home without the device's help and ends its
// process. Another is started when that one is gone; see exited.
func (u *uplink) lose(now mono.Time, why abi.Reason, detail string) {
	if u.proc == nil || u.proc.doomed && u.fenced {
		return
	}
	u.fence()
	count := u.table.Len()
	u.proc.kill()
	u.proc.shut()
	u.unsteerAll(now, why)
	u.log.Warn("device lost", "reason", why, "detail", detail, "connections", count)
	u.journal.Add(Event{Kind: EventDeviceLost, Device: u.name, Reason: why.String(), Detail: detail, Count: count})
	u.down = why.Text()
	if !u.proc.greeted() {
		u.served(errors.New(detail))
	}
	u.finishDrain()
}

// unsteerAll empties steering map and table; tick tries again what fails.
func (u *uplink) unsteerAll(now mono.Time, why abi.Reason) {
	err := u.table.Lost(now, why)
	u.unclean = err != nil
	if err != nil {
		u.log.Error("flows not un-steered; they pass the fenced device by", "err", err)
	}
}

// exited goes on when the device process has been reaped.
func (u *uplink) exited() {
	now, p := mono.Now(), u.proc
	if !p.doomed || !u.fenced {
		u.lose(now, u.death(), p.status)
	}
	p.shut()
	u.proc = nil
	if u.stopping {
		return
	}
	u.counters.restarts++
	if !p.greeted() {
		u.served(errors.New("the device ended: " + p.status))
	}
	if !u.up {
		return // replug or linkChanged go on
	}
	u.retry(now, "the device ended: "+p.status)
}

// tick is what has to be done every so often.
func (u *uplink) tick(now mono.Time) {
	u.supervise(now)
	u.vain -= (u.vain + 49) / 50 // half of them in 0.7 s
	if err := u.table.Advance(now); err != nil {
		u.lose(now, abi.DeviceDied, err.Error())
	}
	if u.unclean {
		u.unsteerAll(now, abi.DeviceDied)
	}
	u.observeBypass(now)
	if u.shutting && u.table.Len() == 0 && u.allRead(now) {
		u.shutting = false
		u.shut()
	}
	if u.draining != nil && (u.table.Len() == 0 || now >= u.drainBy) {
		u.finishDrain()
	}
	if u.set == nil && u.proc == nil && !u.stopping && now >= u.sweepAt {
		u.sweepAt = now.Add(sweepEvery)
		u.replug(now)
	}
	if u.proc == nil && u.retryAt != 0 && now >= u.retryAt && u.up && !u.unclean && !u.stopping && u.table.Len() == 0 {
		u.startDevice(now)
	}
	if u.proc != nil && u.proc.greeted() {
		if u.backOff != 0 && now.Sub(u.proc.started) > steadyAfter {
			u.backOff = 0
		}
		u.sweepSome(now)
	}
}

// supervise looks whether the device lives.
func (u *uplink) supervise(now mono.Time) {
	p := u.proc
	switch {
	case p == nil:
	case p.doomed:
		if u.drainBy != 0 && now >= u.drainBy.Add(quitWithin) {
			p.kill()
		}
	case !p.greeted():
		if now.Sub(p.started) > helloWithin {
			u.lose(now, abi.DeviceDied, fmt.Sprintf("it did not greet within %v", helloWithin))
		}
	case atomic.LoadUint32(&u.set.Control().Fenced) != 0:
		u.lose(now, abi.DeviceHung, "the steering programs found its heartbeat stale")
	default:
		u.listen(now)
	}
}

// quietTicks is how many ticks in a row must find no new heartbeat: when the
// whole machine was held up, the driver may wake before the device does.
const quietTicks = 3

// starvedFor is how many times StaleAfter a device may be silent that has only
// been waiting for a processor. Its flows do not wait as long: the steering
// programs turn them to the kernel by themselves.
const starvedFor = 10

// listen looks at the heartbeat.
func (u *uplink) listen(now mono.Time) {
	beat := atomic.LoadUint64(&u.set.Pulse().Heartbeat)
	if u.quiet++; beat != u.beat {
		u.beat, u.quiet = beat, 0
	}
	age := u.heartbeatAge(now)
	if age <= u.cfg.StaleAfter || u.quiet < quietTicks {
		return
	}
	if age > starvedFor*u.cfg.StaleAfter || !runnable(u.proc.pid) {
		u.lose(now, abi.DeviceHung, fmt.Sprintf("no heartbeat for %v", age.Round(time.Millisecond)))
	}
}

// death is the reason for a device that ended by itself. One that finds
// itself fenced ends, since the steering programs found it stale before.
func (u *uplink) death() abi.Reason {
	if u.set != nil && !u.fenced && u.proc.greeted() && atomic.LoadUint32(&u.set.Control().Fenced) != 0 {
		return abi.DeviceHung
	}
	return abi.DeviceDied
}

// heartbeatAge is how old the heartbeat is; one from the future is no news.
func (u *uplink) heartbeatAge(now mono.Time) time.Duration {
	return max(0, now.Sub(mono.Time(atomic.LoadUint64(&u.set.Pulse().Heartbeat))))
}

// drain sends everything home, and calls then when nothing is on the device
// or the time for it is over.
func (u *uplink) drain(now mono.Time, then func()) {
	u.draining, u.drainBy = then, now.Add(2*answerWithin)
	u.table.UploadAll(now, abi.DeviceStopped)
	if err := u.table.Err(); err != nil {
		u.lose(now, abi.DeviceDied, err.Error())
	}
}

func (u *uplink) finishDrain() {
	if then := u.draining; then != nil {
		u.draining = nil
		then()
	}
}

// replace ends the device after sending everything home; the next one is
// started at once. served is told when it serves.
func (u *uplink) replace(served chan<- error) {
	switch {
	case u.stopping || !u.up:
		served <- fmt.Errorf("uplink %s: %s", u.name, u.down)
		return
	case u.draining != nil:
		served <- fmt.Errorf("device of %s: a restart is under way", u.name)
		return
	}
	u.drain(mono.Now(), func() {
		u.waiting = append(u.waiting, served)
		u.backOff, u.down = 0, "it is being replaced"
		u.retire()
		if u.proc == nil {
			u.retryAt = mono.Now()
		}
	})
}

// retire ends a device that has nothing left, without an alarm.
func (u *uplink) retire() {
	p := u.proc
	if p == nil || p.doomed {
		return
	}
	u.fence()
	u.unsteerAll(mono.Now(), abi.DeviceStopped)
	u.drainBy = mono.Now()
	u.journal.Add(Event{Kind: EventDeviceStopped, Device: u.name, Reason: abi.DeviceStopped.String()})
	p.quit()
}

// stop ends the uplink after sending everything home, or at once when ctx
// ends. It returns when the loop has ended.
func (u *uplink) stop(ctx context.Context) {
	u.call(func() {
		if u.proc == nil || !u.proc.greeted() {
			u.halt()
			return
		}
		u.draining = nil
		u.drain(mono.Now(), func() { u.stopping = true; u.retire() })
	})
	select {
	case <-u.ended:
		return
	case <-ctx.Done():
	}
	u.call(u.halt)
	<-u.ended
}

// halt ends without waiting: the kernel takes over.
func (u *uplink) halt() {
	u.stopping, u.halted, u.draining = true, true, nil
	if u.proc != nil {
		u.lose(mono.Now(), abi.DeviceStopped, "the daemon ends")
		u.proc.kill()
	}
}
