package tcp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"toehold/internal/mono"
	"toehold/internal/seqnum"
)

// A cell is all that is known of one octet in flight.
type cell struct {
	at                          mono.Time
	sacked, lost, resent, again bool
}

// A plainBoard is the scoreboard as RFC 6675 and RFC 8985 would have it if memory
// and time were for nothing: one cell for each octet.
type plainBoard struct {
	una   seqnum.Value
	cells []cell
	rack  mono.Time    // RACK.xmit_ts
	end   seqnum.Value // RACK.end_seq
	rtt   time.Duration
	fresh bool // something newer was delivered
}

func (p *plainBoard) each(lo, hi seqnum.Value, do func(seqnum.Value, *cell)) {
	for v := lo; v != hi; v++ {
		do(v, &p.cells[v.Sub(p.una)])
	}
}

func (p *plainBoard) deliver(now mono.Time, lo, hi seqnum.Value) {
	p.each(lo, hi, func(v seqnum.Value, x *cell) {
		if x.sacked {
			return
		}
		if p.rack < x.at || p.rack == x.at && p.end.Less(v+1) {
			p.rack, p.end = x.at, v+1
		}
		p.rtt, p.fresh = now.Sub(x.at), true
		x.sacked, x.lost, x.resent = true, false, false
	})
}

func (p *plainBoard) acknowledge(now mono.Time, ack seqnum.Value) {
	p.deliver(now, p.una, ack)
	p.cells, p.una = p.cells[ack.Sub(p.una):], ack
}

func (p *plainBoard) detect(now mono.Time) {
	if !p.fresh {
		return
	}
	p.fresh = false
	for i := range p.cells {
		x := &p.cells[i]
		before := x.at < p.rack || x.at == p.rack && p.una.Add(uint32(i)).Less(p.end)
		if before && !x.sacked && !(x.lost && !x.resent) && x.at.Add(p.rtt) <= now {
			x.lost, x.resent = true, false
		}
	}
}

func (p *plainBoard) missing() (r seqnum.Range) {
	for i, x := range p.cells {
		v := p.una.Add(uint32(i))
		switch missing := x.lost && !x.resent; {
		case missing && r.Empty():
			r = seqnum.Range{Lo: v, Hi: v + 1}
		case missing:
			r.Hi = v + 1
		case !r.Empty():
			return r
		}
	}
	return r
}

func (p *plainBoard) pipe() (n uint32) {
	for _, x := range p.cells {
		if !x.sacked && (!x.lost || x.resent) {
			n++
		}
	}
	return n
}

// boards are the clever scoreboard and the plain one.
type boards struct {
	Conn
	plain plainBoard
	rng   *rand.Rand
	now   mono.Time
	said  string // what was done last
}

func newBoards(seed uint64) *boards {
	b := &boards{rng: rand.New(rand.NewPCG(seed, 1)), now: noon}
	b.live, b.rcv.sack, b.snd.mss, b.loss.phase = true, true, 100, recovery
	b.snd.una = seqnum.Value(0) - seqnum.Value(b.rng.IntN(20000))
	b.snd.nxt, b.snd.end, b.plain.una = b.snd.una, b.snd.una, b.snd.una
	b.loss.reset(b.snd.una)
	return b
}

// stretch is a part of what is in flight.
func (b *boards) stretch() (lo, hi seqnum.Value) {
	n := b.snd.flight()
	lo = b.snd.una.Add(b.rng.Uint32N(n))
	return lo, seqnum.Min(lo.Add(1+b.rng.Uint32N(300)), b.snd.nxt)
}

// step does one thing to both.
func (b *boards) step() {
	b.now = b.now.Add(time.Duration(1+b.rng.IntN(1000)) * time.Microsecond)
	if b.snd.flight() == 0 || b.snd.flight() < 4000 && b.rng.IntN(3) == 0 {
		b.send()
		return
	}
	lo, hi := b.stretch()
	d := delivery{sample: sample{now: b.now}}
	switch b.rng.IntN(6) {
	case 0:
		b.said = fmt.Sprintf("ack %d", lo)
		b.plain.acknowledge(b.now, lo)
		b.advanceUna(b.now, lo, &d)
	case 1, 2:
		if lo == b.snd.una {
			return
		}
		b.said = fmt.Sprintf("sack %d-%d", lo, hi)
		b.plain.deliver(b.now, lo, hi)
		b.pick(&d, seqnum.Range{Lo: lo, Hi: hi})
	case 3:
		b.said = "detect"
		b.plain.detect(b.now)
		b.detectLoss(b.now)
	case 4:
		if b.rng.IntN(4) == 0 {
			b.probe(lo, hi)
			return
		}
		b.repair()
	case 5:
		if b.rng.IntN(20) == 0 {
			b.timeoutOrRenege()
		}
	}
}

func (b *boards) send() {
	n := 1 + b.rng.Uint32N(500)
	b.said = fmt.Sprintf("send %d", n)
	for range n {
		b.plain.cells = append(b.plain.cells, cell{at: b.now})
	}
	b.loss.push(flight{lo: b.snd.nxt, hi: b.snd.nxt.Add(n), at: b.now})
	b.snd.nxt = b.snd.nxt.Add(n)
	b.snd.end = b.snd.nxt
}

// repair sends some of what is missing again.
func (b *boards) repair() {
	r := b.nextMissing()
	if r.Empty() {
		return
	}
	r.Hi = seqnum.Min(r.Hi, r.Lo.Add(1+b.rng.Uint32N(300)))
	b.said = fmt.Sprintf("send %d-%d again", r.Lo, r.Hi)
	b.plain.each(r.Lo, r.Hi, func(_ seqnum.Value, x *cell) { x.at, x.resent, x.again = b.now, true, true })
	b.sentAgain(b.now, r.Lo, r.Hi)
}

// probe sends whatever is there again, as a tail loss probe does.
func (b *boards) probe(lo, hi seqnum.Value) {
	b.said = fmt.Sprintf("probe with %d-%d", lo, hi)
	b.plain.each(lo, hi, func(_ seqnum.Value, x *cell) {
		if !x.sacked {
			x.at, x.resent, x.again = b.now, x.lost, true
		}
	})
	b.sentAgain(b.now, lo, hi)
}

func (b *boards) timeoutOrRenege() {
	renege := b.rng.IntN(2) == 0
	b.said = fmt.Sprintf("timeout, reneging %v", renege)
	if renege {
		b.renege()
	}
	b.rcv.sack = false // all, not only what was sent long ago
	b.loseAll(b.now)
	b.rcv.sack = true
	for i := range b.plain.cells {
		x := &b.plain.cells[i]
		if !x.sacked || renege {
			x.sacked, x.lost, x.resent = false, true, false
		}
	}
}

// differ tells where the two boards differ.
func (b *boards) differ() error {
	l := &b.loss
	if err := errors.Join(b.keepsScoreboard(), b.keepsRepair()); err != nil {
		return err
	}
	for i := l.head; i != l.tail; i++ {
		f := l.at(i)
		for v := f.lo; v != f.hi; v++ {
			x := b.plain.cells[v.Sub(b.plain.una)]
			sent := !x.sacked && (!x.lost || x.resent)
			if f.is(sacked) != x.sacked || f.is(lost) != x.lost || f.is(resent) != x.resent || sent && (f.is(again) != x.again || f.at != x.at) {
				return fmt.Errorf("octet %d is in a flight %+v and is %+v", v, *f, x)
			}
		}
	}
	if got, want := b.pipe(), b.plain.pipe(); got != want {
		return fmt.Errorf("pipe %d, plainly %d", got, want)
	}
	if got, want := b.nextMissing(), b.plain.missing(); got != want {
		return fmt.Errorf("missing %v, plainly %v", got, want)
	}
	return nil
}

// TestScoreboardIsThePlainOne: whatever is sent, acknowledged, SACKed, lost and
// sent again, the scoreboard of flights knows of each octet what one with a cell
// for each octet knows.
func TestScoreboardIsThePlainOne(t *testing.T) {
	for seed := range uint64(300) {
		b := newBoards(seed)
		for n := range 400 {
			b.step()
			if err := b.differ(); err != nil {
				t.Fatalf("seed %d, step %d, %s: %v", seed, n, b.said, err)
			}
		}
	}
}
