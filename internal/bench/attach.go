package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// attachBatch is how many connections are moved at once by each attachment.
const attachBatch = 100

// attach measures bulk and moves by each attachment.
func (b *bench) attach(ctx context.Context) error {
	a := &Attach{}
	b.report.Attach = a
	for _, d := range directions {
		b.progress("bulk by attachment, one connection, the program's direction: %s", d.name)
		row, err := b.attachedBulk(ctx, d.name, d.ask)
		if err != nil {
			return fmt.Errorf("bulk, %s: %w", d.name, err)
		}
		a.Bulk = append(a.Bulk, row)
	}
	for _, l := range moveLoads {
		b.progress("moves by attachment: %s", l.name)
		row, err := b.attachedMoves(ctx, l)
		if err != nil {
			return fmt.Errorf("moves, %s: %w", l.name, err)
		}
		a.Moves = append(a.Moves, row)
	}
	return nil
}

func (b *bench) attachedBulk(ctx context.Context, direction string, ask byte) (AttachBulk, error) {
	f, err := b.startFlood(1, ask)
	if err != nil {
		return AttachBulk{}, err
	}
	defer f.stop()
	rates, refused := map[string][]rate{}, map[string]string{}
	for round := range b.Rounds {
		for i := range places {
			place := places[(round+i)%len(places)]
			if refused[place] != "" {
				continue
			}
			why, err := b.in(ctx, 1, place, func() error {
				r, err := b.rate(ctx, f)
				rates[place] = append(rates[place], r)
				return err
			})
			if err != nil {
				return AttachBulk{}, err
			}
			if why != nil {
				refused[place] = why.Error()
			}
		}
	}
	return newAttachBulk(direction, rates, refused), nil
}

// A moveLoad is what connections carry while they move.
type moveLoad struct {
	name  string
	conns int
	ask   byte
	pause time.Duration // between moves
}

var moveLoads = []moveLoad{
	{"one, idle", 1, askIdle, 0},
	{"one, bulk send", 1, askSend, 10 * time.Millisecond},
	{"one, bulk receive", 1, askReceive, 10 * time.Millisecond},
	{fmt.Sprintf("%d at once, idle", attachBatch), attachBatch, askIdle, 0},
}

// start begins the load; stop ends it.
func (b *bench) start(l moveLoad) (stop func(), err error) {
	if l.ask != askIdle {
		f, err := b.startFlood(l.conns, l.ask)
		if err != nil {
			return nil, err
		}
		return f.stop, nil
	}
	var conns []io.Closer
	stop = func() {
		for _, c := range conns {
			c.Close()
		}
	}
	for range l.conns {
		c, err := b.ask(l.ask)
		if err != nil {
			stop()
			return nil, err
		}
		c.(*net.TCPConn).SetKeepAlive(false)
		conns = append(conns, c)
	}
	return stop, nil
}

func (b *bench) attachedMoves(ctx context.Context, l moveLoad) (AttachMoves, error) {
	stop, err := b.start(l)
	if err != nil {
		return AttachMoves{}, err
	}
	defer stop()
	if err := wait(ctx, min(settle, b.Window)); err != nil {
		return AttachMoves{}, err
	}
	row := AttachMoves{Load: l.name, Attachments: map[string]AttachMove{}}
	for _, place := range places[1:] {
		m, err := b.movesTo(ctx, l, place)
		if err != nil {
			return row, fmt.Errorf("%s: %w", place, err)
		}
		row.Attachments[place] = m
	}
	return row, nil
}

// movesTo moves a load's connections to a place and home, by turns.
func (b *bench) movesTo(ctx context.Context, l moveLoad, place string) (AttachMove, error) {
	var off, up moveSet
	for range max(1, b.Moves/l.turns()) {
		r, err := b.enter(ctx, l.conns, place)
		var why *refusal
		if errors.As(err, &why) {
			return AttachMove{Refused: why.Error()}, nil
		}
		if err != nil {
			return AttachMove{}, err
		}
		off.add(l.each(r))
		if err := wait(ctx, l.pause); err != nil {
			return AttachMove{}, err
		}
		if r, err = b.leave(ctx, l.conns, place); err != nil {
			return AttachMove{}, err
		}
		up.add(l.each(r))
		if err := wait(ctx, l.pause); err != nil {
			return AttachMove{}, err
		}
	}
	return AttachMove{Offload: off.quantiles(), Upload: up.quantiles()}, nil
}

// turns is by how much less often many are moved than one.
func (l *moveLoad) turns() int {
	if l.conns > 1 {
		return 5
	}
	return 1
}

// each is one entry for a request that moves many: they all took the same
// share of it.
func (l *moveLoad) each(r driver.Result) driver.Result {
	if l.conns > 1 {
		stalls := make([]int64, 0, len(r.Moved))
		for _, m := range r.Moved {
			stalls = append(stalls, m.Stall)
		}
		r.Moved = []driver.Moved{{Took: r.Wall / int64(l.conns), Stall: rig.Quantile(stalls, 1)}}
	}
	return r
}
