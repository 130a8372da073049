package driver

import (
	"context"
	"net/netip"
	"time"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/kernel"
	"toehold/internal/mono"
)

// Times of watching.
const (
	settleTime   = 50 * time.Millisecond // changes come in bursts
	pruneEvery   = 10 * time.Second
	recheckEvery = time.Second // connections by the rules for packets, at most
)

// looks are when the devices' connections are looked at again, nil never.
type looks struct {
	paths, rules <-chan time.Time
	checked      time.Time // by the rules
}

// after has them looked at after a change. To ask conntrack of each costs
// some, and rules may change all the time.
func (l *looks) after(c *kernel.Change, now time.Time) {
	if c.Kind != kernel.RulesChanged && l.paths == nil {
		l.paths = time.After(settleTime)
	}
	if (c.Kind == kernel.RulesChanged || c.Kind == kernel.Overrun) && l.rules == nil {
		l.rules = time.After(max(settleTime, recheckEvery-now.Sub(l.checked)))
	}
}

// watch follows changes of the network until ctx ends, and forgets the
// histories of connections that are gone.
func (d *Driver) watch(ctx context.Context, changes <-chan kernel.Change) {
	defer close(d.watched)
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	var look looks
	for {
		select {
		case <-ctx.Done():
			return
		case c, ok := <-changes:
			if !ok {
				if ctx.Err() != nil {
					return
				}
				// Something may have been missed: look at everything anew.
				d.log.Warn("changes of the network were missed")
				changes = d.watchAgain(ctx)
				c = kernel.Change{Kind: kernel.Overrun}
			}
			if c.Kind != kernel.RulesChanged {
				d.hear(&c)
			}
			if c.Kind == kernel.LinkChanged {
				d.linkChanged(c)
			}
			look.after(&c, time.Now())
		case <-d.strayed:
			if look.paths == nil {
				look.paths = time.After(0)
			}
		case <-look.paths:
			look.paths = nil
			d.forgetRoutes() // one may have been cached in the middle of the burst
			d.refreshPaths(false)
		case <-look.rules:
			look.rules, look.checked = nil, time.Now()
			d.refreshPaths(true)
		case <-prune.C:
			d.prune()
			if changes == nil {
				changes = d.watchAgain(ctx)
			}
		}
	}
}

// watchAgain subscribes anew; nil, which the next pruning makes good, when that
// cannot be.
func (d *Driver) watchAgain(ctx context.Context) <-chan kernel.Change {
	changes, err := kernel.Watch(ctx)
	if err != nil {
		d.log.Error("changes of the network are not told any more", "err", err)
	}
	return changes
}

func (d *Driver) forgetRoutes() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.routes.forget()
}

func (d *Driver) hear(c *kernel.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.routes.hear(c)
}

func (d *Driver) isSilent(route *kernel.Route, remote netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.routes.isSilent(route, remote)
}

// linkChanged tells every uplink: one that is gone looks whether the change
// is its interface come back.
func (d *Driver) linkChanged(c kernel.Change) {
	for _, u := range d.uplinks {
		u.call(func() { u.linkChanged(mono.Now(), c) })
	}
}

func (u *uplink) linkChanged(now mono.Time, c kernel.Change) {
	switch mine := c.Ifindex == u.ifindex; {
	case u.stopping:
	case mine && c.Gone:
		u.unplug(now, "it was removed")
		u.down = noUplink + "it was removed" // it may have been down before
		u.shutting = true                    // when nobody's socket is behind any more
	case mine && !c.Up && u.up:
		u.unplug(now, "it is down")
	case u.set == nil && !c.Gone && c.Up:
		u.replug(now)
	case mine && c.Up && !u.up:
		u.up = true
		u.back(now)
	}
}

const noUplink = "the uplink is gone: "

// unplug takes every connection home when the interface is gone or down. The
// device is ended: it would hold what it cannot send.
func (u *uplink) unplug(now mono.Time, why string) {
	if !u.up {
		return
	}
	u.up = false
	count := u.table.Len()
	u.lose(now, abi.UplinkGone, why)
	u.down = noUplink + why
	u.journal.Add(Event{Kind: EventUplinkGone, Device: u.name, Reason: abi.UplinkGone.String(), Detail: why, Count: count})
}

// replug takes an interface of the uplink's name that has come back, with
// another index perhaps.
func (u *uplink) replug(now mono.Time) {
	if u.proc != nil || u.unclean || u.shutting {
		return // tick tries again
	}
	if err := u.open(); err != nil {
		u.log.Debug("not back yet", "err", err)
		return
	}
	u.back(now)
}

// back has a device started at the next tick.
func (u *uplink) back(now mono.Time) {
	u.backOff, u.retryAt, u.down = 0, now, "starting"
	u.journal.Add(Event{Kind: EventUplinkBack, Device: u.name})
}

// refreshPaths looks again where the packets of the devices' connections go,
// and tells the devices what has changed. Connections that do not leave by
// their uplink any more go home, and after a change of rules those that this
// host now rewrites.
func (d *Driver) refreshPaths(rules bool) {
	for _, u := range d.uplinks {
		var conns []kept
		u.call(func() { conns = u.kept() })
		if rules {
			d.recheck(conns)
		}
		var moved []kept
		var hops nextHops
		for _, c := range conns {
			if c.why != abi.None {
				moved = append(moved, c)
				continue
			}
			route, err := d.routeTo(c.id, c.way)
			if err != nil {
				continue // no route at all: the peer is as far from the kernel
			}
			path := pathOf(&route)
			if route.Local || route.Ifindex != int(u.index.Load()) {
				c.why = abi.RouteChanged
			}
			hops.note(c.path.NextHop, &route, d.isSilent(&route, c.way.remote))
			if path.NextHop == [6]byte{} {
				path.NextHop = c.path.NextHop // the last that is known
			}
			if c.why != abi.None || path != c.path {
				c.path = path
				moved = append(moved, c)
			}
		}
		u.call(func() {
			u.stopHops(hops.dead())
			if len(moved) > 0 {
				u.repath(mono.Now(), moved)
			}
		})
	}
}

// recheck looks which connections NAT or IPsec has come to stand in the way of.
// Rules of filters see an offloaded connection's segments as ever, on the side
// of the program.
func (d *Driver) recheck(conns []kept) {
	ids := make([]flow.ID, len(conns))
	for i := range conns {
		ids[i] = conns[i].id
	}
	secured, err := kernel.XFRMs(ids)
	if err != nil {
		d.log.Error("connections not checked by IPsec's policies", "err", err)
	}
	for i := range conns {
		_, nat, err := kernel.Tracked(ids[i])
		switch {
		case secured[i]:
			conns[i].why = abi.XFRM
		case err == nil && nat:
			conns[i].why = abi.NAT
		}
	}
}

// kept is what refreshPaths looks at.
type kept struct {
	id   flow.ID
	way  way
	path handover.Path
	why  abi.Reason // to go home, None: to stay
}

func (u *uplink) kept() (all []kept) {
	u.table.Each(func(c *handover.Conn) {
		if c.Phase == handover.Owned {
			all = append(all, kept{id: c.Flow, way: wayOf(c.Flow, &c.State), path: c.Path})
		}
	})
	return all
}

// repath applies what refreshPaths found.
func (u *uplink) repath(now mono.Time, conns []kept) {
	home := make(map[abi.Reason][]flow.ID)
	for _, k := range conns {
		c := u.table.Find(k.id.Key())
		switch {
		case c == nil || c.Phase != handover.Owned:
		case k.why != abi.None:
			home[k.why] = append(home[k.why], k.id)
		default:
			c.Path = k.path
			u.describeAgain(c)
		}
	}
	for why, ids := range home {
		u.table.Upload(now, 0, ids, why)
	}
}

func (u *uplink) describeAgain(c *handover.Conn) {
	if err := u.Describe(c); err != nil {
		u.log.Error("block not written", "flow", c.Flow, "err", err)
	}
}

// sweepSome probes some of the device's connections: those that the kernel has
// no socket for any more are let go, and the blocks of the others are written
// anew, since S goes on learning (its MSS, its windows).
func (u *uplink) sweepSome(now mono.Time) {
	some := u.nextSwept(now)
	if len(some) == 0 {
		return
	}
	keys := make([]flow.Key, len(some))
	states := make([]abi.KernelState, len(some))
	for i, id := range some {
		keys[i] = id.Key()
	}
	if err := u.Probe(keys, states); err != nil {
		u.log.Error("sweep", "err", err)
		return
	}
	var gone []flow.ID
	for i := range keys {
		c := u.table.Find(keys[i])
		switch {
		case c == nil || c.Phase != handover.Owned:
		case u.refresh(c, &states[i]):
			u.measure(now, c)
		case c.Attachment == abi.AttachBypass: // the device still has what it sent; it says when that has arrived
		default:
			gone = append(gone, some[i])
		}
	}
	if err := u.table.Gone(now, gone); err != nil {
		u.lose(now, abi.DeviceDied, err.Error())
	}
}

// nextSwept is what this tick has to look at, none until the next sweep.
func (u *uplink) nextSwept(now mono.Time) []flow.ID {
	if len(u.sweep) == 0 {
		if now < u.sweepAt {
			return nil
		}
		u.sweepAt = now.Add(sweepEvery)
		for _, k := range u.kept() {
			u.sweep = append(u.sweep, k.id)
		}
	}
	some := u.sweep[:min(len(u.sweep), sweepAtOnce)]
	u.sweep = u.sweep[len(some):]
	return some
}

// refresh takes over what the kernel has of a connection now; false when it
// has no such socket any more.
func (u *uplink) refresh(c *handover.Conn, now *abi.KernelState) bool {
	was := c.State.Inode
	if now.Inode == 0 {
		now.Inode = was // its program has closed it
	}
	if now.Special&abi.SpecialMissing != 0 || !sameSocket(was, now.Inode) {
		return false
	}
	if bpf.Lent(now.CongestionControl) {
		now.CongestionControl = c.State.CongestionControl
	}
	if wayOf(c.Flow, now) != wayOf(c.Flow, &c.State) {
		select {
		case u.strayed <- struct{}{}:
		default: // it will look anyway
		}
	}
	c.State = *now
	u.describeAgain(c)
	return true
}

// sameSocket compares the inodes of two sockets with the same four-tuple. A
// socket that waits to be accepted, or that its program has closed, has none.
// (A cookie would be there always, but is 0 until somebody asks for it.)
func sameSocket(a, b uint64) bool { return a == b || a == 0 || b == 0 }

// prune forgets the histories of sockets that are gone.
func (d *Driver) prune() {
	if d.journal.remembered() == 0 {
		return
	}
	socks, err := kernel.Sockets()
	if err != nil {
		d.log.Error("histories not pruned", "err", err)
		return
	}
	alive := make(map[flow.Key]uint64, len(socks))
	for i := range socks {
		alive[socks[i].Flow.Key()] = socks[i].State.Inode
	}
	d.journal.prune(func(k flow.Key, inode uint64) bool {
		now, ok := alive[k]
		return ok && sameSocket(now, inode)
	})
}
