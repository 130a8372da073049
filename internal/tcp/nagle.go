package tcp

import (
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

// optionState is what a program sets of a socket, for an engine that is an
// endpoint. Acknowledging through, the program's own socket has all of it.
type optionState struct {
	limits  *limitState  // of time, nil: none is set
	small   seqnum.Value // end of the last segment sent that was not full (Linux snd_sml)
	push    seqnum.Value // what is before it waits for nothing
	sndBuf  uint32       // octets, the most that SendRoom asks for
	probes  uint8        // probes in a row that nothing has come after
	noDelay bool
	cork    bool
}

// corkLimit is the longest that TCP_CORK holds octets back (tcp(7)).
const corkLimit = 200 * time.Millisecond

const defaultSndBuf = 4 << 20 // Linux tcp_wmem[2]

func (c *Conn) restoreOptions(now mono.Time, s *tcb.Snapshot, o Options) {
	c.opt = optionState{small: s.SndUna, push: s.SndUna, noDelay: o.NoDelay, sndBuf: o.SndBuf, probes: s.Probes}
	if o.SndBuf == 0 {
		c.opt.sndBuf = defaultSndBuf
	}
	c.SetKeepalive(now, o.Keepalive)
	c.SetUserTimeout(o.UserTimeout)
	c.rcv.tune(o, s.MSS, c.through)
}

// stop ends the timers.
func (o *optionState) stop() { o.limits = nil }

// SetNoDelay is TCP_NODELAY: without it a segment that is not full waits while
// another such one is not acknowledged. Set, what is queued now goes, corked or
// not (Linux __tcp_sock_set_nodelay).
func (c *Conn) SetNoDelay(on bool) {
	c.opt.noDelay = on
	if on {
		c.opt.push = c.snd.end
	}
}

// SetCork is TCP_CORK: only full segments are sent, for 200 ms at most.
func (c *Conn) SetCork(on bool) {
	c.opt.cork = on
	if on && c.live && !c.through {
		c.limitState()
	}
	if !on && c.opt.noDelay {
		c.opt.push = c.snd.end
	}
}

// whole is how many of the n octets that are all there is to send may go now.
// The part of a segment at their end waits for more to fill it (RFC 9293,
// section 3.7.4), in Minshall's variant: only while an earlier part is not
// acknowledged (Linux tcp_nagle_check, tcp_minshall_check). A FIN goes with it.
func (c *Conn) whole(n uint32) uint32 {
	s, o := &c.snd, &c.opt
	if c.through || s.finQueued || s.override || s.flushing || s.end.LessEq(o.push) {
		return n
	}
	if o.cork || !o.noDelay && s.una.Less(o.small) {
		return n - n%s.mss
	}
	return n
}

// sentData takes in that new data, or a FIN, goes out.
func (c *Conn) sentData(now mono.Time, out *wire.Out) {
	if out.Length == 0 {
		return
	}
	c.rcv.delack.answered(now)
	if c.through {
		return
	}
	if l := c.opt.limits; l != nil {
		l.corkAt = 0
	}
	if end := out.Seq.Add(out.Length); end == c.snd.end && out.Length%c.snd.mss != 0 {
		c.opt.small = end
	}
}

// corked reports whether nothing but TCP_CORK keeps what is queued.
func (c *Conn) corked() bool {
	n := c.snd.unsent()
	return c.opt.cork && c.opt.limits != nil && n > 0 && n < c.snd.mss && n <= distance(c.snd.nxt, c.snd.edge) && c.whole(n) == 0
}

// settled is called when nothing can be sent.
func (c *Conn) settled(now mono.Time) {
	c.drained(now)
	c.watch(now, false)
	if c.through || !c.corked() {
		c.blocked(now)
		return
	}
	if l := c.opt.limits; l.corkAt == 0 {
		l.corkAt = now.Add(corkLimit)
	}
}

// SendRoom is how many octets more a caller should queue: what is queued then
// is twice what the congestion window lets out, so that the acknowledgments of
// one half find the other waiting (Linux tcp_sndbuf_expand), within
// Options.SndBuf. 0: none for now.
func (c *Conn) SendRoom() uint32 {
	want := c.opt.sndBuf
	if c.cc.algorithm != nil {
		want = min(want, 2*max(c.cc.cwnd, initialWindow*c.snd.mss))
	}
	return want - min(want, c.snd.held())
}
