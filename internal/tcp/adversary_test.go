package tcp_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// A prey is an engine that somebody sends what he likes. What it sends is
// counted, and goes to nobody.
type prey struct {
	tcp.Conn
	t    testing.TB
	now  mono.Time
	pool *frame.Pool
	out  wire.Out
	last wire.Out
	seg  wire.Segment
	sent int // segments on the wire
}

func newPrey(t testing.TB, o tcp.Options, edit func(*tcb.Snapshot)) *prey {
	p := &prey{t: t, now: noon, pool: frame.NewPool(1 << 30)}
	if err := p.Restore(p.now, established(edit), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		p.pool.Recycle()
		if n := p.pool.Used(); n != 0 {
			t.Errorf("%d octets leaked", n)
		}
	})
	return p
}

// wide is a connection with a window that nothing is limited by.
func wide(s *tcb.Snapshot) { s.SndWscale, s.SndWnd = 14, 1<<28 }

// take gives the engine a segment, the next in order and without news but for
// edit, and sends what there is to send.
func (p *prey) take(edit func(*wire.Segment)) tcp.Event {
	p.seg = wire.Segment{Seq: p.RcvNxt(), Ack: p.SndUna(), Flags: wire.ACK, Window: 60000}
	edit(&p.seg)
	ev := p.Receive(p.now, &p.seg)
	p.drain()
	return ev
}

func (p *prey) drain() {
	for p.Output(p.now, &p.out) {
		p.last = p.out
		p.sent += max(1, int(p.out.Length+999)/1000)
	}
	if err := p.Promises(); err != nil {
		p.t.Fatal(err)
	}
	p.pool.Recycle()
}

// write queues n octets and sends what may go.
func (p *prey) write(n int) {
	for ; n > 0; n -= frame.Small {
		k := min(n, frame.Small)
		p.Send(frame.Span{Buf: p.pool.Get(k), Len: uint32(k)})
	}
	p.drain()
}

// pass lets d go by.
func (p *prey) pass(d time.Duration) {
	end := p.now.Add(d)
	for at := p.Deadline(); at != 0 && at <= end; at = p.Deadline() {
		p.now = max(p.now, at)
		p.Advance(p.now)
		p.drain()
	}
	p.now = end
}

// challenges is the limit of RFC 5961, section 7, here in five seconds.
const challenges = 10

// everyControl runs a test with each congestion control.
func everyControl(t *testing.T, run func(t *testing.T, o tcp.Options)) {
	for _, name := range fuzzControls {
		t.Run(name, func(t *testing.T) { run(t, tcp.Options{CC: name}) })
	}
}

// RFC 5961, sections 3 and 4: an attacker who knows the addresses and ports and
// guesses the rest, an RST or SYN in each window of the sequence space, resets
// nothing and is answered ten times in five seconds.
func TestBlindResetsAndSYNs(t *testing.T) {
	for _, flags := range []uint8{wire.RST, wire.RST | wire.ACK, wire.SYN, wire.SYN | wire.ACK} {
		for _, through := range []bool{false, true} {
			p := newPrey(t, tcp.Options{Through: through}, func(*tcb.Snapshot) {})
			for at := uint64(7); at < 1<<32; at += 60000 {
				p.take(func(s *wire.Segment) { s.Seq, s.Flags = s.Seq.Add(uint32(at)), flags })
			}
			if p.State() != tcb.Established || p.sent > challenges || p.sent == 0 {
				t.Errorf("flags %b, through %v: %v, %d answers", flags, through, p.State(), p.sent)
			}
		}
	}
}

// RFC 5961, section 5: who guessed a sequence number in the window must guess
// an acknowledgment too. Of 65536 that are evenly spread over the space the
// engine takes those in the 64 KiB before snd.nxt.
func TestBlindData(t *testing.T) {
	for _, through := range []bool{false, true} {
		p := newPrey(t, tcp.Options{Through: through}, func(*tcb.Snapshot) {})
		taken := 0
		for i := range uint32(1 << 16) {
			b := p.pool.Get(1)
			was := p.RcvNxt()
			p.take(func(s *wire.Segment) {
				s.Ack, s.Payload = s.Ack.Add(i<<16+1234), frame.Span{Buf: b, Len: 1}
			})
			b.Release()
			if p.RcvNxt() != was {
				taken++
			}
		}
		if taken > 1 || p.sent > challenges+taken {
			t.Errorf("through %v: %d forged octets taken, %d answers", through, taken, p.sent)
		}
	}
}

// Two ends that do not agree never answer each other for long.
func TestAcknowledgmentStorms(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(a, b *tcb.Snapshot)
	}{
		{"each is behind what the other has", func(a, b *tcb.Snapshot) { skip(a, 1<<20); skip(b, 1<<20) }},
		{"each is ahead of what the other has", func(a, b *tcb.Snapshot) { skip(a, 3<<30); skip(b, 3<<30) }},
		{"one is behind", func(a, b *tcb.Snapshot) { skip(a, 1<<20) }},
		{"one is ahead", func(a, b *tcb.Snapshot) { skip(a, 1<<31+5) }},
		{"timestamps of the future", func(a, b *tcb.Snapshot) { a.TSRecent += 1 << 30; b.TSRecent += 1 << 30 }},
	} {
		p := newPipe(t, 1000, tcp.Options{}, tcp.Options{})
		var a, b tcb.Snapshot
		p.a.Snapshot(p.now, &a)
		p.b.Snapshot(p.now, &b)
		tt.edit(&a, &b)
		if p.a.Restore(p.now, &a, tcp.Options{}) != nil || p.b.Restore(p.now, &b, tcp.Options{}) != nil {
			t.Fatal(tt.name)
		}
		for range 3 {
			p.a.AckNow()
			p.b.AckNow()
			if n := p.storm(); n > 2+2*challenges {
				t.Errorf("%s: %d segments", tt.name, n)
			}
			p.now = p.now.Add(5 * time.Second)
		}
	}
}

// skip moves all that s has received by n octets.
func skip(s *tcb.Snapshot, n uint32) {
	s.RcvNxt, s.RcvAcked, s.RcvEdge = s.RcvNxt.Add(n), s.RcvAcked.Add(n), s.RcvEdge.Add(n)
}

// storm lets both ends talk until they are quiet, and counts.
func (p *pipe) storm() int {
	before := p.a.Stats().SegsOut + p.b.Stats().SegsOut
	for range 100 {
		p.pass(&p.a, &p.b)
		p.pass(&p.b, &p.a)
	}
	return int(p.a.Stats().SegsOut + p.b.Stats().SegsOut - before)
}

// Keepalives and window probes are answered, within the limit (RFC 5961, section
// 7), so that a flood of them brings no flood back.
func TestProbeFloods(t *testing.T) {
	p := newPrey(t, tcp.Options{}, func(*tcb.Snapshot) {})
	for range 10000 {
		p.take(func(s *wire.Segment) { s.Seq-- })
	}
	if p.sent != challenges {
		t.Errorf("%d answers", p.sent)
	}
}

// Savage et al., "TCP congestion control with a misbehaving receiver" (1999):
// acknowledging what was never sent gains nothing.
func TestOptimisticAcknowledgments(t *testing.T) {
	everyControl(t, func(t *testing.T, o tcp.Options) {
		p := newPrey(t, o, wide)
		p.write(100000)
		sent, window, una := p.sent, p.Cwnd(), p.SndUna()
		for i := range uint32(31) {
			if ev := p.take(func(s *wire.Segment) { s.Ack = p.SndNxt().Add(1 << i) }); i < 31 && ev&tcp.OutOfStep == 0 {
				t.Errorf("events %b", ev)
			}
		}
		if p.Cwnd() != window || p.SndUna() != una || p.sent > sent+challenges {
			t.Errorf("window %d became %d, %d sent", window, p.Cwnd(), p.sent-sent)
		}
	})
}

// The same: an acknowledgment for each octet opens the window by no more than
// the octets acknowledged.
func TestAcknowledgmentDivision(t *testing.T) {
	everyControl(t, func(t *testing.T, o tcp.Options) {
		p := newPrey(t, o, wide)
		p.write(1 << 20)
		window := p.Cwnd()
		for i := range uint32(10000) {
			p.take(func(s *wire.Segment) { s.Ack++ })
			if p.Cwnd() > window+i+1 {
				t.Fatalf("window %d after %d octets, it was %d", p.Cwnd(), i+1, window)
			}
			p.pass(100 * time.Microsecond)
		}
	})
}

// The same: duplicate acknowledgments open no window. Each lets out what a real
// one stands for, a segment, as long as the peer's own window has room. BBR,
// which goes by what is delivered, without SACK counts that segment, too, and
// lets out two.
func TestSpoofedDuplicates(t *testing.T) {
	for _, sack := range []bool{false, true} {
		everyControl(t, func(t *testing.T, o tcp.Options) {
			p := newPrey(t, o, func(s *tcb.Snapshot) { wide(s); s.SACK = sack })
			p.write(1 << 20)
			window, flight := p.Cwnd(), p.SndNxt().Sub(p.SndUna())
			for i := range uint32(2000) {
				p.take(func(s *wire.Segment) { s.Window = 1 << 13 })
				if o.CC == "bbr" && !sack {
					window, flight = window+1000, flight+1000
				}
				if p.Cwnd() > window || p.SndNxt().Sub(p.SndUna()) > flight+(i+1)*1000 {
					t.Fatalf("sack %v: after %d the window is %d, it was %d; %d octets in flight", sack, i+1, p.Cwnd(), window, p.SndNxt().Sub(p.SndUna()))
				}
			}
		})
	}
}

// Reports of octets received twice (RFC 2883) take a reduction back, but never
// beyond the window before it, and widen the reordering window (RFC 8985, section
// 6.2) to a round trip at most.
func TestSpoofedDSACKs(t *testing.T) {
	everyControl(t, func(t *testing.T, o tcp.Options) {
		p := newPrey(t, o, func(s *tcb.Snapshot) { wide(s); s.SRTT, s.MinRTT = 50*time.Millisecond, 40*time.Millisecond })
		window := uint64(p.Cwnd())
		for range 300 {
			p.write(50000)
			una, nxt := p.SndUna(), p.SndNxt()
			p.pass(40 * time.Millisecond)
			p.take(func(s *wire.Segment) { // as if the first segment was lost
				s.NSACK, s.SACK[0] = 1, seqnum.Range{Lo: una.Add(1000), Hi: nxt}
			})
			for at := una; at != nxt && nxt.Sub(at) >= 1000; at = at.Add(1000) {
				p.take(func(s *wire.Segment) {
					s.Ack, s.NSACK, s.SACK[0] = nxt, 1, seqnum.Range{Lo: at, Hi: at.Add(1000)}
				})
			}
			window += uint64(nxt.Sub(una))
			if uint64(p.Cwnd()) > window {
				t.Fatalf("window %d, acknowledged and had %d", p.Cwnd(), window)
			}
			if wnd, srtt := p.ReoWnd(); wnd > srtt {
				t.Fatalf("reordering window %v, round trip %v", wnd, srtt)
			}
		}
		if p.Stats().DSACKs == 0 {
			t.Error("no report was seen")
		}
	})
}

// An undo restores the window and nothing more, however often it is asked for.
func TestUndoGainsNothing(t *testing.T) {
	p := newPrey(t, tcp.Options{CC: "reno"}, func(s *tcb.Snapshot) { wide(s); s.Cwnd, s.Ssthresh = 40, 20; s.SRTT = 50 * time.Millisecond })
	p.write(1 << 20)
	window := p.Cwnd()
	una := p.SndUna()
	p.take(func(s *wire.Segment) { s.NSACK, s.SACK[0] = 1, seqnum.Range{Lo: una.Add(1000), Hi: una.Add(9000)} })
	if p.Stats().FastRecoveries != 1 {
		t.Fatal("no recovery")
	}
	for range 1000 {
		p.take(func(s *wire.Segment) {
			s.NSACK, s.SACK[0] = 2, seqnum.Range{Lo: una - 1000, Hi: una}
			s.SACK[1] = seqnum.Range{Lo: una.Add(1000), Hi: una.Add(9000)}
		})
		if p.Cwnd() > window {
			t.Fatalf("window %d, it was %d", p.Cwnd(), window)
		}
	}
}

// RFC 3168, section 6.1.2: "TCP should not react to congestion indications more
// than once every window of data": a flood of ECE halves the window once, and
// once more for each window that is acknowledged, down to a segment.
func TestECEFlood(t *testing.T) {
	everyControl(t, func(t *testing.T, o tcp.Options) {
		p := newPrey(t, o, func(s *tcb.Snapshot) { wide(s); s.ECN, s.Cwnd, s.Ssthresh = true, 100, 50 })
		p.write(1 << 20)
		window := p.Cwnd()
		for range 5000 {
			p.take(func(s *wire.Segment) { s.Flags |= wire.ECE })
		}
		if p.Cwnd() < window*2/5 || p.sent > 101 {
			t.Errorf("window %d became %d, %d segments sent", window, p.Cwnd(), p.sent)
		}
		for range 200 {
			p.pass(10 * time.Millisecond)
			p.take(func(s *wire.Segment) { s.Flags |= wire.ECE; s.Ack = p.SndNxt() })
		}
		if p.Cwnd() < 1000 || p.SndUna() == p.SndNxt() && p.SndEnd() != p.SndUna() {
			t.Errorf("window %d, nothing is sent any more", p.Cwnd())
		}
	})
}

// RFC 9293, section 3.8.6.2.1: a window that is always tiny, and acknowledged at
// once, is filled no faster than the persist timer allows.
func TestTinyWindows(t *testing.T) {
	for _, window := range []uint16{0, 1, 7, 499} {
		p := newPrey(t, tcp.Options{}, func(*tcb.Snapshot) {})
		p.take(func(s *wire.Segment) { s.Window = 0 })
		p.write(100000)
		const d = time.Minute
		for range d / (10 * time.Millisecond) {
			p.pass(10 * time.Millisecond)
			p.take(func(s *wire.Segment) { s.Window, s.Ack = window, p.SndNxt() })
		}
		if limit := int(d / (200 * time.Millisecond)); p.sent > limit {
			t.Errorf("window %d: %d segments in %v, the limit is %d", window, p.sent, d, limit)
		}
	}
}

// A window that goes to and fro between nothing and an octet makes no segment
// leave beside the persist timer's.
func TestFlappingWindows(t *testing.T) {
	p := newPrey(t, tcp.Options{}, func(*tcb.Snapshot) {})
	p.take(func(s *wire.Segment) { s.Window = 0 })
	p.write(100000)
	const d = 10 * time.Second
	for i := range d / time.Millisecond {
		p.pass(time.Millisecond)
		p.take(func(s *wire.Segment) { s.Window = uint16(i & 1) })
	}
	if limit := int(d / (200 * time.Millisecond)); p.sent > limit {
		t.Errorf("%d segments in %v, the limit is %d", p.sent, d, limit)
	}
}

// scoreboardLimit is what a scoreboard of 2048 flights of 48 octets is, beside
// the send queue.
const scoreboardLimit = 2048 * 48

// Blocks of single octets at random, blocks over everything, blocks that come
// and go (reneging): the scoreboard's memory has its limit, nothing is
// allocated once it is reached, and an honest acknowledgment ends it all.
func TestScoreboardAttacks(t *testing.T) {
	for _, mss := range []uint32{8, 88, 1000} {
		everyControl(t, func(t *testing.T, o tcp.Options) {
			p := newPrey(t, o, func(s *tcb.Snapshot) { wide(s); s.MSS, s.Cwnd = mss, 500000/mss })
			b := p.pool.Get(frame.Large)
			for range 8 {
				b.Retain()
				p.Send(frame.Span{Buf: b, Len: 60000})
			}
			b.Release()
			r := rand.New(rand.NewPCG(uint64(mss), 1))
			for i := range 4000 {
				p.now = p.now.Add(time.Duration(r.IntN(1000)) * time.Microsecond)
				p.Advance(p.now)
				p.take(func(s *wire.Segment) { hostile(r, s, p.SndUna(), p.SndNxt(), i) })
			}
			if n := p.Scoreboard(); n > scoreboardLimit {
				t.Errorf("segments of %d: %d octets of scoreboard, the limit is %d", mss, n, scoreboardLimit)
			}
			if n := testing.AllocsPerRun(200, func() {
				p.take(func(s *wire.Segment) { hostile(r, s, p.SndUna(), p.SndNxt(), 0) })
			}); n != 0 {
				t.Errorf("segments of %d: %v allocations for an acknowledgment", mss, n)
			}
			for p.SndUna() != p.SndEnd() {
				p.pass(time.Second)
				p.take(func(s *wire.Segment) { s.Ack = p.SndNxt() })
			}
		})
	}
}

// hostile makes s an acknowledgment with four blocks, single octets most of the
// time, all that is in flight sometimes.
func hostile(r *rand.Rand, s *wire.Segment, una, nxt seqnum.Value, i int) {
	s.NSACK, s.Window = len(s.SACK), 1<<13
	flight := max(nxt.Sub(una), 1)
	for k := range s.SACK {
		lo := una.Add(r.Uint32N(flight))
		s.SACK[k] = seqnum.Range{Lo: lo, Hi: lo.Add(1)}
	}
	switch i % 500 {
	case 250:
		s.SACK[0] = seqnum.Range{Lo: una.Add(2), Hi: nxt}
	case 499:
		s.Ack = una.Add(r.Uint32N(min(flight, 3000)))
	}
}

// Timestamps echoed that were never sent, or were long ago: the round-trip time
// is never more than what was measured by octets, nor the timeout out of its
// limits.
func TestForgedTimestamps(t *testing.T) {
	p := newPrey(t, tcp.Options{}, func(s *tcb.Snapshot) { wide(s); s.Timestamps = true })
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 3000 {
		p.write(1000)
		wait := time.Duration(1+r.IntN(100)) * time.Millisecond
		p.pass(wait)
		p.take(func(s *wire.Segment) {
			s.Ack, s.TSOK, s.TSVal, s.TSEcr = p.SndNxt(), true, uint32(i), r.Uint32()>>r.IntN(32)
			if i%2 == 0 {
				s.TSEcr = p.last.TSVal + uint32(r.IntN(5000)) - 2500
			}
		})
		var m tcp.Metrics
		p.Metrics(&m)
		if m.SRTT > 130000 || m.RTO < 200000 || m.RTO > 120000000 {
			t.Fatalf("round-trip time %d us, timeout %d us", m.SRTT, m.RTO)
		}
	}
}

// Where only timestamps measure, after retransmissions (Karn), a forged one
// lengthens the timeout to its limit at most.
func TestForgedTimestampsAfterTimeouts(t *testing.T) {
	p := newPrey(t, tcp.Options{}, func(s *tcb.Snapshot) { wide(s); s.Timestamps = true })
	for i := range uint32(100) {
		p.write(1000)
		p.pass(3 * time.Second)
		p.take(func(s *wire.Segment) { s.Ack, s.TSOK, s.TSVal, s.TSEcr = p.SndNxt(), true, i, p.last.TSVal-1<<30 })
		var m tcp.Metrics
		p.Metrics(&m)
		if m.RTO > 120000000 {
			t.Fatalf("timeout %d us", m.RTO)
		}
	}
	p.write(1000)
	if at := p.Deadline(); at > p.now.Add(121*time.Second) {
		t.Errorf("nothing happens for %v", at.Sub(p.now))
	}
}

// What one segment makes an engine send is one segment, or what acknowledgments
// let out: out-of-window payload brings as many acknowledgments as it has
// segments, and none is longer than 40 octets of header and 40 of options.
func TestNothingIsAmplified(t *testing.T) {
	p := newPrey(t, tcp.Options{}, func(*tcb.Snapshot) {})
	b := p.pool.Get(1000)
	defer b.Release()
	for _, off := range []uint32{1 << 20, 1 << 31, 3 << 30} {
		for range 100 {
			was := p.sent
			p.take(func(s *wire.Segment) { s.Seq, s.Payload = s.Seq.Add(off), frame.Span{Buf: b, Len: 1000} })
			if p.sent > was+1 || p.last.Length > 0 {
				t.Fatalf("%d segments, %d octets", p.sent-was, p.last.Length)
			}
		}
	}
	if p.sent == 0 {
		t.Error("no answer")
	}
}
