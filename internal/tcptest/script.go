package tcptest

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// A Script drives one engine by commands and tells all that it does. Sequence
// numbers in commands and answers count from the connection's first octet of
// that direction; the window is in octets.
type Script struct {
	c     tcp.Conn
	now   mono.Time
	start mono.Time
	pool  *frame.Pool
	opts  tcp.Options
	snap  tcb.Snapshot
	out   wire.Out
	said  strings.Builder
}

// The sequence spaces wrap soon after the start.
const (
	sndBase seqnum.Value = 0xfffff000
	rcvBase seqnum.Value = 0xffffe000
)

// Args are a command's arguments: key, or key=value.
type Args map[string]string

// NewScript returns a script at time 0 without a connection.
func NewScript() *Script {
	return &Script{now: mono.Time(time.Hour), start: mono.Time(time.Hour), pool: frame.NewPool(64 << 20)}
}

// Do runs a command and returns what happened, a line for each event and
// segment.
func (s *Script) Do(cmd string, args Args) (string, error) {
	s.said.Reset()
	run, ok := commands[cmd]
	if !ok {
		return "", fmt.Errorf("command %q is not known", cmd)
	}
	if err := run(s, args); err != nil {
		return "", err
	}
	s.drain()
	s.pool.Recycle()
	if s.said.Len() == 0 {
		return "nothing\n", nil
	}
	return s.said.String(), nil
}

var commands = map[string]func(*Script, Args) error{
	"conn":   (*Script).conn,
	"recv":   (*Script).recv,
	"send":   (*Script).send,
	"read":   (*Script).read,
	"permit": (*Script).permit,
	"wait":   (*Script).wait,
	"move":   (*Script).move,
	"show":   (*Script).show,
	"stamp": func(s *Script, a Args) error {
		s.c.SetTimestamp(uint32(a.num("val")), uint32(a.num("ecr")))
		return nil
	},
	"mss":     func(s *Script, a Args) error { s.c.SetMSS(uint32(a.num("size"))); return nil },
	"too-big": func(s *Script, a Args) error { s.c.PacketTooBig(s.now, uint32(a.num("size"))); return nil },
	"close":   func(s *Script, a Args) error { s.c.CloseSend(); return nil },
	"ack-now": func(s *Script, a Args) error { s.c.AckNow(); return nil },
	"probe":   func(s *Script, a Args) error { s.c.Probe(); return nil },
	"set":     (*Script).set,
	"room":    func(s *Script, a Args) error { s.sayf("room: %d", s.c.SendRoom()); return nil },
	"abort":   func(s *Script, a Args) error { s.c.Abort(); return nil },
	"flush":   func(s *Script, a Args) error { s.c.FlushAll(); return nil },
}

func (a Args) has(key string) bool { _, ok := a[key]; return ok }

// num is a number, 0 when it is missing.
func (a Args) num(key string) int64 {
	n, _ := strconv.ParseInt(a[key], 0, 64)
	return n
}

func (a Args) or(key string, other int64) int64 {
	if a.has(key) {
		return a.num(key)
	}
	return other
}

func (s *Script) sayf(format string, args ...any) { fmt.Fprintf(&s.said, format+"\n", args...) }

// conn restores a connection: mss=1000 win=64000 (the peer's) rcvwin=64000 (ours)
// sack ts through told none|reno|cubic cwnd=10 ssthresh srtt rcvbuf
// rcvbufmax sndbuf nagle (without: TCP_NODELAY) ecn echo-ce cwr-due
// probing (for the path's MTU) maxooo shift (of both windows) flight=n (octets sent, not acknowledged)
// unsent=n acked=n (octets not yet permitted) fin (sent) peerfin.
func (s *Script) conn(a Args) error {
	s.c.Close()
	s.opts = tcp.Options{Through: a.has("through"), TSTold: a.has("told"), CC: a["cc"], MTUProbing: a.has("probing"), RcvBuf: uint32(a.num("rcvbuf")), MaxOOO: uint32(a.num("maxooo")),
		RcvBufMax: uint32(a.num("rcvbufmax")), SndBuf: uint32(a.num("sndbuf")), NoDelay: !a.has("nagle")}
	s.snap = tcb.Snapshot{
		State: tcb.Established, SndUna: sndBase, SndNxt: sndBase, SndWnd: uint32(a.or("win", 64000)),
		SndWL1: rcvBase, SndWL2: sndBase, RcvNxt: rcvBase, RcvAcked: rcvBase - seqnum.Value(a.num("acked")),
		MSS: uint32(a.or("mss", 1000)), SACK: a.has("sack"), Timestamps: a.has("ts"),
		TSRecent: 100, TSOffset: -uint32(s.now.Milliseconds()),
		SRTT: time.Duration(a.num("srtt")) * time.Millisecond, RTTVar: time.Duration(a.num("srtt")) * time.Millisecond / 4,
		Cwnd: uint32(a.num("cwnd")), Ssthresh: uint32(a.num("ssthresh")),
		SndWscale: uint8(a.num("shift")), RcvWscale: uint8(a.num("shift")),
	}
	s.snap.ECN, s.snap.EchoCE, s.snap.CWRDue = a.has("ecn"), a.has("echo-ce"), a.has("cwr-due")
	s.snap.RcvEdge = s.snap.RcvAcked.Add(uint32(a.or("rcvwin", 64000)))
	s.snap.Unacked = s.spans(a.num("flight"))
	s.snap.Unsent = s.spans(a.num("unsent"))
	s.snap.SndNxt = s.snap.SndNxt.Add(uint32(a.num("flight")))
	if a.has("fin") {
		s.snap.FINSent, s.snap.SndNxt = true, s.snap.SndNxt+1
	}
	s.snap.PeerFIN = a.has("peerfin")
	s.snap.State = tcb.StateOf(s.snap.PeerFIN, s.snap.FINSent, false)
	return s.c.Restore(s.now, &s.snap, s.opts)
}

func (s *Script) spans(n int64) []frame.Span {
	if n == 0 {
		return nil
	}
	return []frame.Span{s.span(n)}
}

func (s *Script) span(n int64) frame.Span {
	return frame.Span{Buf: s.pool.Get(int(n)), Len: uint32(n)}
}

var flagNames = []struct {
	bit  uint8
	name string
}{{wire.SYN, "syn"}, {wire.FIN, "fin"}, {wire.RST, "rst"}, {wire.PSH, "psh"}, {wire.URG, "urg"}, {wire.ECE, "ece"}, {wire.CWR, "cwr"}}

// codepoints by number (RFC 3168, section 5); that of a segment that is not
// ECN-capable is not named.
var codepoints = [...]string{"", "ect1", "ect0", "ce"}

// recv takes in a segment: seq= (default rcv.nxt) len= ack= (default snd.una)
// win= (default 64000) tsval= tsecr= sack=1-2,3-4 fin rst syn urg ece cwr noack size= ect0 ect1 ce;
// times=n: so often.
func (s *Script) recv(a Args) error {
	for n := a.or("times", 1); n > 1; n-- {
		if err := s.recvOne(a); err != nil {
			return err
		}
		s.drain()
	}
	return s.recvOne(a)
}

func (s *Script) recvOne(a Args) error {
	seg := wire.Segment{
		Seq:    s.value(a, "seq", rcvBase, s.c.RcvNxt()),
		Ack:    s.value(a, "ack", sndBase, s.c.SndUna()),
		Window: uint16(a.or("win", 64000) >> s.snap.SndWscale), Size: uint16(a.num("size")),
		TSOK: a.has("tsval"), TSVal: uint32(a.num("tsval")), TSEcr: uint32(a.num("tsecr")),
		Flags: wire.ACK,
	}
	for i, name := range codepoints {
		if a.has(name) {
			seg.ECN = uint8(i)
		}
	}
	if a.has("noack") {
		seg.Flags = 0
	}
	for _, f := range flagNames {
		if a.has(f.name) {
			seg.Flags |= f.bit
		}
	}
	if err := sackArg(&seg, a["sack"]); err != nil {
		return err
	}
	if n := a.num("len"); n > 0 {
		seg.Payload = s.span(n)
		defer seg.Payload.Buf.Release()
	}
	s.events(s.c.Receive(s.now, &seg))
	return nil
}

func (s *Script) value(a Args, key string, base, other seqnum.Value) seqnum.Value {
	if a.has(key) {
		return base + seqnum.Value(a.num(key))
	}
	return other
}

func sackArg(seg *wire.Segment, list string) error {
	if list == "" {
		return nil
	}
	for _, block := range strings.Split(list, ",") {
		var lo, hi int32
		if _, err := fmt.Sscanf(block, "%d-%d", &lo, &hi); err != nil || seg.NSACK == len(seg.SACK) {
			return fmt.Errorf("SACK block %q: %v", block, err)
		}
		seg.SACK[seg.NSACK] = seqnum.Range{Lo: sndBase + seqnum.Value(lo), Hi: sndBase + seqnum.Value(hi)}
		seg.NSACK++
	}
	return nil
}

var eventNames = []struct {
	bit  tcp.Event
	name string
}{
	{tcp.Readable, "readable"}, {tcp.Acked, "acked"}, {tcp.WindowMoved, "window"}, {tcp.PeerFIN, "peer-fin"},
	{tcp.Reset, "reset"}, {tcp.Urgent, "urgent"}, {tcp.OutOfStep, "out-of-step"}, {tcp.Probed, "probed"},
	{tcp.Dropped, "dropped"}, {tcp.DupData, "duplicate"}, {tcp.TimedOut, "timed-out"},
	{tcp.Marked, "marked"}, {tcp.Reduced, "reduced"},
}

func (s *Script) events(ev tcp.Event) {
	var names []string
	for _, e := range eventNames {
		if ev&e.bit != 0 {
			names = append(names, e.name)
		}
	}
	if len(names) > 0 {
		s.sayf("event: %s", strings.Join(names, " "))
	}
}

// send queues n=octets, by= so many spans.
func (s *Script) send(a Args) error {
	for n, by := a.num("n"), a.or("by", a.num("n")); n > 0; n -= by {
		s.c.Send(s.span(min(n, by)))
	}
	return nil
}

// read takes what Next has.
func (s *Script) read(a Args) error {
	var p frame.Span
	n := uint32(0)
	for s.c.Next(&p) {
		n += p.Len
		p.Buf.Release()
	}
	s.sayf("read: %d", n)
	return nil
}

// permit permits ack= and win= after it.
func (s *Script) permit(a Args) error {
	ack := rcvBase + seqnum.Value(a.num("ack"))
	s.c.Permit(ack, ack.Add(uint32(a.or("win", 64000))))
	return nil
}

// set changes a socket option: nodelay= cork= quickack= on or off, keepalive
// idle= interval= (ms) count= (idle=0: off), user-timeout= (ms).
func (s *Script) set(a Args) error {
	switch {
	case a.has("nodelay"):
		s.c.SetNoDelay(a["nodelay"] == "on")
	case a.has("cork"):
		s.c.SetCork(a["cork"] == "on")
	case a.has("quickack"):
		s.c.SetQuickAck(a["quickack"] == "on")
	case a.has("keepalive"):
		s.c.SetKeepalive(s.now, tcp.Keepalive{Idle: a.ms("idle"), Interval: a.ms("interval"), Count: uint8(a.num("count"))})
	case a.has("user-timeout"):
		s.c.SetUserTimeout(a.ms("user-timeout"))
	}
	return nil
}

func (a Args) ms(key string) time.Duration { return time.Duration(a.num(key)) * time.Millisecond }

// wait lets ms= pass, deadline by deadline.
func (s *Script) wait(a Args) error {
	end := s.now.Add(time.Duration(a.num("ms")) * time.Millisecond)
	for d := s.c.Deadline(); d != 0 && d <= end; d = s.c.Deadline() {
		s.now = max(s.now, d)
		s.events(s.c.Advance(s.now))
		s.drain()
	}
	s.now = end
	return nil
}

// move takes a snapshot and goes on from it.
func (s *Script) move(a Args) error {
	b := Box{Conn: s.c, world: &World{Now: s.now}}
	err := b.Move(s.opts)
	s.c = b.Conn
	return err
}

// show tells the state; stats: what the sender did about losses so far.
func (s *Script) show(a Args) error {
	if a.has("stats") {
		t := s.c.Stats()
		s.sayf("again=%d recoveries=%d probes=%d timeouts=%d dsacks=%d undone=%d", t.Retransmits, t.FastRecoveries, t.TailProbes, t.RTOs, t.DSACKs, t.Undos)
		return nil
	}
	var m tcp.Metrics
	s.c.Metrics(&m)
	s.sayf("%v una=%d nxt=%d end=%d edge=%d rcv=%d acked=%d cwnd=%d ssthresh=%d recovery=%d rto=%v held=%d/%d", m.State,
		snd(s.c.SndUna()), snd(s.c.SndNxt()), snd(s.c.SndEnd()), snd(s.c.SndEdge()), rcv(s.c.RcvNxt()), rcv(s.c.RcvAcked()),
		m.Cwnd, m.Ssthresh, m.Recovery, time.Duration(m.RTO)*time.Microsecond, m.HeldOut, m.HeldIn)
	return nil
}

func snd(v seqnum.Value) int32 { return int32(v - sndBase) }
func rcv(v seqnum.Value) int32 { return int32(v - rcvBase) }

func (s *Script) drain() {
	for s.c.Output(s.now, &s.out) {
		s.segment(&s.out)
	}
}

// segment tells of a segment sent.
func (s *Script) segment(o *wire.Out) {
	fmt.Fprintf(&s.said, "%v: seq=%d", s.now.Sub(s.start), snd(o.Seq))
	if o.Length > 0 {
		fmt.Fprintf(&s.said, " len=%d", o.Length)
	}
	if o.Size > 0 {
		fmt.Fprintf(&s.said, " size=%d", o.Size)
	}
	if o.NPieces > 1 {
		fmt.Fprintf(&s.said, " pieces=%d", o.NPieces)
	}
	for _, f := range flagNames {
		if o.Flags&f.bit != 0 {
			s.said.WriteString(" " + f.name)
		}
	}
	if o.ECN != 0 {
		s.said.WriteString(" " + codepoints[o.ECN])
	}
	fmt.Fprintf(&s.said, " ack=%d win=%d", rcv(o.Ack), uint32(o.Window)<<s.snap.RcvWscale)
	if o.TSOK {
		fmt.Fprintf(&s.said, " ts=%d,%d", o.TSVal, o.TSEcr)
	}
	for i, b := range o.SACK[:o.NSACK] {
		fmt.Fprintf(&s.said, "%s%d-%d", [2]string{" sack=", ","}[min(i, 1)], rcv(b.Lo), rcv(b.Hi))
	}
	s.said.WriteString("\n")
}
