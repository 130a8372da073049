package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/tcb"
)

// A Keepalive is SO_KEEPALIVE with its three options. The zero value is off.
type Keepalive struct {
	Idle     time.Duration // nothing came for so long: ask (TCP_KEEPIDLE); 0: never
	Interval time.Duration // between two questions (TCP_KEEPINTVL); 0: 75 s
	Count    uint8         // unanswered questions until the connection is given up (TCP_KEEPCNT); 0: 9
}

// The rest of Linux's defaults (include/net/tcp.h).
const (
	keepInterval = 75 * time.Second
	keepCount    = 9
)

// limitState is what options of a socket wait for. Few have any.
type limitState struct {
	keep  Keepalive
	user  time.Duration // RFC 9293, section 3.9.1: user timeout; 0: never
	since mono.Time     // what is queued has waited from then on, 0: nothing waits
	heard mono.Time     // when something last came
	at    mono.Time     // when to ask, or to give up

	corkAt mono.Time // when corked octets go out all the same, 0: none wait
}

// SetKeepalive sets or ends keepalive (RFC 9293, section 3.8.4). Acknowledging
// through, it is the program's socket's, whose questions are passed on.
func (c *Conn) SetKeepalive(now mono.Time, k Keepalive) {
	if !c.through {
		c.AskIdle(now, k)
	}
}

// AskIdle is SetKeepalive of an engine that may acknowledge through, where the
// program's socket does not ask.
func (c *Conn) AskIdle(now mono.Time, k Keepalive) {
	if !c.live || k.Idle <= 0 && c.opt.limits == nil {
		return
	}
	l := c.limitState()
	l.keep, l.at, l.heard = k, 0, now
	if k.Idle <= 0 {
		return
	}
	if k.Interval <= 0 {
		l.keep.Interval = keepInterval
	}
	if k.Count == 0 {
		l.keep.Count = keepCount
	}
	l.at = now.Add(k.Idle)
}

// SetUserTimeout sets for how long what is queued may go without any of it
// being acknowledged, lost or before a closed window, until the connection is
// given up; 0: for ever (RFC 5482; TCP_USER_TIMEOUT). Acknowledging through,
// it is the program's socket's.
func (c *Conn) SetUserTimeout(d time.Duration) {
	if c.through || !c.live || d <= 0 && c.opt.limits == nil {
		return
	}
	c.limitState().user = max(d, 0)
}

func (c *Conn) limitState() *limitState {
	if c.opt.limits == nil {
		c.opt.limits = new(limitState)
	}
	return c.opt.limits
}

// deadline is the earliest of what the options wait for.
func (o *optionState) deadline() mono.Time {
	l := o.limits
	if l == nil {
		return 0
	}
	return mono.Earliest(l.corkAt, mono.Earliest(l.at, l.expiry()))
}

// expiry is when the user timeout is over, 0 for never.
func (l *limitState) expiry() mono.Time {
	if l.user == 0 || l.since == 0 {
		return 0
	}
	return l.since.Add(l.user)
}

// watch notes since when something waits to be acknowledged.
func (c *Conn) watch(now mono.Time, progress bool) {
	l := c.opt.limits
	switch {
	case l == nil:
	case !c.waiting():
		l.since = 0
	case l.since == 0 || progress:
		l.since = now
	}
}

// waiting reports whether anything is sent and not acknowledged, or not sent.
func (c *Conn) waiting() bool {
	return c.snd.flight() > 0 || c.snd.unsent() > 0 || c.snd.finDue()
}

// heard takes in that an acceptable segment came.
func (c *Conn) heard(now mono.Time, ev Event) {
	c.opt.probes = 0
	if l := c.opt.limits; l != nil {
		l.heard = now
		c.watch(now, ev&Acked != 0)
	}
}

// limits runs what the options wait for.
func (c *Conn) limits(now mono.Time) Event {
	l := c.opt.limits
	if l == nil {
		return 0
	}
	if due(l.corkAt, now) {
		l.corkAt, c.snd.override = 0, true
	}
	switch {
	case due(l.expiry(), now):
		c.forget()
		return TimedOut
	case due(l.at, now):
		return c.keepalive(now, l)
	}
	return 0
}

// keepalive asks an idle peer whether it is there, or gives up. What is in
// flight or waits for a window asks by itself (as Linux, tcp_keepalive_timer).
func (c *Conn) keepalive(now mono.Time, l *limitState) Event {
	silent := now.Sub(l.heard)
	switch {
	case c.state == tcb.TimeWait:
		l.at = 0
	case c.waiting():
		l.at = now.Add(l.keep.Idle)
	case silent < l.keep.Idle:
		l.at = l.heard.Add(l.keep.Idle)
	case c.opt.probes > 0 && l.user > 0 && silent >= l.user, l.user == 0 && c.opt.probes >= l.keep.Count:
		c.Abort()
		return TimedOut
	default:
		c.timer.probe = true
		l.at = now.Add(l.keep.Interval)
	}
	return 0
}
